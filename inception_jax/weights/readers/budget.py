"""Limits of time and memory for reading a file. Readers check them before they read: a header can state any size."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import NamedTuple

from inception_jax.weights.readers.refusal import Refused

LARGEST = 2 << 30  # bytes of tensors; the largest network here has 0.25 GB, with the state of an optimizer 1 GB
EXPANSION = 32  # bytes of tensors for each byte of a file: weights hardly compress, so real files need about 1
MAX_NAME = 1000  # characters


class Limits(NamedTuple):
    """The limits for reading one file.

    Attributes:
      bytes: of all tensors as they are returned, and of all decompressed data.
      entries: tensors, groups and members of archives.
      depth: of nested groups.
      dimensions: of a tensor.
      text: bytes of a text that is parsed: a config, a header, a pickle.
      seconds: for reading, without the time to import the library that reads.
      memory: bytes that the reading process may allocate, beyond those of its libraries.
    """

    bytes: int = LARGEST
    entries: int = 20_000
    depth: int = 16
    dimensions: int = 8
    text: int = 8 << 20
    seconds: int = 30
    memory: int = 2 * LARGEST + (1 << 30)

    @classmethod
    def of(cls, size: int) -> Limits:
        """Returns the limits for a file of `size` bytes; time and memory grow with the size."""
        return cls(
            bytes=min(LARGEST, (64 << 20) + EXPANSION * size),
            seconds=30 + size // (4 << 20),
            memory=min(cls().memory, (1 << 30) + 8 * size),
        )


class Budget:
    """Counts the cost of reading one file; every method raises `Refused` if a limit is exceeded."""

    def __init__(self, limits: Limits):
        self.limits = limits
        self._bytes = 0
        self._entries = 0
        self._end = time.monotonic() + limits.seconds

    def entry(self, count: int = 1) -> None:
        """Counts tensors, groups or members."""
        self._entries += count
        if self._entries > self.limits.entries:
            raise Refused(f"it holds over {self.limits.entries:,} entries")
        if time.monotonic() > self._end:
            raise Refused(f"reading it takes over {self.limits.seconds} seconds")

    def take(self, size: int, what: str) -> None:
        """Counts bytes that are about to be read or unpacked."""
        self._bytes += size
        if size < 0 or self._bytes > self.limits.bytes:
            raise Refused(f"{what}: {self._bytes:,} bytes, where at most {self.limits.bytes:,} are read")

    def tensor(self, name: str, shape: Sequence[int], itemsize: int, stored: int | None) -> None:
        """Counts a tensor.

        Args:
          name: of the tensor.
          shape: as the file states it.
          itemsize: bytes of a number, in the file.
          stored: bytes that the file stores for it; None: unknown.
        """
        self.entry()
        if len(name) > MAX_NAME:
            raise Refused(f"a name has {len(name):,} characters, {name[:20]!r} ...; at most {MAX_NAME:,} are read")
        if len(shape) > self.limits.dimensions or any(n < 0 for n in shape):
            raise Refused(f"{name!r} has {len(shape)} dimensions; 0 to {self.limits.dimensions} are read")
        size = math.prod(shape) * itemsize
        if stored is not None and size > stored:
            raise Refused(f"{name!r} claims the shape {tuple(shape)}, {size:,} bytes, and the file holds {stored:,}")
        self.take(math.prod(shape) * max(itemsize, 4), f"{name!r} of shape {tuple(shape)} makes too much")

    def text(self, size: int, what: str) -> None:
        """Checks the size of a text that is about to be parsed."""
        if size > self.limits.text:
            raise Refused(f"{what} has {size:,} bytes; at most {self.limits.text:,} are read")

    def depth(self, depth: int) -> None:
        """Checks the nesting of groups."""
        if depth > self.limits.depth:
            raise Refused(f"it nests over {self.limits.depth} groups")
