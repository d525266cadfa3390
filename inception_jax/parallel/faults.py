"""Propagates one process's fatal error, so that the whole run exits within seconds.

A collective cannot do this: the other processes may be at another place, and their devices may not have started. The
error goes through the key-value store of JAX's coordination service, which process 0 hosts.
"""

from __future__ import annotations

import atexit
import json
import os
import socket
import sys
import threading
import time
import traceback
from typing import Any, NamedTuple

import jax
from jax._src.distributed import global_state  # JAX has no public access to the store; Orbax uses this too

from inception_jax.parallel import signals

KEY = "inception_jax/fault"
PERIOD = 0.5  # seconds between two polls of the store
LINGER = 2  # seconds that process 0 stays, so that all read the store; JAX aborts the others when it leaves

_ending = threading.Event()


class Fault(NamedTuple):
    """The error of a process, as the others read it.

    Attributes:
      process: its index.
      host: its host name.
      code: its exit code.
      text: the message.
    """

    process: int
    host: str
    code: int
    text: str

    def __str__(self) -> str:
        return f"Process {self.process} (on {self.host}): {self.text}"


def listen() -> None:
    """Starts a thread that ends this process, with the same exit code, soon after another one reported a fault."""
    listener = threading.Thread(target=_listen, name="faults", daemon=True)
    listener.start()
    signals.tell_others(_report_end)

    def stop() -> None:  # runs before JAX disconnects, which was registered earlier
        _ending.set()
        listener.join()

    atexit.register(stop)


def leave(error: Exception, code: int) -> None:
    """Ends this process at once, and makes the others end, if it is one of several and `error` is its own.

    A normal exit would wait for the other processes, which wait for this one.

    Args:
      error: what happened. If its attribute `everywhere` is true, all processes raised it, and this returns.
      code: to exit with. 1 means a bug: its traceback is printed, unless another process has already reported a fault,
        which is then the cause.
    """
    if not jax.distributed.is_initialized() or getattr(error, "everywhere", False):
        return
    _ending.set()
    fault = _reported()
    if fault is not None and code == 1:
        _end(fault.code, _line(fault))
    if code == 1:
        traceback.print_exception(error)
    if fault is None:
        text = str(error) if code != 1 else traceback.format_exception_only(error)[-1].strip()
        _report(Fault(global_state.process_id, socket.gethostname(), code, text))
    _end(code)


def _listen() -> None:
    while not _ending.wait(PERIOD):
        fault = _reported()
        if fault is not None:
            _end(fault.code, _line(fault))


def _line(fault: Fault) -> str:
    """Returns the line about another process's fault; it is not an error if a signal stopped that process normally."""
    return str(fault) if fault.code == signals.STOPPED else f"error: {fault}"


def _report_end(code: int, text: str) -> None:
    """Reports that a signal ends this process at once; process 0 stays until the others have read it."""
    _ending.set()
    _report(Fault(global_state.process_id, socket.gethostname(), code, text))
    if global_state.process_id == 0:
        time.sleep(LINGER)


def _reported() -> Fault | None:
    try:
        return Fault(*json.loads(_store().key_value_try_get(KEY)))
    except jax.errors.JaxRuntimeError:  # no fault, or process 0 is gone
        return None


def _report(fault: Fault) -> None:
    try:
        _store().key_value_set(KEY, json.dumps(fault))
    except jax.errors.JaxRuntimeError:  # another process was first, or process 0 is gone
        return


def _store() -> Any:
    return global_state.client


def _end(code: int, line: str | None = None) -> None:
    if line is not None:
        print(line, file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    if global_state.process_id == 0:
        time.sleep(LINGER)
    os._exit(code)
