"""The errors that a user can act on, each with an exit code. Any other exception is a bug of this package."""

import logging


class UserError(ValueError):
    """Bad input or a bad environment: the message names the object, the value and the allowed values, in one line.

    Attributes:
      exit_code: of the programs.
      everywhere: whether all processes of a run raise it at the same point.
    """

    exit_code = 2
    everywhere = False


class NonFiniteLossError(ArithmeticError):
    """The loss, its gradient or a parameter became NaN or infinite; the message says which one, and the step."""

    exit_code = 3
    everywhere = True


class Interrupted(Exception):
    """A signal stopped the run after it saved its state; the same command resumes it (75 is EX_TEMPFAIL)."""

    exit_code = 75
    everywhere = True


EXPECTED = (UserError, NonFiniteLossError, Interrupted)
"""Exceptions that programs print without a traceback."""


def printable(text: object, keep: str = "") -> str:
    r"""Returns a text with control characters, line breaks and lone surrogates escaped, safe for a terminal.

    Names of files, classes and tensors are untrusted. Printed raw, "\x1b]0;..." changes the terminal, a line break
    forges a line of a log, and a name that is not UTF-8 raises an exception.

    Args:
      text: any object; `str(text)` is used.
      keep: unprintable characters that stay, such as "\n" for a text of several lines.
    """
    return "".join(each if each.isprintable() or each in keep else _escaped(each) for each in str(text))


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's message, printable, without a full stop; the type if it has no message."""
    lines = str(error).strip().splitlines()
    return printable(lines[0] if lines else type(error).__name__).rstrip(".")


def _escaped(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # a byte of a file name that is not UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


class PrintableFormatter(logging.Formatter):
    """Formats log records with `printable`, so that no name in them forges a line or changes the terminal."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        return printable(super().formatMessage(record))
