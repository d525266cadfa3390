"""Safetensors: a JSON header and the arrays. The library checks that they fill the file exactly."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors
import safetensors.numpy

from inception_jax.paths import open_regular
from inception_jax.weights.readers.budget import Budget
from inception_jax.weights.readers.formats import Items

ITEMSIZES = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4}


class Content(NamedTuple):
    """Metadata and arrays by name, in the types of the file."""

    metadata: dict[str, str]
    arrays: dict[str, np.ndarray]


def read(path: Path, budget: Budget) -> Items:
    """Yields the tensors by name."""
    yield from read_all(path, budget).arrays.items()


def read_all(path: Path, budget: Budget) -> Content:
    """Returns metadata and arrays of a file.

    Raises:
      Refused: the file exceeds the budget.
      safetensors.SafetensorError: the file is damaged.
    """
    check_header(path, budget)
    with safetensors.safe_open(path, framework="np") as file:
        names = list(file.keys())
        for name in names:
            stored = file.get_slice(name)
            budget.tensor(name, stored.get_shape(), ITEMSIZES.get(stored.get_dtype(), 2), None)
        return Content(file.metadata() or {}, {name: file.get_tensor(name) for name in names})


def read_outline(path: Path, budget: Budget) -> tuple[Mapping[str, str], list[str]]:
    """Returns the metadata and the names of the arrays; raises what `read_all` does."""
    check_header(path, budget)
    with safetensors.safe_open(path, framework="np") as file:
        return file.metadata() or {}, list(file.keys())


def check_header(path: Path, budget: Budget) -> None:
    """Checks the size of the header, which the first eight bytes state; the library parses all of it."""
    with open_regular(path) as file:
        budget.text(int.from_bytes(file.read(8), "little"), "its header")
