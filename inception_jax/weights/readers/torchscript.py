"""TorchScript archives: the tensors among the attributes of a scripted or traced module. Its code is not run.

A TorchScript archive holds code and a pickle of the module: objects, whose classes are in that code, with their
attributes. PyTorch would compile the code; here an object is no more than its attributes, so PyTorch is not needed.
"""

from __future__ import annotations

import collections
import io
import math
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from inception_jax.errors import printable
from inception_jax.weights.readers import archives
from inception_jax.weights.readers.budget import Budget
from inception_jax.weights.readers.formats import Items
from inception_jax.weights.readers.refusal import Refused

PICKLE = "data.pkl"
DTYPES = {
    "FloatStorage": np.float32,
    "DoubleStorage": np.float64,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
LISTS = ("build_intlist", "build_doublelist", "build_boollist", "build_tensorlist")


class Module:
    """An object of the archive: nothing but its attributes."""

    def __setstate__(self, state: Any) -> None:
        self.attributes = state


class Storage(NamedTuple):
    """The numbers that tensors are views of: the name of their member in the archive, and their dtype."""

    member: str
    dtype: np.dtype


class Tensor(NamedTuple):
    """A view of a storage: the first element, and sizes and steps in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read(path: Path, budget: Budget) -> Items:
    """Yields the tensors of a TorchScript archive by the path of their attribute, "layers.conv.weight".

    These are the names of the module's state dict. Attributes that are no tensors are left out.

    Raises:
      Refused: the pickle asks for anything but modules and tensors, a tensor exceeds its storage, or the archive
        exceeds the budget.
    """
    with archives.open_zip(path, budget) as archive:
        root = next(name for name in archive.namelist() if name.rpartition("/")[2] == PICKLE).removesuffix(PICKLE)
        data = archives.member(archive, root + PICKLE, budget, is_text=True)
        module = _Unpickler(io.BytesIO(data), root).load()
        for name, tensor in _tensors(module, "", 0, budget):
            yield name, _array(name, tensor, archive, budget)


class _Unpickler(pickle.Unpickler):
    """Builds modules and views of storages; refuses everything else that a pickle can ask for."""

    def __init__(self, file: io.BytesIO, root: str):
        super().__init__(file)
        self._root = root

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "__torch__":
            return Module
        if module == "torch" and name in DTYPES:
            return name
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, shape, strides, *_: Tensor(storage, offset, shape, strides)
        if module == "torch.jit._pickle" and name in LISTS:
            return lambda items: items
        if module == "torch.jit._pickle" and name == "restore_type_tag":
            return lambda value, _: value
        raise Refused(f"it asks for {printable(f'{module}.{name}')}; nothing in it was run")

    def persistent_load(self, pid: Any) -> Storage:
        kind, dtype, key, _, _ = pid
        if kind != "storage" or dtype not in DTYPES:
            raise Refused(f"it refers to {printable(pid)[:80]}, which is no storage of a tensor")
        return Storage(f"{self._root}data/{key}", np.dtype(DTYPES[dtype]))


def _tensors(value: Any, path: str, depth: int, budget: Budget) -> Iterator[tuple[str, Tensor]]:
    budget.entry(0)
    budget.depth(depth)
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, Module):
        attributes = getattr(value, "attributes", None)
        for key, item in attributes.items() if isinstance(attributes, dict) else ():
            yield from _tensors(item, f"{path}.{key}" if path else str(key), depth + 1, budget)


def _array(name: str, tensor: Tensor, archive: zipfile.ZipFile, budget: Budget) -> np.ndarray:
    storage, shape, strides = tensor.storage, tuple(tensor.shape), tuple(tensor.strides)
    if not all(isinstance(n, int) and n >= 0 for n in (tensor.offset, *shape, *strides)) or len(shape) != len(strides):
        raise Refused(f"{name!r} has the shape {printable(shape)[:80]} and the strides {printable(strides)[:80]}")
    itemsize = storage.dtype.itemsize
    stored = archive.getinfo(storage.member).file_size if storage.member in archive.namelist() else 0
    budget.tensor(name, shape, itemsize, stored)
    last = tensor.offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if math.prod(shape) and last >= stored // itemsize:
        raise Refused(f"{name!r} reaches beyond its storage of {stored // itemsize:,} numbers")
    values = np.frombuffer(archives.member(archive, storage.member, budget), storage.dtype)
    steps = tuple(step * itemsize for step in strides)
    return np.array(np.lib.stride_tricks.as_strided(values[tensor.offset :], shape, steps, writeable=False))
