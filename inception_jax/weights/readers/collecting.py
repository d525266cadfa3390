"""What readers give, checked: names once, numbers of 16 bits or more, those of 16 bits as float32."""

from __future__ import annotations

import numpy as np

from inception_jax.weights.readers.formats import Items
from inception_jax.weights.readers.refusal import Refused


def numbers(items: Items) -> Items:
    """Yields the items with arrays in float32, float64 or integers of this machine's byte order.

    Raises:
      Refused: a name comes twice, or an array is of no such numbers.
    """
    seen: set[str] = set()
    for item in items:
        if isinstance(item, tuple):
            name, array = item
            if name in seen:
                raise Refused(f"it holds {name!r} twice")
            seen.add(name)
            yield name, _as_numbers(name, array)
        else:
            yield item


def _as_numbers(name: str, array: np.ndarray) -> np.ndarray:
    native = array.dtype.newbyteorder("=")
    if native in (np.float32, np.float64) or native.kind in "iu":
        return array.astype(native, copy=False)
    if native.name in ("float16", "bfloat16"):
        return array.astype(np.float32)
    raise Refused(f"{name!r} has the type {array.dtype}, not a number of 16 bits or more")
