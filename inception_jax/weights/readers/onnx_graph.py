"""ONNX graphs. Their tensors are numbered in the order of the graph, because exporters rename or fold them.

| tensors | of |
|---|---|
| conv_i.weight, conv_i.bias | convolution i, counted from 1; a depthwise one in front of it is conv_i.depthwise |
| bn_i.weight, .bias, .running_mean, .running_var | the batch norm of convolution i; exporters often fold it into it |
| linear_j.weight, linear_j.bias | linear layer j behind global average pooling, except the last |
| classifier.weight, classifier.bias | the last linear layer |

The order is that of the branches of each concatenation, and in a residual of its rows before its shortcut. The
operators are stated beside the tensors, so that a model can be compared with all of the graph.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from inception_jax.paths import read_bytes
from inception_jax.weights.readers.budget import Budget
from inception_jax.weights.readers.formats import Items
from inception_jax.weights.readers.onnx_layers import Layers
from inception_jax.weights.readers.refusal import MissingPackage, Refused

SHAPING = ("Identity", "Cast", "Unsqueeze", "Squeeze", "Reshape", "Dropout", "Flatten", "Transpose")
"""Operators whose first input is the data, and that change no value."""
MAX_SHAPING = 8  # operators between a constant and what reads it
ALL_INPUTS = ("Concat", "Add", "Sub", "Mul", "Div", "Sum", "MatMul")
OURS = "inception_jax"


def prepare() -> Any:
    """Returns the package onnx.

    Raises:
      MissingPackage: it is not installed.
    """
    try:
        import onnx
        import onnx.helper
        import onnx.numpy_helper
    except ImportError as error:
        raise MissingPackage("the package onnx: pip install 'inception-jax[onnx]'") from error
    return onnx


def read(path: Path, budget: Budget) -> Items:
    """Yields the tensors of a graph under the names above, and what it states.

    Raises:
      MissingPackage: onnx.
      Refused: the graph has operators that these networks do not have, its tensors lie in other files, or it exceeds
        the budget.
    """
    onnx = prepare()
    model = onnx.ModelProto.FromString(read_bytes(path, budget.limits.bytes))
    graph = Graph(onnx, model.graph, budget)
    layers = Layers(graph)
    for node in graph.ordered():
        layers.add(node)
    info = {each.key: each.value for each in model.metadata_props} if model.producer_name == OURS else {}
    yield from layers.items(info.get("info", ""))


class Graph:
    """The nodes and the constants of a graph."""

    def __init__(self, onnx: Any, graph: Any, budget: Budget):
        self._onnx, self._budget = onnx, budget
        self._stored = {each.name: each for each in graph.initializer}
        self._arrays: dict[str, np.ndarray] = {}
        self._makers: dict[str, Any] = {}
        self.readers: dict[str, list[Any]] = {}
        """The nodes that read a value."""
        self.outputs = [each.name for each in graph.output]
        self.inputs = {each.name: _sizes(each) for each in graph.input if each.name not in self._stored}
        """The sizes of each input of the graph; 0: any."""
        self._depths: dict[str, int] = {}
        for node in graph.node:
            budget.entry()
            self._makers |= dict.fromkeys(node.output, node)
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
            depth = 1 + max((self._depths.get(name, 0) for name in node.input), default=0)
            self._depths |= dict.fromkeys(node.output, depth)

    def ordered(self) -> Iterator[Any]:
        """Yields the nodes that the outputs of the graph depend on, each after those that it depends on."""
        begun: set[str] = set()
        waiting: list[tuple[str, bool]] = [(name, False) for name in reversed(self.outputs)]
        while waiting:
            name, is_ready = waiting.pop()
            node = self._makers.get(name)
            if is_ready:
                yield node
            elif node is not None and node.output[0] not in begun:
                begun.add(node.output[0])
                waiting.append((name, True))
                waiting += [(each, False) for each in reversed(self.data(node))]

    def data(self, node: Any) -> list[str]:
        """Returns the inputs of a node that are computed from images; of a sum, the one with most operators first."""
        names = list(node.input if node.op_type in ALL_INPUTS else node.input[:1])
        names = [name for name in names if self.constant(name) is None]
        return sorted(names, key=lambda name: -self._depths.get(name, 0)) if node.op_type in ("Add", "Sum") else names

    def constant(self, name: str, depth: int = 0) -> np.ndarray | None:
        """Returns the values of a constant, also through operators that shape or transpose it; None: it is none."""
        if name in self._arrays:
            return self._arrays[name]
        if name in self._stored:
            return self._keep(name, self._stored[name])
        node = self._makers.get(name)
        if node is not None and node.op_type == "Constant":
            value = self.attributes(node).get("value")
            return None if value is None else self._keep(name, value)
        if node is None or node.op_type not in SHAPING or not node.input or depth == MAX_SHAPING:
            return None
        found = self.constant(node.input[0], depth + 1)
        if found is None or node.op_type != "Transpose":
            return found
        return found.transpose(self.attributes(node).get("perm", range(found.ndim)[::-1]))

    def _keep(self, name: str, tensor: Any) -> np.ndarray:
        if tensor.data_location == self._onnx.TensorProto.EXTERNAL:
            raise Refused(f"{name!r} lies in another file; save the model with its tensors in one file")
        dtype = self._onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        lists = (tensor.float_data, tensor.double_data, tensor.int32_data, tensor.int64_data, tensor.uint64_data)
        stored = len(tensor.raw_data) or dtype.itemsize * max(map(len, lists))
        self._budget.tensor(name, tensor.dims, dtype.itemsize, stored)
        self._arrays[name] = self._onnx.numpy_helper.to_array(tensor)
        return self._arrays[name]

    def attributes(self, node: Any) -> dict[str, Any]:
        """Returns the attributes of a node by name."""
        return {each.name: self._onnx.helper.get_attribute_value(each) for each in node.attribute}


def _sizes(value: Any) -> tuple[int, ...]:
    return tuple(each.dim_value for each in value.type.tensor_type.shape.dim)
