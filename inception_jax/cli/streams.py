"""The standard streams: what they cannot encode is escaped, and one that fails ends the program in one line."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast

from inception_jax.errors import PrintableFormatter, UserError
from inception_jax.paths import listed

NAMES = ("stdin", "stdout", "stderr")


class ReaderLeft(Exception):
    """The program that reads our output has ended, as `head` does. No error: nobody wants the rest."""

    exit_code = 141  # of programs that SIGPIPE ends


class Guarded:
    """A text stream that never raises for a name, and whose failure is no `OSError` as that of any other file is.

    Args:
      stream: what it writes to.
      name: of the stream, for messages.
      quiet: whether a failure is silent, as on stderr, where nothing can be said about it.
    """

    def __init__(self, stream: TextIO, name: str, quiet: bool = False):
        self._stream, self._name, self._quiet = stream, name, quiet
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes a text.

        Raises:
          UserError: it cannot be written, because a disk is full, for instance.
          ReaderLeft: nobody reads it.
        """
        with self._failing():
            self._stream.write(text)
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Writes what waits in memory; raises as `write`."""
        with self._failing():
            self._stream.flush()

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError as error:
            self._leave()
            if not self._quiet:
                raise ReaderLeft from error
        except OSError as error:
            self._leave()
            if not self._quiet:
                raise UserError(f"{self._name} cannot be written: {error.strerror or error}.") from error

    def _leave(self) -> None:
        """Sends what waits in memory, and what is still to come, nowhere: Python writes it when it ends, or raises."""
        with contextlib.suppress(OSError):  # a stream without a file
            nowhere = os.open(os.devnull, os.O_RDWR)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


@contextlib.contextmanager
def standard_streams() -> Iterator[None]:
    """Guards stdout and stderr in a block, and writes at its end what waits in memory.

    Raises:
      UserError: stdout cannot be written; stdin, once it is read, is closed.
      ReaderLeft: nobody reads stdout.
    """
    before = sys.stdin, sys.stdout, sys.stderr
    _open_missing()
    sys.stdout = cast(TextIO, Guarded(sys.stdout, "stdout"))
    sys.stderr = cast(TextIO, Guarded(sys.stderr, "stderr", quiet=True))
    log = logging.StreamHandler(sys.stderr)
    log.setFormatter(PrintableFormatter("inception-jax: %(message)s"))
    logger = logging.getLogger("inception_jax")
    logger.addHandler(log)
    try:
        yield
        sys.stdout.flush()
    finally:
        with contextlib.suppress(UserError, ReaderLeft):  # an error of the block is the one to tell
            sys.stdout.flush()
        sys.stderr.flush()
        logger.removeHandler(log)
        sys.stdin, sys.stdout, sys.stderr = before


def _open_missing() -> None:
    """Puts streams that fail in the place of those that were closed (`>&-`), for which Python has None.

    Their numbers would else be those of the next files that are opened.
    """
    for name in NAMES:
        if getattr(sys, name) is None:
            use = {"stdin": os.O_WRONLY, "stdout": os.O_RDONLY, "stderr": os.O_WRONLY}[name]
            number, mode = os.open(os.devnull, use), "r" if name == "stdin" else "w"
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


def read_lines() -> list[str]:
    """Returns the names that stdin lists: one a line, or between NULs where it holds some; any bytes are names.

    Raises:
      UserError: it cannot be read, or is UTF-16.
    """
    try:
        buffer = getattr(sys.stdin, "buffer", None)
        content = buffer.read() if buffer else os.fsencode(sys.stdin.read())
    except OSError as error:
        raise UserError(f"stdin cannot be read: {error.strerror or error}.") from error
    return listed(content, "stdin")
