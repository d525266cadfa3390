"""Detects a script without `if __name__ == "__main__":`, whose data workers would start the training again.

A worker is a new process that imports the script, under another name, to find the functions it runs. Code of the script
outside of that guard runs again in each worker.
"""

from __future__ import annotations

import multiprocessing
import os
import sys

from inception_jax.errors import UserError


class UnguardedScriptError(UserError):
    """The script that trains has no `if __name__ == "__main__":`."""


EXIT_CODE = 86  # of a worker that started to train; nothing else uses it
MESSAGE = (
    "A data worker imported the script and began its training again: put what the script does under "
    'if __name__ == "__main__":, or set data.workers to 0.'
)


def leave_worker_that_trains() -> None:
    """Ends this process without a message if it is a worker that still imports the script; the parent explains it."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        sys.stdout.flush()
        os._exit(EXIT_CODE)


def check(error: RuntimeError) -> None:
    """Raises the error if a worker ended because it started to train.

    Raises:
      UserError: the script lacks the guard.
    """
    if f"exit code {EXIT_CODE}" in str(error):
        raise UnguardedScriptError(MESSAGE) from error
