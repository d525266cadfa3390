"""Untrusted HDF5 files: no link is followed, no object is visited twice, and sizes are checked before data are read.

libhdf5 may loop for ever on damaged structures. The reading process has a deadline and bounded memory for that case.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import h5py
import ml_dtypes
import numpy as np

from inception_jax.weights.readers.budget import Budget
from inception_jax.weights.readers.refusal import Refused

PACKED = 1100  # largest compression ratio: deflate, the densest filter of HDF5, reaches 1032
SMALL = 4096  # bytes for which the ratio is not checked


class Hdf5:
    """Access to the groups, tensors and attributes of a file, within a budget."""

    def __init__(self, file: h5py.File, budget: Budget):
        self.budget = budget
        self._seen: set[int] = set()

    def names(self, group: h5py.Group) -> list[str]:
        """Returns the names of the members of a group; a second call for the same group is refused."""
        self._visit(group)
        self.budget.entry(len(group))
        return list(group)

    def child(self, group: h5py.Group, path: str) -> Any:
        """Returns a member of the group. Links are refused, since they may lead to another file."""
        names = path.strip("/").split("/")
        self.budget.depth(len(names))
        for name in names:
            link = group.get(name, getlink=True)
            if link is None:
                raise Refused(f"it lacks {_shown(group.name, name)}")
            if not isinstance(link, h5py.HardLink):
                raise Refused(f"{_shown(group.name, name)} is a link")
            group = group[name]
        return group

    def array(self, dataset: Any) -> np.ndarray:
        """Returns the values of a tensor; external and virtual datasets are refused."""
        name = _shown(dataset.name)
        if not isinstance(dataset, h5py.Dataset) or dataset.external or dataset.is_virtual:
            raise Refused(f"{name} is no tensor in this file")
        self._visit(dataset)
        if dataset.shape is None or dataset.dtype.kind not in "fiubV":
            raise Refused(f"{dataset.name!r} has the type {dataset.dtype}, not a number of 16 bits or more")
        stored = dataset.id.get_storage_size()
        packed = dataset.chunks is not None and stored
        self.budget.tensor(
            str(dataset.name), dataset.shape, dataset.dtype.itemsize, stored * PACKED + SMALL if packed else stored
        )
        array = np.asarray(dataset[()])
        if dataset.attrs.get("dtype") == "bfloat16" and array.dtype.itemsize == 2:
            return array.view(ml_dtypes.bfloat16)  # HDF5 has no such dtype and stores the bytes
        return array

    def texts(self, group: h5py.Group, attribute: str) -> list[str]:
        """Returns the names in an attribute; Keras splits a long list over attributes NAME0, NAME1, ..."""
        chunks = [attribute] if attribute in group.attrs else []
        while f"{attribute}{len(chunks)}" in group.attrs:
            chunks.append(f"{attribute}{len(chunks)}")
            self.budget.entry()
        return [text for chunk in chunks for text in self._texts(group, chunk)]

    def text(self, group: h5py.Group, attribute: str) -> str | None:
        """Returns the text in an attribute; None: there is no such attribute."""
        if attribute not in group.attrs:
            return None
        (found,) = self._texts(group, attribute)
        self.budget.text(len(found), f"its {attribute}")
        return found

    def _texts(self, group: h5py.Group, attribute: str) -> Iterator[str]:
        shape = group.attrs.get_id(attribute).shape
        self.budget.entry(int(np.prod(shape, dtype=np.float64)))
        for text in np.asarray(group.attrs[attribute]).ravel():
            yield text.decode() if isinstance(text, bytes) else str(text)

    def _visit(self, item: Any) -> None:
        address = h5py.h5o.get_info(item.id).addr
        if address in self._seen:
            raise Refused(f"{_shown(item.name)} occurs in it under several names")
        self._seen.add(address)


def _shown(*names: Any) -> str:
    """Returns a path in the file for a message, quoted and escaped if it is not printable."""
    path = "/".join(str(each) for each in names).replace("//", "/")
    return path if path.isprintable() else repr(path)
