"""The errors that a user can act on, each with the exit code of the programs. Everything else is a bug of ours."""

import logging


class UserError(ValueError):
    """Bad input or a bad environment: the message names the thing, the value and what is allowed, in one line.

    Attributes:
      everywhere: whether all processes of the run raise it at the same place.
    """

    exit_code = 2
    everywhere = False


class NonFiniteLossError(ArithmeticError):
    """The loss, its gradient or a parameter became NaN or infinite; the message names which, and the step."""

    exit_code = 3
    everywhere = True


class Interrupted(Exception):
    """A signal stopped the run after it saved its state; the same command resumes it (75 is EX_TEMPFAIL)."""

    exit_code = 75
    everywhere = True


EXPECTED = (UserError, NonFiniteLossError, Interrupted)
"""What entry points print without a traceback."""


def printable(text: object, keep: str = "") -> str:
    r"""Returns text that a terminal can show as it is: control characters, line breaks and lone surrogates are escaped.

    Names of files, classes and tensors come from strangers. Written raw, "\x1b]0;..." changes the terminal, a line
    break forges a line of a log, and a name that is no UTF-8 ends the program.

    Args:
      text: anything; `str` of it is taken.
      keep: characters that stay although they do not print, such as "\n" for a text of several lines.
    """
    return "".join(each if each.isprintable() or each in keep else _escaped(each) for each in str(text))


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's message, printable, without a full stop; without a message, its type."""
    lines = str(error).strip().splitlines()
    return printable(lines[0] if lines else type(error).__name__).rstrip(".")


def _escaped(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # a byte of a file name that is no UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


class PrintableFormatter(logging.Formatter):
    """Formats records of a log so that a name in them neither forges a line nor changes a terminal."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        return printable(super().formatMessage(record))
