"""Stopping at a signal, between two steps."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
from collections.abc import Iterator
from typing import Any


@dataclasses.dataclass
class Stop:
    """Whether to stop: the name of the signal that asked for it."""

    name: str | None = None


@contextlib.contextmanager
def stop_signal() -> Iterator[Stop]:
    """Notes the first SIGTERM or SIGINT, for the loop to stop after its step; another one acts as usual."""
    stop = Stop()
    previous: dict[signal.Signals, Any] = {}

    def note(number: int, _frame: object) -> None:
        stop.name = signal.Signals(number).name
        for each, handler in previous.items():
            signal.signal(each, handler)

    for number in (signal.SIGTERM, signal.SIGINT):
        try:
            previous[number] = signal.signal(number, note)
        except ValueError:  # not the main thread: signals are the caller's affair
            break
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
