"""The `inception-jax` command. JAX is imported inside the commands, so that --help and --version answer at once."""

from __future__ import annotations

import errno
import sys

from inception_jax.cli import bench as bench
from inception_jax.cli import bench_data as bench_data
from inception_jax.cli import evaluate as evaluate
from inception_jax.cli import export as export
from inception_jax.cli import plan as plan
from inception_jax.cli import predict as predict
from inception_jax.cli import push as push
from inception_jax.cli import views as views
from inception_jax.cli import weights as weights
from inception_jax.cli import zoo as zoo
from inception_jax.cli.app import ClickError, app, usage
from inception_jax.cli.streams import ReaderLeft, standard_streams
from inception_jax.errors import EXPECTED, UserError, printable

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)


def main() -> None:
    """Runs the command line; an expected error prints one line on stderr; a user's mistake exits with code 2."""
    try:
        with standard_streams():
            code = _run()
    except ReaderLeft as left:
        code = left.exit_code
    except EXPECTED as error:
        code = _report(error, error.exit_code)
    sys.exit(code)


def _run() -> int:
    """Runs a command and returns the exit code.

    Raises:
      ReaderLeft: the program that reads the output has ended.
      Exception: a bug of this package.
    """
    try:
        return int(app(standalone_mode=False, prog_name="inception-jax") or 0)
    except ClickError as error:
        return _report(usage(error), error.exit_code)
    except EXPECTED as error:
        return _report(error, error.exit_code)
    except RuntimeError as error:
        from inception_jax.parallel.devices import explain

        meant = explain(error)
        if not isinstance(meant, UserError):
            raise
        return _report(meant, meant.exit_code)
    except OSError as error:
        # Errors about files name them. One without a file name is the user's only if it says that a disk is full.
        if error.filename is None and error.errno not in FULL:
            raise
        what = "" if error.filename is None else f"{error.filename}: "
        return _report(UserError(f"{what}{error.strerror or error}."), UserError.exit_code)


def _report(error: object, code: int) -> int:
    """Prints an error, unless its message is empty, and returns the exit code."""
    if text := printable(error):
        print(f"inception-jax: {text}", file=sys.stderr)
    return code
