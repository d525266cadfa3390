"""NumPy's .npz of plain arrays: activations of an original for comparison."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from inception_jax.paths import open_regular
from inception_jax.weights.readers import archives
from inception_jax.weights.readers.budget import Budget
from inception_jax.weights.readers.formats import Items
from inception_jax.weights.readers.refusal import Refused


def read(path: Path, budget: Budget) -> Items:
    """Yields the arrays by name.

    Raises:
      Refused: an array holds Python objects, or its stated size exceeds its member or the budget.
    """
    with open_regular(path) as opened, archives.open_zip(opened, budget) as archive:
        for info in archive.infolist():
            name = info.filename.removesuffix(".npy")
            with archive.open(info) as member:
                version = npy.read_magic(member)
                if version > (2, 0):
                    raise Refused(f"{name!r} is an array of version {version}")
                header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
                shape, fortran, dtype = header(member)
                if dtype.hasobject or dtype.kind not in "fiu":
                    raise Refused(f"{name!r} is an array of {dtype}, not of plain numbers")
                budget.tensor(name, shape, dtype.itemsize, info.file_size)
                size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
                values = np.frombuffer(member.read(size), dtype)
                yield name, values.reshape(shape[::-1]).T if fortran else values.reshape(shape)
