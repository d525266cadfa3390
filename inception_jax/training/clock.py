"""Measures how the time of a run is spent."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator


class Clock:
    """Measures training time without evaluation and saving, and the share of it spent waiting for images."""

    def __init__(self):
        self._start = time.monotonic()
        self._lap_start, self._paused, self._waited = self._start, 0.0, 0.0

    @property
    def seconds(self) -> float:
        """Seconds since the start, including evaluation and saving."""
        return time.monotonic() - self._start

    @property
    def wait_share(self) -> float:
        """Share of the current lap spent waiting for images."""
        return self._waited / max(time.monotonic() - self._lap_start - self._paused, 1e-9)

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts the time spent in the block as waiting for images."""
        begin = time.monotonic()
        yield
        self._waited += time.monotonic() - begin

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Excludes the time spent in the block from the lap."""
        begin = time.monotonic()
        yield
        self._paused += time.monotonic() - begin

    def lap(self) -> tuple[float, float]:
        """Returns the seconds and the wait share of the current lap, and starts the next one."""
        seconds = max(time.monotonic() - self._lap_start - self._paused, 1e-9)
        share = self._waited / seconds
        self._lap_start, self._paused, self._waited = time.monotonic(), 0.0, 0.0
        return seconds, share
