"""Checks the items of readers: unique names, and numbers of 16 bits or more; 16-bit floats become float32."""

from __future__ import annotations

import collections
import dataclasses

import numpy as np

from inception_jax.weights.readers.formats import Items
from inception_jax.weights.readers.refusal import Refused
from inception_jax.weights.readers.statement import Statement

OTHER_FLOATS = ("float16", "bfloat16", "float64")


def numbers(items: Items) -> Items:
    """Yields the items with arrays as float32, float64 or integers, in native byte order, and a statement at the end.

    The statement is that of the items, if they have one, with a note of the floats that are not float32.

    Raises:
      Refused: a name occurs twice, or an array has another dtype.
    """
    seen: set[str] = set()
    others: collections.Counter[str] = collections.Counter()
    statement = Statement()
    for item in items:
        if isinstance(item, Statement):
            statement = item
            continue
        name, array = item
        if name in seen:
            raise Refused(f"it holds {name!r} twice")
        seen.add(name)
        others[array.dtype.newbyteorder("=").name] += 1
        yield name, _as_numbers(name, array)
    notes = tuple(
        f"{others[kind]} of its tensors are {kind}; here they are float32" for kind in OTHER_FLOATS if others[kind]
    )
    yield dataclasses.replace(statement, notes=statement.notes + notes)


def _as_numbers(name: str, array: np.ndarray) -> np.ndarray:
    native = array.dtype.newbyteorder("=")
    if native in (np.float32, np.float64) or native.kind in "iu":
        return array.astype(native, copy=False)
    if native.name in ("float16", "bfloat16"):
        return array.astype(np.float32)
    raise Refused(f"{name!r} has the type {array.dtype}, not a number of 16 bits or more")
