"""Checks that the folder of a run can be written and has enough disk space for its checkpoints."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import jax

from inception_jax.errors import UserError
from inception_jax.parallel.processes import is_main
from inception_jax.training.workdir import Folder


def check_disk_space(workdir: Folder, keep_checkpoints: int, abstract_state: Any) -> None:
    """Creates a local folder and checks its disk space; of a bucket, checks that it can be written.

    Args:
      workdir: of the run.
      keep_checkpoints: how many of the last checkpoints stay.
      abstract_state: shapes and dtypes of the state.

    Raises:
      UserError: it cannot be written, or is too small for `keep_checkpoints` states, the best one and the one in
        progress.
    """
    if not isinstance(workdir, Path):
        _check_bucket(workdir)
        return
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"workdir {workdir} cannot be created: {error.strerror}.") from error
    if not os.access(workdir, os.W_OK):
        raise UserError(f"workdir {workdir} is not writable.")
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(abstract_state))
    needed = size * (keep_checkpoints + 2)
    held = sum(file.stat().st_size for file in workdir.glob("checkpoints/[0-9]*[0-9]/**/*") if file.is_file())
    free = shutil.disk_usage(workdir).free
    if free + held < needed:
        raise UserError(
            f"workdir {workdir} has {free / 2**20:,.0f} MiB free; {keep_checkpoints + 2} checkpoints of "
            f"{size / 2**20:,.0f} MiB need {needed / 2**20:,.0f} MiB. Free some, or lower config.keep_checkpoints."
        )


def _check_bucket(workdir: Folder) -> None:
    if not is_main():
        return
    try:
        import gcsfs  # noqa: F401  # needed for small files
        import google.cloud.storage  # noqa: F401  # needed to delete checkpoints

        probe = workdir / ".probe"
        probe.write_text("")
        probe.unlink()
    except ImportError as error:
        raise UserError(f"workdir {workdir} needs `pip install inception-jax[gcs]`: {error}.") from error
    except Exception as error:  # network, credentials or bucket: each library has its own
        raise UserError(f"workdir {workdir} cannot be written: {type(error).__name__}: {str(error)[:200]}") from error
