"""Reads the experiments that commands name: files of configs/, with fields changed."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

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


def read_config(path: Path, changes: Sequence[str] = ()) -> TrainConfig:
    """Returns the `TrainConfig` of a config file, with fields changed by "FIELD=VALUE", a Python literal or a word.

    Raises:
      UserError: there is no such file, it is no config, or a field or a value is not as needed.
    """
    from inception_jax.training.config import TrainConfig, check_fields

    values = _load(path)
    for change in changes:
        name, equals, text = change.partition("=")
        if not equals:
            raise UserError(f"--set {change}: it must be FIELD=VALUE, such as model.aux=False.")
        check_fields([name])
        section, _, field = name.rpartition(".")
        target = values
        for part in filter(None, section.split(".")):
            target = target[part]
        try:
            target[field] = _value(text)
        except (TypeError, ValueError) as error:
            raise UserError(f"--set {change}: {error}") from error
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


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
