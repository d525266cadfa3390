"""Layers of an ONNX graph: convolutions with what follows them, linear layers, and the other operators."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from inception_jax.weights.readers.formats import Items
from inception_jax.weights.readers.refusal import Refused
from inception_jax.weights.readers.statement import Operator, Statement, without_noise

if TYPE_CHECKING:
    from inception_jax.weights.readers.onnx_graph import Graph

SAME_VALUE = ("Identity", "Cast", "Dropout")
SHAPE_ONLY = ("Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose", "Concat", "Softmax", "LogSoftmax")
LENGTHS = ("ReduceL2", "LpNormalization", "Max", "Clip", "Expand")  # of an embedding, to divide by
GLOBAL_POOLS = ("GlobalAveragePool", "ReduceMean")
ROUNDING = {"SAME_UPPER": "tf", "VALID": "floor", "NOTSET": "floor"}


@dataclasses.dataclass(eq=False)
class Unit:
    """A convolution or a linear layer, and the batch norm or the factors that follow it.

    Attributes:
      weight: [outputs, inputs, height, width], or [outputs, inputs] of a linear layer.
      bias: [outputs], or None.
      depthwise: the kernel [channels, 1, height, width] of the depthwise convolution in front of it, or None.
      norm: scale, bias, mean and variance of the batch norm, or None.
      has_relu: whether a ReLU follows, if the unit is shared or linear.
    """

    weight: np.ndarray
    bias: np.ndarray | None = None
    depthwise: np.ndarray | None = None
    norm: list[np.ndarray] | None = None
    has_relu: bool = False

    def scale(self, factor: np.ndarray, offset: np.ndarray) -> None:
        """Multiplies the output by `factor` and adds `offset`, one number for each channel."""
        if self.norm is not None:
            scale, bias, mean, variance = self.norm
            self.norm = [scale * factor, bias * factor + offset, mean, variance]
            return
        axes = (-1,) + (1,) * (self.weight.ndim - 1)
        self.weight = self.weight * factor.reshape(axes)
        self.bias = (0 if self.bias is None else self.bias * factor) + offset

    def items(self, layer: str, norm: str) -> Items:
        """Yields the tensors by name."""
        yield f"{layer}.weight", self.weight
        if self.depthwise is not None:
            yield f"{layer}.depthwise", self.depthwise
        if self.bias is not None:
            yield f"{layer}.bias", self.bias
        if self.norm is not None:
            for leaf, array in zip(("weight", "bias", "running_mean", "running_var"), self.norm, strict=True):
                yield f"{norm}.{leaf}", array


class Layers:
    """Turns the nodes of a graph, in its order, into units and operators."""

    def __init__(self, graph: Graph):
        self._graph = graph
        self._units: list[Unit] = []
        self._linear: list[Unit] = []
        self._operators: list[Operator] = []
        self._images = set(graph.inputs)  # values that no convolution has made
        self._on_images: dict[str, None] = {}  # kinds of operators that change them
        self._open: dict[str, Unit] = {}  # values that are the output of a unit, on which nothing but ReLU acted
        self._depthwise: dict[str, np.ndarray] = {}
        self._pooled: set[str] = set()  # values behind global average pooling
        self._epsilons: set[float] = set()
        self._embedding: Unit | None = None  # whose output is divided by its length

    def add(self, node: Any) -> None:
        """Takes the next node.

        Raises:
          Refused: these networks do not have such an operator, or not there.
        """
        kind, data = node.op_type, self._graph.data(node)
        if kind == "Conv":
            return self._convolution(node)
        if data and all(name in self._images for name in data):
            if kind not in SAME_VALUE and kind not in SHAPE_ONLY[:5]:
                self._on_images[kind] = None
            return self._images.update(node.output)
        if data and all(name in self._pooled for name in data) and (kind in LENGTHS or len(data) == 2):
            return self._length(node)
        if kind in ("Gemm", "MatMul"):
            self._linear_layer(node)
        elif kind == "BatchNormalization":
            self._norm(node)
        elif kind in ("Add", "Sub", "Mul", "Div", "Sum"):
            self._arithmetic(node, data)
        elif kind == "Relu":
            self._relu(node)
        elif kind == "Slice":
            self._slice(node)
        elif kind in ("MaxPool", "AveragePool"):
            self._pool(node)
        elif kind == "LRN":
            fields = {"alpha": 1e-4, "beta": 0.75, "bias": 1.0} | self._graph.attributes(node)
            values = tuple(without_noise(fields[key]) for key in ("size", "alpha", "beta", "bias"))
            self._operators.append(Operator("lrn", values=values))
        elif kind not in (*SAME_VALUE, *SHAPE_ONLY, *GLOBAL_POOLS, "Constant"):
            raise Refused(f"it has the operator {kind}, which these networks do not have")
        is_pooled = bool(data) and all(name in self._pooled for name in data)
        if kind in GLOBAL_POOLS or is_pooled:
            self._pooled.update(node.output)
        if kind in SAME_VALUE or (is_pooled and kind in SHAPE_ONLY):
            self._open |= {node.output[0]: self._open[node.input[0]]} if node.input[0] in self._open else {}

    def items(self, info: str) -> Items:
        """Yields all tensors, and what the graph states."""
        if self._depthwise:
            raise Refused("a depthwise convolution in it is followed by something other than a 1x1 convolution")
        if len(self._epsilons) > 1:
            raise Refused(f"its batch norms have several epsilons, {sorted(self._epsilons)[:4]}")
        last = self._operators[-1] if self._operators else None
        if last and last.kind == "conv" and not self._linear:  # a classifier that is a 1x1 convolution
            unit = self._units.pop()
            self._linear.append(Unit(unit.weight.reshape(last.shape[:2]), unit.bias))
            self._operators.pop()
        for i, unit in enumerate(self._units, start=1):
            yield from unit.items(f"conv_{i}", f"bn_{i}")
        yield from self._linear_items()
        sizes = next(iter(self._graph.inputs.values()), ())
        if len(sizes) == 4 and sizes[1] > sizes[3] > 0:  # [batch, height, width, channels]
            sizes = (sizes[0], sizes[3], *sizes[1:3])
        obstacle = f"its operators {', '.join(self._on_images)} change the images before the first convolution"
        yield Statement(
            obstacle=obstacle if self._on_images and not info else "",
            epsilon=self._epsilons.pop() if self._epsilons else None,
            operators=tuple(self._operators),
            input_size=sizes[2:] if len(sizes) == 4 and min(sizes[2:]) > 0 and not info else (),
            info=info,
            embedding=self._embedding is not None,
        )

    def _linear_items(self) -> Items:
        """Yields the tensors of the linear layers; the last is the classifier, unless it is an embedding.

        A layer without ReLU in front of the classifier is an embedding, too: so the networks of facenet are trained.
        """
        hidden = (
            self._linear[:-1] if self._embedding is None or self._embedding is not self._linear[-1] else self._linear
        )
        if hidden and not hidden[-1].has_relu:
            self._embedding = self._embedding or hidden[-1]
        for j, unit in enumerate(self._linear, start=1):
            if j <= len(hidden) and unit.has_relu == (unit is self._embedding):
                raise Refused(f"its linear layer {j} is followed by another one without ReLU between them")
            name = f"linear_{j}" if j <= len(hidden) else "classifier"
            yield from unit.items(name, f"{name}.bn")

    def _length(self, node: Any) -> None:
        """Takes a step of the division of an embedding by its length."""
        if node.op_type in ("ReduceL2", "LpNormalization"):
            self._embedding = self._open.get(node.input[0])
        elif node.op_type not in (*LENGTHS, "Div") or self._embedding is None:
            raise Refused(f"its {node.op_type} {node.name!r} has no place in these networks")
        self._pooled.update(node.output)

    def _constant(self, node: Any, index: int) -> np.ndarray | None:
        """Returns the constant that is input `index` of a node; None: it has no such input.

        Raises:
          Refused: the input is computed.
        """
        name = node.input[index] if index < len(node.input) else ""
        found = self._graph.constant(name) if name else None
        if name and found is None:
            raise Refused(f"input {index} of its {node.op_type} {node.name!r} is no constant")
        return found

    def _weight(self, node: Any) -> np.ndarray:
        weight = self._constant(node, 1)
        if weight is None or weight.ndim not in (2, 4):
            raise Refused(f"its {node.op_type} {node.name!r} has no kernel of images")
        return weight

    def _convolution(self, node: Any) -> None:
        fields, weight, bias = self._graph.attributes(node), self._weight(node), self._constant(node, 2)
        group, value = fields.get("group", 1), node.input[0]
        if weight.ndim != 4 or set(fields.get("dilations", (1,))) != {1} or (group > 1 and weight.shape[1] > 1):
            raise Refused(f"its Conv {node.name!r} is dilated, has groups, or is not of images")
        if value in self._pooled:
            self._pooled.update(node.output)
            return self._append_linear(node, Unit(weight.reshape(weight.shape[:2]), bias))
        operator = self._windowed("depthwise" if group > 1 else "conv", weight.shape, fields)
        if group > 1:
            if bias is not None:
                raise Refused(f"its depthwise Conv {node.name!r} has a bias")
            self._depthwise[node.output[0]] = weight
            self._operators.append(operator)
            return None
        unit = Unit(weight, bias, self._depthwise.pop(value, None))
        self._open[node.output[0]] = unit
        if not self._is_shared(node.output[0]):
            self._units.append(unit)
            self._operators.append(operator)
        return None

    def _is_shared(self, name: str) -> bool:
        """Returns whether all that reads a value, behind ReLU, takes slices of its channels: a merged convolution."""
        readers = self._graph.readers.get(name, [])
        if len(readers) == 1 and readers[0].op_type == "Relu":
            readers = self._graph.readers.get(readers[0].output[0], [])
        return bool(readers) and all(reader.op_type == "Slice" for reader in readers)

    def _slice(self, node: Any) -> None:
        """Takes the share of one branch in a convolution that several branches read."""
        shared = self._open.get(node.input[0])
        start, stop, axis, step = (self._constant(node, i) for i in (1, 2, 3, 4))
        if shared is None or start is None or stop is None or axis is None or axis.item() != 1 or step is not None:
            raise Refused(f"its Slice {node.name!r} does not take channels of a convolution")
        channels = slice(int(start.item()), int(stop.item()))
        unit = Unit(shared.weight[channels], None if shared.bias is None else shared.bias[channels])
        self._units.append(unit)
        self._operators += [Operator("conv", unit.weight.shape), *([Operator("relu")] if shared.has_relu else [])]

    def _norm(self, node: Any) -> None:
        unit = self._open.get(node.input[0])
        leaves = [self._constant(node, i) for i in (1, 2, 3, 4)]
        if unit is None or unit.norm is not None:
            raise Refused(f"its BatchNormalization {node.name!r} does not follow a convolution")
        unit.norm = [leaf for leaf in leaves if leaf is not None]
        self._epsilons.add(without_noise(self._graph.attributes(node).get("epsilon", 1e-5)))
        self._open[node.output[0]] = unit

    def _arithmetic(self, node: Any, data: list[str]) -> None:
        """Takes a sum of activations, or a number for each channel, which becomes part of a convolution."""
        constants = [self._graph.constant(name) for name in node.input]
        number = next((each for each in constants if each is not None), None)
        if number is None and node.op_type in ("Add", "Sum") and len(data) == 2:
            self._operators.append(Operator("add"))
            return
        unit = self._open.get(data[0]) if data else None
        is_reversed = node.op_type in ("Sub", "Div") and constants[0] is not None
        if number is None or is_reversed or len(node.input) != 2:
            raise Refused(f"its {node.op_type} {node.name!r} has no place in these networks")
        if number.size == 1 and node.op_type in ("Mul", "Div") and (unit is None or len(unit.weight) > 1):
            factor = float(number.item()) if node.op_type == "Mul" else 1 / float(number.item())
            self._operators += [Operator("scale", values=(without_noise(factor),))] * (factor != 1)
            return
        if unit is None or number.size != len(unit.weight):
            raise Refused(f"its {node.op_type} {node.name!r} is by numbers that belong to no convolution before it")
        flat, ones = number.reshape(-1), np.ones(number.size, np.float32)
        factor, offset = {
            "Mul": (flat, 0 * ones),
            "Div": (ones / flat, 0 * ones),
            "Add": (ones, flat),
            "Sub": (ones, -flat),
        }[node.op_type]
        unit.scale(factor, offset)
        self._open[node.output[0]] = unit

    def _relu(self, node: Any) -> None:
        value = node.input[0]
        unit = self._open.get(value)
        if unit is not None and self._is_shared(value):
            unit.has_relu = True
            self._open[node.output[0]] = unit
        elif value in self._pooled:
            if unit is not None:
                unit.has_relu = True
        else:
            self._operators.append(Operator("relu"))

    def _pool(self, node: Any) -> None:
        fields = self._graph.attributes(node)
        kind = "max" if node.op_type == "MaxPool" else "avg"
        operator = self._windowed(kind, tuple(fields["kernel_shape"]), fields)
        if kind == "avg":
            operator = operator._replace(values=(float(fields.get("count_include_pad", 0)),))
        self._operators.append(operator)

    def _windowed(self, kind: str, shape: tuple[int, ...], fields: dict[str, Any]) -> Operator:
        padding = fields.get("auto_pad", b"NOTSET").decode()
        if padding not in ROUNDING:
            raise Refused(f"it has an operator with the padding {padding}; {', '.join(ROUNDING)} are read")
        rounding = "ceil" if fields.get("ceil_mode") else ROUNDING[padding]
        strides, pads = fields.get("strides", (1, 1)), fields.get("pads", (0, 0, 0, 0))
        return Operator(kind, tuple(shape), tuple(strides), tuple(pads), rounding)

    def _linear_layer(self, node: Any) -> None:
        fields, weight = self._graph.attributes(node), self._weight(node)
        if weight.ndim != 2 or fields.get("transA") or {fields.get("alpha", 1.0), fields.get("beta", 1.0)} != {1.0}:
            raise Refused(f"its {node.op_type} {node.name!r} is no linear layer")
        bias = self._constant(node, 2)
        unit = Unit(weight if fields.get("transB") else weight.T, None if bias is None else bias.reshape(-1))
        self._append_linear(node, unit)

    def _append_linear(self, node: Any, unit: Unit) -> None:
        self._linear.append(unit)
        self._open[node.output[0]] = unit
