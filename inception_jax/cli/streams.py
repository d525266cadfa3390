"""The standard streams: characters they cannot encode are escaped; a failing stream ends the program in one line."""

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
    """The program that reads our output has ended, as `head` does; this is not an error."""

    exit_code = 141  # that of a program ended by SIGPIPE


class Guarded:
    """A text stream that can write any name, and whose failure is a `UserError` rather than an `OSError`.

    Args:
      stream: the stream to write to.
      name: of the stream, for messages.
      quiet: whether to ignore failures, as on stderr, where they cannot be reported.
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
          UserError: it cannot be written, for example because a disk is full.
          ReaderLeft: the reader has ended.
        """
        with self._failing():
            self._stream.write(text)
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Writes what is buffered; raises as `write`."""
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
        """Redirects the stream to /dev/null: Python writes buffered text when it ends, and would raise again."""
        with contextlib.suppress(OSError):  # a stream without a file
            nowhere = os.open(os.devnull, os.O_RDWR)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


@contextlib.contextmanager
def standard_streams() -> Iterator[None]:
    """Wraps stdout and stderr in `Guarded` for a block, and flushes them at its end.

    Raises:
      UserError: stdout cannot be written, or stdin is closed when it is read.
      ReaderLeft: the reader of stdout has ended.
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
        with contextlib.suppress(UserError, ReaderLeft):  # an error of the block takes precedence
            sys.stdout.flush()
        sys.stderr.flush()
        logger.removeHandler(log)
        sys.stdin, sys.stdout, sys.stderr = before


def _open_missing() -> None:
    """Replaces closed streams (`>&-`), for which Python has None, by streams that fail.

    Otherwise the next files that are opened would get their file descriptors.
    """
    for name in NAMES:
        if getattr(sys, name) is None:
            use = {"stdin": os.O_WRONLY, "stdout": os.O_RDONLY, "stderr": os.O_WRONLY}[name]
            number, mode = os.open(os.devnull, use), "r" if name == "stdin" else "w"
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


def read_lines() -> list[str]:
    """Returns the names on stdin: one a line, or separated by NULs if there are any; names may hold any other bytes.

    Raises:
      UserError: stdin cannot be read, or is UTF-16.
    """
    try:
        buffer = getattr(sys.stdin, "buffer", None)
        content = buffer.read() if buffer else os.fsencode(sys.stdin.read())
    except OSError as error:
        raise UserError(f"stdin cannot be read: {error.strerror or error}.") from error
    return listed(content, "stdin")
