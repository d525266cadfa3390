"""A script without `if __name__ == "__main__":`, whose workers begin its training again.

A worker is a new process that imports the script under another name, to find what it shall run. What stands in the
script without that guard runs once more there.
"""

from __future__ import annotations

import multiprocessing
import os
import sys

from inception_jax.errors import UserError


class UnguardedScriptError(UserError):
    """The script that trains lacks the guard."""


EXIT_CODE = 86  # of a worker that found itself training; nothing else here ends with it
MESSAGE = (
    "A data worker imported the script and began its training again: put what the script does under "
    'if __name__ == "__main__":, or set data.workers to 0.'
)


def leave_worker_that_trains() -> None:
    """Ends this process, without a word, if it is a worker that still imports the script; the parent says why."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        sys.stdout.flush()
        os._exit(EXIT_CODE)


def check(error: RuntimeError) -> None:
    """Raises what the end of a worker means, if it ended so.

    Raises:
      UserError: the script lacks the guard.
    """
    if f"exit code {EXIT_CODE}" in str(error):
        raise UnguardedScriptError(MESSAGE) from error
