"""Bounds the memory that the threads of a process use to decode large images at once, by making them wait."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

SMALL = 32 << 20  # bytes; smaller amounts are not counted and never wait


class Budget:
    """Bytes that several threads share.

    Args:
      limit: on the bytes reserved at a time. A reservation above it is granted when nothing else is reserved.
    """

    def __init__(self, limit: int):
        self.limit = limit
        self._used = 0
        self._freed = threading.Condition()
        self._turn = threading.Lock()

    @contextlib.contextmanager
    def reserve(self, amount: int) -> Iterator[None]:
        """Waits until `amount` bytes are free, and holds them; a thread must not reserve within a reservation."""
        if amount < SMALL:
            yield
            return
        with (
            self._turn,
            self._freed,
        ):  # a waiting thread holds the turn, so that smaller images cannot overtake it for ever
            self._freed.wait_for(lambda: not self._used or self._used + amount <= self.limit)
            self._used += amount
        try:
            yield
        finally:
            with self._freed:
                self._used -= amount
                self._freed.notify_all()


IMAGES = Budget(1 << 30)
"""The bytes of the images that this process decodes at a time."""
