"""An error that one process of several has alone: it tells the others, and all end within seconds.

They cannot learn of it by a collective: they may be elsewhere, and no device may have started. It goes through the
store of texts of JAX's coordination service, which process 0 holds and every process reaches once it is connected.
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
from jax._src.distributed import global_state  # JAX has no public way to the store; Orbax, too, takes this one

from inception_jax.parallel import signals

KEY = "inception_jax/fault"
PERIOD = 0.5  # seconds between two looks for a fault of others
LINGER = 2  # seconds that process 0 stays, so that all have looked: without it JAX aborts the others

_ending = threading.Event()


class Fault(NamedTuple):
    """What a process that ends tells."""

    process: int
    host: str
    code: int
    text: str

    def __str__(self) -> str:
        return f"Process {self.process} (on {self.host}): {self.text}"


def listen() -> None:
    """From now on ends this process soon after another one has told a fault, with its text and its exit code."""
    listener = threading.Thread(target=_listen, name="faults", daemon=True)
    listener.start()
    signals.tell_others(_tell_of_end)

    def stop() -> None:  # before JAX disconnects: it has registered its own end earlier
        _ending.set()
        listener.join()

    atexit.register(stop)


def leave(error: Exception, code: int) -> None:
    """Ends this process at once, and then the others, if it is one of several and they do not know of `error`.

    An orderly end waits for the others, and they would wait for this one.

    Args:
      error: what happened; one with the attribute `everywhere` is known to all.
      code: to exit with. 1 stands for an error that nobody expected: its traceback is printed, unless it comes from the
        end of another process, which has told why.
    """
    if not jax.distributed.is_initialized() or getattr(error, "everywhere", False):
        return
    _ending.set()
    fault = _told()
    if fault is not None and code == 1:
        _end(fault.code, _line(fault))
    if code == 1:
        traceback.print_exception(error)
    if fault is None:
        text = str(error) if code != 1 else traceback.format_exception_only(error)[-1].strip()
        _tell(Fault(global_state.process_id, socket.gethostname(), code, text))
    _end(code)


def _listen() -> None:
    while not _ending.wait(PERIOD):
        fault = _told()
        if fault is not None:
            _end(fault.code, _line(fault))


def _line(fault: Fault) -> str:
    """Returns what this process says of another's end, which is no error where a signal stopped that in order."""
    return str(fault) if fault.code == signals.STOPPED else f"error: {fault}"


def _tell_of_end(code: int, text: str) -> None:
    """Tells that a signal ends this process at once; process 0 stays until the others have looked."""
    _ending.set()
    _tell(Fault(global_state.process_id, socket.gethostname(), code, text))
    if global_state.process_id == 0:
        time.sleep(LINGER)


def _told() -> Fault | None:
    try:
        return Fault(*json.loads(_store().key_value_try_get(KEY)))
    except jax.errors.JaxRuntimeError:  # there is none, or process 0 is gone
        return None


def _tell(fault: Fault) -> None:
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
