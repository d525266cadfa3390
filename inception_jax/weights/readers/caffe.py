"""Caffe's .caffemodel: a protocol buffer `NetParameter`. Only the fields that hold weights are declared here."""

from __future__ import annotations

import functools
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np

from inception_jax.paths import read_bytes
from inception_jax.weights.readers.budget import Budget
from inception_jax.weights.readers.formats import Items
from inception_jax.weights.readers.protobuf import message_classes
from inception_jax.weights.readers.refusal import Refused

FIELDS = {
    "BlobShape": (("dim", 1, "int64", list),),
    "BlobProto": (
        ("num", 1, "int32"),
        ("channels", 2, "int32"),
        ("height", 3, "int32"),
        ("width", 4, "int32"),
        ("data", 5, "float", list),
        ("shape", 7, "BlobShape"),
        ("double_data", 8, "double", list),
    ),
    "V1LayerParameter": (("name", 4, "string"), ("blobs", 6, "BlobProto", list)),
    "LayerParameter": (("name", 1, "string"), ("blobs", 7, "BlobProto", list)),
    "NetParameter": (("layers", 2, "V1LayerParameter", list), ("layer", 100, "LayerParameter", list)),
}
AXES = ("num", "channels", "height", "width")
"""The shape of blobs in files without the field `shape`: (1, 1, 1, O) for a bias, (1, 1, O, I) for a linear layer."""


def read(path: Path, budget: Budget) -> Items:
    """Yields blob i of every layer as "layer/i", in the shape that the file states.

    Raises:
      Refused: the shape of a blob does not match its number of values, or the file exceeds the budget.
    """
    net = classes()["NetParameter"].FromString(read_bytes(path, budget.limits.bytes))
    for layer in itertools.chain(net.layers, net.layer):
        budget.entry()
        for i, blob in enumerate(layer.blobs):
            yield f"{layer.name}/{i}", _array(f"{layer.name}/{i}", blob, budget)


def _array(name: str, blob: Any, budget: Budget) -> np.ndarray:
    shape = tuple(blob.shape.dim) if blob.HasField("shape") else tuple(getattr(blob, axis) for axis in AXES)
    values, dtype = (blob.data, np.float32) if blob.data else (blob.double_data, np.float64)
    if min(shape, default=1) < 0 or math.prod(shape) != len(values):
        raise Refused(f"{name!r} has {len(values)} values and the shape {shape}")
    budget.tensor(name, shape, np.dtype(dtype).itemsize, None)
    return np.fromiter(values, dtype, len(values)).reshape(shape)


@functools.cache
def classes() -> dict[str, Any]:
    """Returns the message classes by name."""
    return message_classes("caffe", FIELDS)
