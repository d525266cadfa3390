"""HDF5 of strangers: no link is followed, nothing is visited twice, and nothing is read before its size is asked for.

What libhdf5 itself does with damaged structures (it may loop for ever) is left to the process that reads, which has a
deadline and bounded memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import h5py
import ml_dtypes
import numpy as np

from inception_jax.weights.readers.budget import Budget
from inception_jax.weights.readers.refusal import Refused

PACKED = 1100  # times: no filter of HDF5 packs more densely than deflate, whose limit is 1032
SMALL = 4096  # bytes that no ratio is asked of


class Hdf5:
    """The members of a file."""

    def __init__(self, file: h5py.File, budget: Budget):
        self.budget = budget
        self._seen: set[int] = set()

    def names(self, group: h5py.Group) -> list[str]:
        """Returns the names of the members of a group, which is visited this once."""
        self._visit(group)
        self.budget.entry(len(group))
        return list(group)

    def child(self, group: h5py.Group, path: str) -> Any:
        """Returns a member of the group; no link is followed, since it may lead to another file."""
        parts = path.strip("/").split("/")
        self.budget.depth(len(parts))
        for part in parts:
            link = group.get(part, getlink=True)
            if link is None:
                raise Refused(f"it lacks {_shown(group.name, part)}")
            if not isinstance(link, h5py.HardLink):
                raise Refused(f"{_shown(group.name, part)} is a link")
            group = group[part]
        return group

    def array(self, dataset: Any) -> np.ndarray:
        """Returns the values of a tensor that lies in this file."""
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
            return array.view(ml_dtypes.bfloat16)  # HDF5 knows its bytes only
        return array

    def texts(self, group: h5py.Group, attribute: str) -> list[str]:
        """Returns a list of names; a long one is kept in parts."""
        parts = [attribute] if attribute in group.attrs else []
        while f"{attribute}{len(parts)}" in group.attrs:
            parts.append(f"{attribute}{len(parts)}")
            self.budget.entry()
        return [text for part in parts for text in self._texts(group, part)]

    def text(self, group: h5py.Group, attribute: str) -> str | None:
        """Returns a text, or None if there is none."""
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
        place = h5py.h5o.get_info(item.id).addr
        if place in self._seen:
            raise Refused(f"{_shown(item.name)} stands in it under several names")
        self._seen.add(place)


def _shown(*parts: Any) -> str:
    """Returns a path in the file as it may be printed: as it is, or in quotes where it holds something odd."""
    path = "/".join(str(part) for part in parts).replace("//", "/")
    return path if path.isprintable() else repr(path)
