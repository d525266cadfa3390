"""Frozen TensorFlow graphs: a protocol buffer `GraphDef` whose constants are the weights. TensorFlow is not needed.

The graph behind the FID, classify_image_graph_def.pb of 2015, is one. Its batch norms are operators that have a scale
(gamma) among their inputs whether they use it or not; one that is not used is no weight.
"""

from __future__ import annotations

import collections
import functools
import math
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from inception_jax.paths import read_bytes
from inception_jax.weights.readers.budget import Budget
from inception_jax.weights.readers.formats import Items
from inception_jax.weights.readers.protobuf import message_classes
from inception_jax.weights.readers.refusal import Refused
from inception_jax.weights.readers.statement import Statement, without_noise

FIELDS = {
    "Dim": (("size", 1, "int64"),),
    "TensorShapeProto": (("dim", 2, "Dim", list),),
    "TensorProto": (
        ("dtype", 1, "int32"),
        ("tensor_shape", 2, "TensorShapeProto"),
        ("tensor_content", 4, "bytes"),
        ("float_val", 5, "float", list),
        ("double_val", 6, "double", list),
    ),
    "AttrValue": (("f", 4, "float"), ("b", 5, "bool"), ("tensor", 8, "TensorProto")),
    "AttrEntry": (("key", 1, "string"), ("value", 2, "AttrValue")),  # of a map
    "NodeDef": (
        ("name", 1, "string"),
        ("op", 2, "string"),
        ("input", 3, "string", list),
        ("attr", 5, "AttrEntry", list),
    ),
    "GraphDef": (("node", 1, "NodeDef", list),),
}
DTYPES = {1: np.dtype(np.float32), 2: np.dtype(np.float64), 14: np.dtype(ml_dtypes.bfloat16), 19: np.dtype(np.float16)}
"""By number in `DataType`; constants of other types are arguments of operators."""
NORM = "BatchNormWithGlobalNormalization"
"""The operator of 2015. Its inputs are x, mean, variance, beta and gamma."""


def read(path: Path, budget: Budget) -> Items:
    """Yields the constants of a graph by name, and the epsilon of its batch norms.

    Constants without dimensions, such as a factor, are arguments of operators and are left out, as are integers.

    Raises:
      Refused: there is no constant, the size of one does not match its shape, its batch norms have several epsilons, or
        the file exceeds the budget.
    """
    graph = classes()["GraphDef"].FromString(read_bytes(path, budget.limits.bytes))
    unused: set[str] = set()
    epsilons: set[float] = set()
    for node in graph.node:
        budget.entry()
        if node.op == NORM and len(node.input) == 5:
            attributes = collections.defaultdict(classes()["AttrValue"], {each.key: each.value for each in node.attr})
            epsilons.add(without_noise(attributes["variance_epsilon"].f))
            if not attributes["scale_after_normalization"].b:
                unused.add(node.input[4])
    if len(epsilons) > 1:
        raise Refused(f"its batch norms have several epsilons, {sorted(epsilons)[:4]}")
    for node in graph.node:
        if node.op == "Const" and node.name not in unused:
            tensor = next((each.value.tensor for each in node.attr if each.key == "value"), None)
            if tensor is not None and tensor.dtype in DTYPES and tensor.tensor_shape.dim:
                yield node.name, _array(node.name, tensor, budget)
    if epsilons:
        yield Statement(epsilon=epsilons.pop())


def _array(name: str, tensor: Any, budget: Budget) -> np.ndarray:
    """Returns the values of a tensor; a single value stands for all."""
    shape, dtype = tuple(each.size for each in tensor.tensor_shape.dim), DTYPES[tensor.dtype]
    values = tensor.float_val or tensor.double_val
    budget.tensor(name, shape, dtype.itemsize, len(tensor.tensor_content) if tensor.tensor_content else None)
    if tensor.tensor_content:
        found = np.frombuffer(tensor.tensor_content, dtype.newbyteorder("<"))
    else:
        found = np.fromiter(values, dtype, len(values))
        if found.size == 1:
            return np.full(shape, found[0])
    if found.size != math.prod(shape):
        raise Refused(f"{name!r} has {found.size} values and the shape {shape}")
    return found.reshape(shape)


@functools.cache
def classes() -> dict[str, Any]:
    """Returns the message classes by name."""
    return message_classes("tensorflow", FIELDS)
