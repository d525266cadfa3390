"""The `inception-jax` command. JAX is imported inside the commands, so that --help and --version answer at once."""

from __future__ import annotations

import sys

from inception_jax.cli import bench as bench
from inception_jax.cli import bench_data as bench_data
from inception_jax.cli import evaluate as evaluate
from inception_jax.cli import export as export
from inception_jax.cli import plan as plan
from inception_jax.cli import predict as predict
from inception_jax.cli import views as views
from inception_jax.cli import weights as weights
from inception_jax.cli import zoo as zoo
from inception_jax.cli.app import app
from inception_jax.errors import EXPECTED, UserError


def main() -> None:
    """Runs the command line; an expected error is one line on stderr and its exit code, 2 for a user's mistake."""
    try:
        app()
    except EXPECTED as error:
        print(f"inception-jax: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except RuntimeError as error:
        from inception_jax.parallel.devices import explain

        meant = explain(error)
        if not isinstance(meant, UserError):
            raise
        print(f"inception-jax: {meant}", file=sys.stderr)
        sys.exit(meant.exit_code)
