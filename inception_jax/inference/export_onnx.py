"""Export to ONNX: the rows of a table, as `models.layers` runs them, become a graph of ONNX operators in NCHW."""

from __future__ import annotations

import os
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from inception_jax.errors import UserError
from inception_jax.inference.export_stablehlo import check_exportable
from inception_jax.inference.fold_and_fuse import Params, for_inference
from inception_jax.models import layers, sizes, spec
from inception_jax.models.inputs import Preprocess
from inception_jax.models.network import InceptionNet
from inception_jax.paths import check_output, write_bytes
from inception_jax.version import __version__
from inception_jax.weights.files import Weights, to_json

if TYPE_CHECKING:
    import onnx

OPSET, IR_VERSION = 17, 8  # of 2022: every operator is there, and old runtimes read it


class Value(NamedTuple):
    """A value [B, C, height, width] of the graph."""

    name: str
    height: int
    width: int


def export_onnx(path: str | os.PathLike, weights: Weights, overwrite: bool = False) -> None:
    """Writes the network with its parameters for ONNX runtimes, for any number of images.

    Raises:
      UserError: `onnx` is not installed, the weights have neither classifier nor embedding, the file exists, or it
        cannot be written.
    """
    check_output(path, overwrite)
    write_bytes(path, onnx_model(weights).SerializeToString(), overwrite)


def onnx_model(weights: Weights) -> onnx.ModelProto:
    """Returns the graph: `images` [batch, size, size, C] uint8 -> `logits` and `probabilities` [batch, K] float32.

    A network with an embedding also has the output `embedding` [batch, D]; one without classifier has no other. The
    metadata entry "info" holds `weights.WeightsInfo` as JSON.

    Raises:
      UserError: `onnx` is not installed, or the weights have neither classifier nor embedding.
    """
    onnx = _import_onnx()
    check_exportable(weights)
    model, params = for_inference(weights.create_model(aux=False), weights.variables)
    info, helper = weights.info, onnx.helper
    graph = Graph(model.numerics)
    graph.network(model, params, info.preprocess)
    size, types = info.preprocess.size, onnx.TensorProto
    widths = dict.fromkeys(("logits", "probabilities"), info.num_classes) if info.num_classes else {}
    widths |= {"embedding": info.head.rows[-1].features} if info.head.embedding else {}
    outputs = [helper.make_tensor_value_info(name, types.FLOAT, ["batch", n]) for name, n in widths.items()]
    images = helper.make_tensor_value_info("images", types.UINT8, ["batch", size, size, info.in_channels])
    made = helper.make_model(
        helper.make_graph(graph.nodes, info.model, [images], outputs, graph.constants),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="inception_jax",
        producer_version=__version__,
    )
    helper.set_model_props(made, {"info": to_json(info)})
    return made


class Graph:
    """The nodes and constants of an ONNX graph, written row by row; a node has the name of the network's module.

    The network has no batch norms: `for_inference` folded them.
    """

    def __init__(self, numerics: spec.Numerics):
        self.numerics = numerics
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._onnx = _import_onnx()

    def network(self, model: InceptionNet, params: Params, preprocess: Preprocess) -> None:
        """Writes the whole network, from `images` to `logits` and `probabilities`, and to `embedding`."""
        self.node("Cast", "images", name="pixels", to=self._onnx.TensorProto.FLOAT)
        mean, std = (self.constant(field, np.array(getattr(preprocess, field))) for field in ("mean", "std"))
        self.node("Sub", "pixels", mean, name="centred")
        self.node("Div", "centred", std, name="normalised")
        x = Value(self.node("Transpose", "normalised", name="NCHW", perm=[0, 3, 1, 2]), *2 * (preprocess.size,))
        for name, row in model.table.items():
            module = spec.module_name(name, row)
            x = self.row(row, x, params.get(module, {}), module)
        x = Value(self.node("GlobalAveragePool", x.name, name="average"), 1, 1)
        x = self.rows(model.head.rows, x, params.get("head", {}), "head", "rows")
        features = self.node("Flatten", x.name, name="features" if model.head.rows else "pooled")
        if model.head.embedding:
            self.unit_length(features)
        if model.num_classes:
            linear = params["classifier"]["linear"]
            weight, bias = (self.constant(f"classifier/{leaf}", linear[leaf]) for leaf in ("kernel", "bias"))
            self.node("Gemm", features, weight, bias, name="logits")
            self.node("Softmax", "logits", name="probabilities", axis=-1)

    def unit_length(self, features: str) -> None:
        """Writes `embedding`, as `layers.unit_length` computes it."""
        length = self.node("ReduceL2", features, name="length", axes=[-1], keepdims=1)
        above_zero = self.node("Max", length, self.constant("least length", np.array(1e-12)), name="positive length")
        self.node("Div", features, above_zero, name="embedding")

    def row(self, row: spec.Row | spec.Block, x: Value, params: Params, path: str) -> Value:
        """Writes one row of a table, as `layers.run_row` runs it."""
        match row:
            case spec.Conv():
                x = self.convolution(row, x, params["conv"], path)
                return self.relu(x, path) if row.relu else x
            case spec.SeparableConv():
                x = self.convolution(row, x, params["depthwise"], f"{path}/depthwise")
                x = self.convolution(spec.Conv(row.features), x, params["pointwise"], f"{path}/pointwise")
                return self.relu(x, path) if row.relu else x
            case spec.Pool():
                return self.pool(row, x, path)
            case spec.AdaptivePool():
                return self.adaptive_pool(row.output, x, path)
            case spec.LocalResponseNorm():
                values = {"size": row.size, "alpha": row.alpha, "beta": row.beta, "bias": row.k}
                return x._replace(name=self.node("LRN", x.name, name=path, **values))
            case spec.Relu():
                return self.relu(x, path)
            case spec.Channels():
                limits = (self.constant(f"{path}/{n}", np.array([n])) for n in (row.start, row.stop))
                return x._replace(name=self.node("Slice", x.name, *limits, self.axis(), name=path))
            case spec.Residual():
                return self.residual(row, x, params, path)
            case branches:
                ends = [self.rows(rows, x, params, path, f"branch{i}") for i, rows in enumerate(branches, start=1)]
                return ends[0]._replace(name=self.node("Concat", *(end.name for end in ends), name=path, axis=1))

    def rows(self, rows: spec.Branch, x: Value, params: Params, path: str, prefix: str) -> Value:
        """Writes a chain of rows."""
        for j, row in enumerate(rows):
            name = f"{prefix}_{j}"
            x = self.row(row, x, params.get(name, {}), f"{path}/{name}")
        return x

    def convolution(self, row: spec.Conv | spec.SeparableConv, x: Value, params: Params, path: str) -> Value:
        """Writes the convolution alone: a depthwise one of a separable row."""
        kernel = params["kernel"].transpose(3, 2, 0, 1)
        group = len(kernel) // row.multiplier if isinstance(row, spec.SeparableConv) else 1
        leaves = [self.constant(f"{path}/kernel", kernel)]
        leaves += [self.constant(f"{path}/bias", params["bias"])] if "bias" in params else []
        windows = self.windows(x, row.kernel, row.stride, row.padding, self.numerics.conv_same)
        return self.windowed("Conv", x, windows, *leaves, name=f"{path}/conv", group=group)

    def pool(self, row: spec.Pool, x: Value, path: str) -> Value:
        """Writes a max or average pool."""
        windows = self.windows(x, 2 * (row.window,), row.stride, row.padding, self.numerics.pool_same)
        if row.kind == "max":
            return self.windowed("MaxPool", x, windows, name=path)
        return self.windowed("AveragePool", x, windows, name=path, count_include_pad=int(self.numerics.count_padding))

    def adaptive_pool(self, output: int, x: Value, path: str) -> Value:
        """Writes the averages as products with matrices, of columns and then of rows."""
        if output == 1:
            return Value(self.node("GlobalAveragePool", x.name, name=path), 1, 1)
        columns = self.constant(f"{path}/columns", layers.averages(x.width, output).T)
        rows = self.constant(f"{path}/rows", layers.averages(x.height, output))
        narrow = self.node("MatMul", x.name, columns, name=f"{path}/narrow")
        return Value(self.node("MatMul", rows, narrow, name=path), output, output)

    def residual(self, row: spec.Residual, x: Value, params: Params, path: str) -> Value:
        """Writes ReLU(shortcut + scale * up(rows))."""
        end = self.rows(row.rows, x, params, path, "rows")
        if row.up:
            end = self.convolution(spec.Conv(0), end, params["up"]["conv"], f"{path}/up")
        if row.shortcut is not None:
            x = self.row(row.shortcut, x, params["shortcut"], f"{path}/shortcut")
        scaled = end.name
        if row.scale != 1:
            scaled = self.node(
                "Mul", scaled, self.constant(f"{path}/scale", np.array(row.scale)), name=f"{path}/scaled"
            )
        total = x._replace(name=self.node("Add", x.name, scaled, name=f"{path}/sum"))
        return self.relu(total, path) if row.relu else total

    def relu(self, x: Value, path: str) -> Value:
        return x._replace(name=self.node("Relu", x.name, name=path))

    def windowed(self, operator: str, x: Value, windows: Windows, *inputs: str, name: str, **attributes: Any) -> Value:
        """Writes an operator that slides a window; returns its output."""
        attributes |= windows.attributes()
        return Value(self.node(operator, x.name, *inputs, name=name, **attributes), *windows.sizes(x))

    def windows(self, x: Value, window: tuple[int, int], stride: int, padding: spec.Padding, rule: str) -> Windows:
        paddings = (sizes.explicit_padding(n, k, stride, padding, rule) for n, k in zip(x[1:], window, strict=True))
        return Windows(window, stride, *paddings)

    def axis(self) -> str:
        """Returns the constant that names the axis of the channels."""
        if not any(each.name == "channels" for each in self.constants):
            self.constant("channels", np.array([1]))
        return "channels"

    def constant(self, name: str, array: np.ndarray) -> str:
        """Adds float32 or int64 numbers; returns their name."""
        kind = np.float32 if np.issubdtype(array.dtype, np.floating) else np.int64
        self.constants.append(self._onnx.numpy_helper.from_array(np.ascontiguousarray(array, kind), name))
        return name

    def node(self, operator: str, *inputs: str, name: str, **attributes: Any) -> str:
        """Adds a node with one output, which has its name; returns that."""
        self.nodes.append(self._onnx.helper.make_node(operator, inputs, [name], name, **attributes))
        return name


class Windows(NamedTuple):
    """The windows of an operator: size, stride, and the (low, high) padding of rows and columns."""

    window: tuple[int, int]
    stride: int
    rows: tuple[int, int]
    columns: tuple[int, int]

    def attributes(self) -> dict[str, Any]:
        """Returns them as attributes of an ONNX operator."""
        (top, bottom), (left, right) = self.rows, self.columns
        strides = [self.stride, self.stride]
        return {"kernel_shape": list(self.window), "strides": strides, "pads": [top, left, bottom, right]}

    def sizes(self, x: Value) -> tuple[int, int]:
        """Returns height and width of the output."""
        height, width = (
            (size + sum(padding) - window) // self.stride + 1
            for size, padding, window in zip(x[1:], (self.rows, self.columns), self.window, strict=True)
        )
        return height, width


def _import_onnx() -> ModuleType:
    try:
        import onnx
        import onnx.helper
        import onnx.numpy_helper
    except ImportError as error:
        raise UserError(f"Writing ONNX needs the package onnx (pip install 'inception-jax[onnx]'): {error}.") from error
    return onnx
