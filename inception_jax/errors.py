"""The one exception that a user can act on."""


class UserError(ValueError):
    """Bad input or a bad environment: the message names the thing, the value and what is allowed, in one line.

    Entry points print it without a traceback and exit with a non-zero code; everything else is a bug of ours.
    """
