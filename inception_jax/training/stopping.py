"""Stops a run at SIGTERM or SIGINT, between two steps."""

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
    """Whether to stop, and because of which signal; the processes of a run agree on it.

    A scheduler may signal only one process, and the others may be a step ahead. Each `poll` starts a maximum over the
    signals of all processes, and the next `poll` reads it. So all processes stop after the same step.
    """

    def __init__(self, mesh: Mesh | None = None):
        self._noted = 0
        self._agreed: int | None = None  # None in a single process, where its own signal decides
        self._asked: jax.Array | None = None
        if mesh is not None and jax.process_count() > 1:
            self._agreed = 0
            self._sharding = batch_sharding(mesh)
            self._largest = jax.jit(jnp.max, out_shardings=replicated(mesh))

    def note(self, number: int) -> None:
        """Records a signal of this process."""
        self._noted = number

    @property
    def name(self) -> str | None:
        """The signal because of which to stop, such as "SIGTERM"; None to go on."""
        number = self._noted if self._agreed is None else self._agreed
        return signal.Signals(number).name if number else None

    def poll(self) -> None:
        """Exchanges signals with the other processes. Collective: every process must call it at the same places."""
        if self._agreed is None:
            return
        if self._asked is not None:
            self._agreed = int(jax.device_get(self._asked))
        mine = np.full(jax.local_device_count(), self._noted, np.int32)
        self._asked = self._largest(shard_batch({"signal": mine}, self._sharding)["signal"])


@contextlib.contextmanager
def stop_signal(mesh: Mesh) -> Iterator[Stop]:
    """Yields a `Stop` that records the first SIGTERM or SIGINT, so that the loop stops after its step.

    In train.py `parallel.signals` receives the signals. In any other program this installs handlers, if it runs in the
    main thread; they are removed at the end, and the previous handlers get a second signal.
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
        except ValueError:  # not the main thread: the caller has to handle signals
            break
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
