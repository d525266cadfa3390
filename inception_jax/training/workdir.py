"""The folder of a run, local or in a bucket: its path, its lock, its files, and errors of its disk."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

from etils import epath

from inception_jax import paths
from inception_jax.errors import UserError, printable

Folder: TypeAlias = Path | epath.Path
"""A local folder, or a folder of a bucket."""

LOCK = ".lock"
BUCKET = "gs://"  # the only URL that Orbax writes arrays to; it refuses s3://
COMPLETE = "commit_success.txt"


def resolve_workdir(workdir: str | os.PathLike[str]) -> Folder:
    """Returns the absolute path of a local folder, or the folder of a bucket, "gs://BUCKET/PATH".

    Raises:
      UserError: it is another URL, is empty, or names something that is not a folder.
    """
    text = os.fspath(workdir)
    if not text.strip():
        raise UserError(f"workdir is {text!r}; it must name a folder, such as runs/first.")
    if text.startswith(BUCKET):
        return epath.Path(text)
    shown = printable(text)
    if "://" in text:
        raise UserError(f"workdir {shown} is a URL; allowed are {BUCKET}... and folders, also of a mounted bucket.")
    folder = paths.user_path(text).absolute()
    try:
        mode = folder.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):  # `check_disk_space` creates it, or raises
        return folder
    except OSError as error:
        raise UserError(f"workdir {shown} cannot be used: {error.strerror}.") from error
    if not stat.S_ISDIR(mode):
        raise UserError(f"workdir {shown} is no folder.")
    return folder


def is_local(folder: Folder) -> bool:
    """Returns whether a folder is in a file system."""
    return not str(folder).startswith(BUCKET)


def saved_steps(workdir: Folder) -> list[int]:
    """Returns the steps of the complete checkpoints, oldest first."""
    folder = workdir / "checkpoints"
    entries = [entry for entry in folder.iterdir() if entry.name.isdecimal()] if folder.is_dir() else []
    # In a file system a complete checkpoint is renamed to its step; in a bucket Orbax adds a marker file.
    return sorted(int(entry.name) for entry in entries if is_local(workdir) or (entry / COMPLETE).exists())


def write_whole(path: Folder, content: bytes) -> None:
    """Writes a small file atomically: by renaming in a file system, or as one object of a bucket.

    Raises:
      UserError: it cannot be written.
    """
    if is_local(path):
        paths.write_bytes(str(path), content)
    else:
        path.write_bytes(content)


@contextlib.contextmanager
def locked(workdir: Folder) -> Iterator[None]:
    """Locks `workdir` against other runs, and writes the owner into the lock file.

    The system releases the lock of a killed process. A bucket has no locks: there only the owner is written.

    Raises:
      UserError: another process is training there.
    """
    owner = f"{socket.gethostname()}, process {os.getpid()}, since {time.time():.3f}"
    if not is_local(workdir):
        (workdir / LOCK).write_text(owner)
        yield
        return
    with open(workdir / LOCK, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"Another process is training in {workdir}; wait for it, or use another workdir."
            ) from error
        file.truncate(0)
        file.write(owner)
        file.flush()
        yield


class LocalCopy:
    """A local folder for the small files of a workdir: the workdir itself, or a copy if that is in a bucket.

    Objects of a bucket cannot be appended to, so `publish` uploads whole files after each checkpoint. What a killed run
    did not publish belongs to steps that the resumed run repeats.

    Attributes:
      path: the local folder.
    """

    def __init__(self, workdir: Folder):
        self._workdir = workdir
        self._published: dict[Path, tuple[int, int]] = {}
        self.path = workdir if isinstance(workdir, Path) else Path(tempfile.mkdtemp(prefix="inception_jax-"))

    def fetch(self, *names: str) -> None:
        """Copies files from a bucket, where they exist."""
        for name in names:
            if not is_local(self._workdir) and (self._workdir / name).exists():
                (self.path / name).write_bytes((self._workdir / name).read_bytes())

    def publish(self) -> None:
        """Copies the files that have changed to the bucket, if there is one."""
        if is_local(self._workdir):
            return
        for file in sorted(file for file in self.path.rglob("*") if file.is_file()):
            version = file.stat().st_mtime_ns, file.stat().st_size
            if self._published.get(file) != version:
                write_whole(self._workdir / file.relative_to(self.path).as_posix(), file.read_bytes())
                self._published[file] = version


@contextlib.contextmanager
def explained_disk_errors(workdir: Folder) -> Iterator[None]:
    """Turns an OSError into a `UserError` that says how to resume."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{error.filename or workdir}: {error.strerror or error}; the same command resumes from the last save."
        ) from error
