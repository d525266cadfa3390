"""Reads the flags of train.py, which defines them."""

from __future__ import annotations

from absl import flags

from inception_jax.errors import UserError
from inception_jax.training.config import check_fields


def parse_flags(argv: list[str]) -> list[str]:
    """Returns the program's name, all that is left of the arguments; `flags.FLAGS` then has their values.

    Raises:
      UserError: a flag, a field, a value or the config file is not as needed.
    """
    check_fields(arg.split("=")[0].split(".", 1)[1] for arg in argv if arg.startswith(("--config.", "-config.")))
    try:
        positional = flags.FLAGS(argv)
        flags.FLAGS.config.keys()  # a file that did not load says so at its first use
    except Exception as error:  # of a flag, or of the code of the config file
        hint = ""
        if isinstance(error, AttributeError) and any("config.loss.aux_weights." in arg for arg in argv):
            hint = "; a flag changes the weights of heads that the config file names"
        raise UserError(f"{type(error).__name__}: {' '.join(str(error).split())[-300:]}{hint}") from error
    if positional[1:]:
        raise UserError(f"Unknown arguments: {' '.join(positional[1:])}. Flags start with --; see --help.")
    return positional
