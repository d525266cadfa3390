"""Stopping at a signal, between two steps."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from inception_jax.parallel import signals
from inception_jax.parallel.mesh import batch_sharding, replicated, shard_batch


class Stop:
    """Whether to stop, and the signal that asked for it.

    A scheduler may signal one process of many, and others may be a step ahead. So each says at every `poll` what it
    knows, and learns at the next what the others said at this one: all know the same between the same two polls.
    """

    def __init__(self, mesh: Mesh | None = None):
        self._noted = 0
        self._agreed: int | None = None  # in one process what it noted counts
        self._asked: jax.Array | None = None
        if mesh is not None and jax.process_count() > 1:
            self._agreed = 0
            self._sharding = batch_sharding(mesh)
            self._largest = jax.jit(jnp.max, out_shardings=replicated(mesh))

    def note(self, number: int) -> None:
        """Takes a signal."""
        self._noted = number

    @property
    def name(self) -> str | None:
        """The signal for which to stop, such as "SIGTERM"."""
        number = self._noted if self._agreed is None else self._agreed
        return signal.Signals(number).name if number else None

    def poll(self) -> None:
        """Tells and hears; every process must call it, at the same places."""
        if self._agreed is None:
            return
        if self._asked is not None:
            self._agreed = int(jax.device_get(self._asked))
        mine = np.full(jax.local_device_count(), self._noted, np.int32)
        self._asked = self._largest(shard_batch({"signal": mine}, self._sharding)["signal"])


@contextlib.contextmanager
def stop_signal(mesh: Mesh) -> Iterator[Stop]:
    """Notes the first SIGTERM or SIGINT, for the loop to stop after its step.

    In train.py `parallel.signals` hears of them. In a program of others, in its main thread, handlers are installed for
    as long as this lasts, and a second signal acts as usual there.
    """
    stop = Stop(mesh)
    with signals.noted(stop.note) as watched:
        if watched:
            yield stop
        else:
            with _handlers(stop):
                yield stop


@contextlib.contextmanager
def _handlers(stop: Stop) -> Iterator[None]:
    previous: dict[signal.Signals, Any] = {}

    def note(number: int, _frame: object) -> None:
        stop.note(number)
        for each, handler in previous.items():
            signal.signal(each, handler)

    for number in (signal.SIGTERM, signal.SIGINT):
        try:
            previous[number] = signal.signal(number, note)
        except ValueError:  # not the main thread: signals are the caller's affair
            break
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
