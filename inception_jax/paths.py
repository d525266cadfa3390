"""Files that a user names: read only if they are regular ones, and written whole or not at all.

Every file of others is opened by `open_regular` or `read_bytes`, every result is written by `writing` or `write_bytes`.
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

MAX_NAME = 200  # bytes; a file system takes 255, and the partial file has a longer name


def user_path(text: str | os.PathLike[str]) -> Path:
    """Returns the path that a user means, with `~` and `~name` replaced by home folders.

    Raises:
      UserError: it is empty, holds a NUL, or names the home of an unknown user.
    """
    name = os.fspath(text)
    if not name:
        raise UserError("A path is empty.")
    if "\0" in name:
        raise UserError(f"{printable(name)} is no path: it holds a NUL character.")
    try:
        return Path(name).expanduser()
    except RuntimeError as error:  # pathlib's, where the user or the home is unknown
        raise UserError(f"{printable(name)}: {name.split('/')[0]!r} is no user of this machine.") from error


def open_regular(path: str | os.PathLike[str]) -> IO[bytes]:
    """Opens a regular file for reading; a FIFO, a device, a socket and a folder are refused, not waited for.

    Raises:
      UserError: it does not exist, cannot be opened, or is no regular file.
    """
    path = user_path(path)
    try:
        # Opening a FIFO would wait for a writer without O_NONBLOCK, which regular files ignore.
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
    """Raises the `UserError` of `open_regular`, for libraries that open a file by its name."""
    open_regular(path).close()


def read_bytes(path: str | os.PathLike[str], limit: int | None = None) -> bytes:
    """Returns what a regular file holds.

    Raises:
      UserError: as `open_regular`; or it cannot be read, or holds over `limit` bytes.
    """
    with open_regular(path) as file:
        try:
            content = file.read() if limit is None else file.read(limit + 1)
        except OSError as error:
            raise UserError(f"{printable(path)}: {error.strerror}.") from error
    if limit is not None and len(content) > limit:
        raise UserError(f"{printable(path)} is over the limit of {limit:,} bytes.")
    return content


def as_text(content: bytes, what: str) -> str:
    """Returns the text of a file that a person or a spreadsheet wrote, without a byte order mark.

    Args:
      content: of the file.
      what: its name, for the message.

    Raises:
      UserError: it is UTF-16 or no UTF-8.
    """
    _refuse_utf16(content, what)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{printable(what)}, line {line}: it is no UTF-8 text; save it as UTF-8.") from error


def listed(content: bytes, what: str) -> list[str]:
    """Returns the entries of a list of names, one a line, or each followed by a NUL (as `find -print0` writes them).

    Lines may end as Windows ends them, and a byte order mark is taken off. Blank lines are no entries. Bytes that are
    no UTF-8 stay in a name, as the functions of `os` take them.

    Args:
      content: of the list.
      what: its name, for the message.

    Raises:
      UserError: it is UTF-16.
    """
    _refuse_utf16(content, what)
    content = content.removeprefix(codecs.BOM_UTF8)
    entries = content.split(b"\0") if b"\0" in content else content.splitlines()
    return [os.fsdecode(entry) for entry in entries if entry.strip()]


def _refuse_utf16(content: bytes, what: str) -> None:
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise UserError(f"{printable(what)} is UTF-16 text; save it as UTF-8.")


def check_output(path: str | os.PathLike[str], overwrite: bool, suffixes: tuple[str, ...] = ()) -> Path:
    """Returns the path of a file to be written, checked before the work that makes it.

    Args:
      path: of the file.
      overwrite: whether a file that exists is replaced.
      suffixes: what its name may end in; anything, if none is given.

    Raises:
      UserError: another suffix, the file exists, is no regular file, or its folder is missing or not writable.
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
    """Gives a file to write into, which appears under its name complete or, if the block raises, not at all.

    A link stays a link: the file that it names is replaced.

    Raises:
      UserError: as `check_output`; or it cannot be written.
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
    """Writes a file that appears complete or not at all; raises the `UserError` of `writing`."""
    with writing(path, overwrite) as file:
        file.write(content)
