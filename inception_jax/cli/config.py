"""Reads config files, such as those of configs/, with overrides of their fields."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inception_jax.cli.app import Command
from inception_jax.errors import UserError, printable

if TYPE_CHECKING:
    from inception_jax.training.config import DataConfig, TrainConfig


def run_data(workdir: str | os.PathLike[str]) -> DataConfig:
    """Returns the data of a run, as the last of its checkpoints that can be read has it.

    Raises:
      UserError: there is none.
    """
    from inception_jax.training.config import TrainConfig
    from inception_jax.training.workdir import resolve_workdir, saved_steps

    folder = resolve_workdir(workdir)
    for step in reversed(saved_steps(folder)):
        try:
            record = json.loads((folder / "checkpoints" / str(step) / "meta" / "metadata").read_text())
            return TrainConfig.parse_saved(record["config"]).data
        except (OSError, ValueError, KeyError, TypeError):  # a damaged one; whoever loads weights from it says so
            continue
    raise UserError(f"No checkpoint in {printable(workdir)} says what data it is of; --data does.")


class ConfigCommand(Command):
    """A command with --config and --set: it also takes the flags of train.py, `--config.FIELD=VALUE`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        from inception_jax.training.overrides import rewrite

        return super().parse_args(ctx, rewrite(args, "--set="))


def read_config(path: Path, changes: Sequence[str] = ()) -> TrainConfig:
    """Returns the `TrainConfig` of a config file, with fields changed by "FIELD=VALUE" (see `training.overrides`).

    Raises:
      UserError: there is no such file, it is no config, or a field or a value is wrong.
    """
    from ml_collections import ConfigDict

    from inception_jax.training.config import TrainConfig
    from inception_jax.training.overrides import apply_overrides

    values = _load(path)
    if changes:
        values = values if isinstance(values, ConfigDict) else ConfigDict(values)
        apply_overrides(values, changes)
    return TrainConfig.parse(values)


def _load(path: Path) -> Any:
    """Returns what `get_config` of a file returns."""
    if not path.is_file():
        raise UserError(f"--config {printable(path)}: there is no such file.")
    root = path.absolute().parent
    while (root / "__init__.py").exists():  # a config imports its neighbours by the name of their package
        root = root.parent
    specification = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
    if specification is None or specification.loader is None:
        raise UserError(f"--config {path}: it must be a Python file.")
    module = importlib.util.module_from_spec(specification)
    sys.path.insert(0, str(root))
    try:
        specification.loader.exec_module(module)
        return module.get_config()
    except Exception as error:  # of the code of the file
        raise UserError(f"--config {path}: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(root))
