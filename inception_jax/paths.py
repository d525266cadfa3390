"""Files that a user names: only regular files are read, and files are written completely or not at all.

All files of a user are opened by `open_regular` or `read_bytes`; all results are written by `writing` or `write_bytes`.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from inception_jax.errors import UserError, printable

MAX_NAME = 200  # bytes; file systems allow 255, and the name of the partial file is longer


def user_path(text: str | os.PathLike[str]) -> Path:
    """Returns the path for a text, with `~` and `~name` replaced by home folders.

    Raises:
      UserError: the text is empty, holds a NUL character, or names the home of an unknown user.
    """
    name = os.fspath(text)
    if not name:
        raise UserError("A path is empty.")
    if "\0" in name:
        raise UserError(f"{printable(name)} is not a path: it holds a NUL character.")
    try:
        return Path(name).expanduser()
    except RuntimeError as error:  # pathlib's, where the user or the home is unknown
        raise UserError(f"{printable(name)}: {name.split('/')[0]!r} is no user of this machine.") from error


def open_regular(path: str | os.PathLike[str]) -> IO[bytes]:
    """Opens a regular file for reading. FIFOs, devices, sockets and folders are refused at once, without blocking.

    Raises:
      UserError: the file does not exist, cannot be opened, or is not regular.
    """
    path = user_path(path)
    try:
        # Without O_NONBLOCK, opening a FIFO would wait for a writer. Regular files ignore the flag.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return os.fdopen(descriptor, "rb")
        os.close(descriptor)
    except OSError as error:
        if error.errno != errno.ENXIO:  # a socket, or a device that is not there
            raise UserError(f"{printable(path)}: {error.strerror}.") from error
    what = "a folder" if path.is_dir() else "a FIFO, a socket or a device"
    raise UserError(f"{printable(path)} is no regular file but {what}.")


def check_regular(path: str | os.PathLike[str]) -> None:
    """Raises the `UserError` of `open_regular`; for files that a library opens by name."""
    open_regular(path).close()


def read_bytes(path: str | os.PathLike[str], limit: int | None = None) -> bytes:
    """Returns the content of a regular file.

    Raises:
      UserError: as `open_regular`; or the file cannot be read, or has more than `limit` bytes.
    """
    with open_regular(path) as file:
        try:
            # Python allocates as much as it is asked to read.
            size = os.fstat(file.fileno()).st_size
            content = file.read() if limit is None else file.read(min(limit, size) + 1)
        except OSError as error:
            raise UserError(f"{printable(path)}: {error.strerror}.") from error
    if limit is not None and len(content) > limit:
        raise UserError(f"{printable(path)} is over the limit of {limit:,} bytes.")
    return content


def as_text(content: bytes, what: str) -> str:
    """Returns the content of a UTF-8 file as text, without a byte order mark.

    Args:
      content: of the file.
      what: its name, for the message.

    Raises:
      UserError: the content is not UTF-8.
    """
    _refuse_utf16(content, what)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{printable(what)}, line {line}: it is no UTF-8 text; save it as UTF-8.") from error


def listed(content: bytes, what: str) -> list[str]:
    """Returns the entries of a list of names, one a line, or each followed by a NUL (as `find -print0` writes them).

    Windows line ends are allowed; a byte order mark and blank lines are dropped. Bytes that are not UTF-8 are decoded
    by `os.fsdecode`.

    Args:
      content: of the list.
      what: its name, for the message.

    Raises:
      UserError: the list is UTF-16.
    """
    _refuse_utf16(content, what)
    content = content.removeprefix(codecs.BOM_UTF8)
    entries = content.split(b"\0") if b"\0" in content else content.splitlines()
    return [os.fsdecode(entry) for entry in entries if entry.strip()]


def _refuse_utf16(content: bytes, what: str) -> None:
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise UserError(f"{printable(what)} is UTF-16 text; save it as UTF-8.")


def check_output(path: str | os.PathLike[str], overwrite: bool, suffixes: tuple[str, ...] = ()) -> Path:
    """Returns the path of a file to be written, after checking that it can be written.

    Args:
      path: of the file.
      overwrite: whether an existing file may be replaced.
      suffixes: the allowed suffixes; (): any.

    Raises:
      UserError: the suffix is not allowed, the file exists, it is not regular, or its folder is missing or not
        writable.
    """
    path = user_path(path)
    if suffixes and path.suffix.lower() not in suffixes:
        raise UserError(f"{printable(path)} must end in {' or '.join(suffixes)}.")
    if not path.name or len(os.fsencode(path.name)) > MAX_NAME:
        raise UserError(f"{printable(path)} is no name for a file: it needs 1 to {MAX_NAME} bytes.")
    try:
        exists = stat.S_IFMT(path.stat().st_mode)
    except FileNotFoundError:
        exists = 0
    except OSError as error:
        raise UserError(f"{printable(path)} cannot be written: {error.strerror}.") from error
    if exists and exists != stat.S_IFREG:
        raise UserError(f"{printable(path)} is no regular file, so it is not replaced.")
    if exists and not overwrite:
        raise UserError(f"{printable(path)} exists; --overwrite replaces it (overwrite=True in Python).")
    folder = path.absolute().parent
    if not folder.is_dir():
        raise UserError(f"{printable(folder)} is no folder.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"{printable(folder)} is not writable.")
    return path


@contextlib.contextmanager
def writing(path: str | os.PathLike[str], overwrite: bool = True) -> Iterator[IO[bytes]]:
    """Yields a file to write into, which appears under its name when the block ends; if it raises, no file appears.

    A symbolic link stays: the file that it points to is replaced.

    Raises:
      UserError: as `check_output`; or the file cannot be written.
    """
    target = Path(os.path.realpath(check_output(path, overwrite)))
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        try:
            with partial.open("wb") as file:
                yield file
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{printable(path)} cannot be written: {error.strerror or error}.") from error


def write_bytes(path: str | os.PathLike[str], content: bytes, overwrite: bool = True) -> None:
    """Writes a file, completely or not at all; raises the `UserError` of `writing`."""
    with writing(path, overwrite) as file:
        file.write(content)
