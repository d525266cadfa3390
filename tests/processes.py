"""Processes that tests start, which never outlive them."""

import contextlib
import subprocess
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def started(command, seconds: float = 600, **keywords) -> Iterator[subprocess.Popen]:
    """Starts a process for the block, as `subprocess.Popen` does with `keywords`.

    After `seconds`, or when the block raises, the process is killed: whoever reads its output or waits for its end goes
    on then, and fails.
    """
    process = subprocess.Popen(command, **keywords)
    timer = threading.Timer(seconds, process.kill)
    timer.daemon = True
    timer.start()
    try:
        with process:
            try:
                yield process
            except BaseException:
                process.kill()
                raise
    finally:
        timer.cancel()
