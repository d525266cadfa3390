"""Several processes in one run: connecting them, exchanging texts, and checking that they agree."""

from __future__ import annotations

import collections
import json
import os
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from inception_jax.errors import UserError
from inception_jax.parallel import faults

HEARTBEAT = 30  # seconds of silence after which a process counts as dead, and ends the others
SHUTDOWN = 10  # seconds that an ending process waits for the others

T = TypeVar("T")


def start_processes(coordinator: str | None, processes: int | None, process: int | None, timeout: int) -> None:
    """Connects this process with the others of its run; returns at once if there are no others.

    Call it before any use of a device. On Cloud TPU, GKE, SLURM and Open MPI JAX determines the first three arguments.

    Args:
      coordinator: address:port of process 0.
      processes: how many there are.
      process: which one this is, from 0.
      timeout: seconds until all processes must be connected; after them this process ends with exit code 2.

    Raises:
      UserError: some of the first three are given and JAX cannot determine the rest, or one is out of range.
    """
    jax.config.update("jax_enable_preemption_service", False)  # it would catch SIGTERM, which the loop handles
    given = {"coordinator": coordinator, "processes": processes, "process": process}
    waiting = _waiting(coordinator or "its coordinator", processes, process, timeout)
    try:
        with waiting:
            jax.distributed.initialize(
                coordinator,
                processes,
                process,
                initialization_timeout=2 * timeout,  # JAX aborts without a message, so ours comes first
                heartbeat_timeout_seconds=HEARTBEAT,
                shutdown_timeout_seconds=SHUTDOWN,
            )
    except (ValueError, RuntimeError) as error:
        named = {name: value for name, value in given.items() if value is not None}
        if isinstance(error, ValueError) and not named:
            return  # JAX found no cluster: this process is alone
        raise UserError(f"The processes of this run cannot connect ({named or 'found by JAX'}): {error}") from error
    faults.listen()


class _waiting:  # noqa: N801
    """Ends this process if the block takes longer than `timeout` seconds."""

    def __init__(self, coordinator: str, processes: int | None, process: int | None, timeout: int):
        number = f"{'?' if process is None else process}/{'?' if processes is None else processes}"
        self._who = f"process {number} on {socket.gethostname()}"
        self._message = (
            f"{self._who} waited {timeout} s for the others at {coordinator}: a process that did not print "
            '"waits for the others" has not started or cannot reach it. Start the same command on every host.'
        )
        self._announces = processes is not None
        self._timer = threading.Timer(timeout, self._end)

    def __enter__(self) -> None:
        if self._announces:
            print(f"{self._who} waits for the others", flush=True)
        self._timer.start()

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def _end(self) -> None:
        print(f"error: {self._message}", file=sys.stderr, flush=True)
        os._exit(UserError.exit_code)  # nothing has started, and a blocked call of JAX cannot be interrupted


def is_main() -> bool:
    """Returns whether this is process 0, which writes the files and prints."""
    return jax.process_index() == 0


def exchange(text: str) -> list[str]:
    """Returns the texts of all processes in order. Collective: every process must call it at the same place."""
    if jax.process_count() == 1:
        return [text]
    words = np.frombuffer(text.encode(), np.uint8)
    with jax.transfer_guard("allow"):
        lengths = multihost_utils.process_allgather(np.int32(len(words)))
        padded = np.zeros(max(lengths.max(), 1), np.uint8)
        padded[: len(words)] = words
        rows = multihost_utils.process_allgather(padded)
    return [bytes(row[:length]).decode() for row, length in zip(rows, lengths, strict=True)]


def together(act: Callable[[], T], kind: type[Exception] = UserError) -> T:
    """Returns `act()`; if it raises `kind` in any process, all processes raise it and name that process. Collective."""
    error: Exception | None = None
    result: T
    try:
        result = act()
    except kind as raised:
        error = raised
    errors = exchange(f"{socket.gethostname()}): {error}" if error else "")
    others = [f"Process {process} (on {text}" for process, text in enumerate(errors) if text]
    if others:
        raise _everywhere(error or kind(others[0]))
    return result


def check_same(facts: Mapping[str, Any]) -> None:
    """Checks that every process has the same facts, by name. Collective.

    Raises:
      UserError: in every process; names the first process that differs from process 0, its host and the differences.
    """
    answers = [json.loads(text) for text in exchange(json.dumps([socket.gethostname(), dict(facts)], default=str))]
    (first_host, first), *_ = answers
    for process, (host, theirs) in enumerate(answers):
        names = [name for name in {**first, **theirs} if first.get(name) != theirs.get(name)]
        if names:
            listed = "; ".join(f"{name}: {theirs.get(name)!r} there, {first.get(name)!r} here" for name in names[:5])
            message = (
                f"Process {process} (on {host}) is not like process 0 (on {first_host}), {len(names)} differences: "
                f"{listed}. Start the same command, of the same version, on every host."
            )
            raise _everywhere(UserError(message))


def check_devices() -> None:
    """Checks that all processes have equally many devices.

    Raises:
      UserError: in every process.
    """
    counts = collections.Counter(device.process_index for device in jax.devices())
    if len(set(counts.values())) > 1 or len(counts) < jax.process_count():
        listed = ", ".join(f"{counts[process]} in process {process}" for process in range(jax.process_count()))
        raise _everywhere(UserError(f"Processes have different numbers of devices ({listed}); they need the same."))


def _everywhere(error: Exception) -> Exception:
    error.everywhere = True  # type: ignore[attr-defined]
    return error


def describe_process() -> str:
    """Returns one line about this process: its number, its host and its devices."""
    local = jax.local_devices()
    return (
        f"process {jax.process_index()}/{jax.process_count()} on {socket.gethostname()}: {len(local)} of "
        f"{jax.device_count()} devices, {local[0].device_kind} ({jax.default_backend()})"
    )
