"""The errors that a user can act on, each with the exit code of the programs. Everything else is a bug of ours."""


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
