"""The folder of a run: where it is, that one process has it, and what its disk says."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from inception_jax.errors import UserError

LOCK = ".lock"


def resolve_workdir(workdir: str | Path) -> Path:
    """Returns the absolute path of a local folder.

    Raises:
      UserError: a bucket URL.
    """
    if "://" in str(workdir):
        raise UserError(f"workdir {workdir} is a URL; only local folders can be written so far.")
    return Path(workdir).expanduser().absolute()


@contextlib.contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Keeps other processes out of `workdir`; the system frees the lock of a killed one.

    Raises:
      UserError: another process is training there.
    """
    with (workdir / LOCK).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"Another process is training in {workdir}; wait for it, or use another workdir."
            ) from error
        file.truncate(0)
        file.write(f"{socket.gethostname()}, process {os.getpid()}, since {time.time():.3f}")
        file.flush()
        yield


@contextlib.contextmanager
def explained_disk_errors(workdir: Path) -> Iterator[None]:
    """Turns an error of writing into a `UserError` that says how to go on."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{error.filename or workdir}: {error.strerror or error}; the same command resumes from the last save."
        ) from error
