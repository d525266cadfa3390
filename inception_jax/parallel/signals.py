"""Handles SIGTERM and SIGINT of a training program, from its first line to its last.

Python runs signal handlers between two bytecodes of the main thread, and one call of XLA compiles for minutes. So a
separate thread reads the signals from a pipe, to which Python's handler in C writes at once (`signal.set_wakeup_fd`).

| when | the first signal | the second |
|---|---|---|
| before the first step | ends the process, with exit code 75 | |
| while it trains | is recorded; the loop saves and ends with 75 | ends the process, with 128 + its number |
| after the last step | is recorded; the run ends by itself | ends the process, with 128 + its number |

This file imports nothing but the standard library, so that `watch` comes before the imports that take seconds.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator

STOPPED = 75  # EX_TEMPFAIL, as `errors.Interrupted`: the same command resumes
SIGNALS = (signal.SIGTERM, signal.SIGINT)
PATIENCE = 1.0  # seconds to write the last output, which may block
TELLING = 3.0  # seconds to report the end to the other processes of a run
SHOW_CURSOR = b"\x1b[?25h"  # the progress bar hides it

_lock = threading.Lock()
_watching = False
_heard = False
_note: Callable[[int], None] | None = None  # set by the loop, once it can stop
_restart = "the same command starts again"
_report: Callable[[int, str], None] | None = None  # reports the end to the other processes of a run


def watch() -> None:
    """Starts handling the signals of this process as the table says; call it in the main thread."""
    global _watching
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
            signal.signal(number, lambda *_: None)
    _watching = True
    threading.Thread(target=_listen, args=(reader,), name="signals", daemon=True).start()


def resumes_after(step: int) -> None:
    """Sets the step from which the same command resumes, for the message at a signal before the first step."""
    global _restart
    _restart = f"the same command resumes after step {step:,}" if step else "the same command starts again"


def tell_others(report: Callable[[int, str], None]) -> None:
    """Sets the function that reports a sudden end, by exit code and message, to the other processes of the run."""
    global _report
    _report = report


@contextlib.contextmanager
def noted(note: Callable[[int], None]) -> Iterator[bool]:
    """From now on passes the first signal to `note` instead of ending; yields False if `watch` was not called."""
    global _note
    with _lock:
        _note = note
    yield _watching


def _listen(reader: int) -> None:
    while True:
        for number in os.read(reader, 64):
            if number in SIGNALS:
                _answer(signal.Signals(number))


def _answer(number: signal.Signals) -> None:
    global _heard
    with _lock:
        note, first = _note, not _heard
        _heard = True
    if note is not None and first:
        note(number)
    elif note is None:
        _end(STOPPED, f"{number.name} before the first step: nothing was trained; {_restart}.")
    else:
        _end(128 + number, f"{number.name} again: ended at once; the same command resumes from the last checkpoint.")


def _end(code: int, line: str) -> None:
    """Ends the process and closes nothing, since the main thread may be anywhere; files are written atomically."""
    helper = threading.Thread(target=_last_words, args=(code, line), daemon=True)
    helper.start()
    helper.join(PATIENCE if _report is None else TELLING)
    os._exit(code)


def _last_words(code: int, line: str) -> None:
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    if os.isatty(1):
        os.write(1, SHOW_CURSOR + b"\n")
    os.write(2, f"{line}\n".encode())
    if _report is not None:
        _report(code, line)
