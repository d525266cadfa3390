"""What a run of ours has learned: the variables in one of its checkpoints, read without optimizer and devices."""

from __future__ import annotations

import json
import os
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import traverse_util

from inception_jax.errors import UserError
from inception_jax.training.checkpoints import DamagedCheckpoint, check_format, first_line, host_checksum
from inception_jax.training.config import TrainConfig
from inception_jax.training.workdir import Folder, resolve_workdir, saved_steps


class Saved(NamedTuple):
    """Variables of a run, as NumPy arrays, with the config of the run and the step after which they were saved."""

    variables: dict[str, Any]
    config: TrainConfig
    step: int
    averaged: bool


def is_run(folder: str | os.PathLike[str]) -> bool:
    """Returns whether a folder is the workdir of a run that has begun to save."""
    try:
        return (resolve_workdir(folder) / "checkpoints").is_dir()
    except (OSError, ValueError, ImportError, RuntimeError):  # the last one where a home is unknown
        return False


def read_variables(workdir: str | os.PathLike[str], average: bool | None = None, step: int | None = None) -> Saved:
    """Returns {"params", "batch_stats"} of a run; changes nothing in its folder, and compiles nothing.

    Args:
      workdir: of the run.
      average: whether to read the averaged ones (see `config.ema_decay`); None: if the run kept them.
      step: of the checkpoint; None: the best, or the last if none was evaluated.

    Raises:
      UserError: no such checkpoint, no average in it, another format, or it is damaged.
    """
    workdir = resolve_workdir(workdir)
    path = _choose(workdir, step)
    try:
        meta = _read_meta(path)
        kept = any(name.startswith("ema/") for name in meta["checksums"])
        if average and not kept:
            raise UserError(
                f"The run in {workdir} kept no average of its parameters (its config.ema_decay is None); "
                "average=False reads the parameters themselves."
            )
        averaged = kept if average is None else average
        variables = _read_arrays(path, meta["checksums"], "ema/" if averaged else "")
    except DamagedCheckpoint as damage:
        raise UserError(_damaged(path, damage)) from damage
    return Saved(variables, TrainConfig.parse_saved(meta["config"]), int(path.name), averaged)


def _choose(workdir: Folder, step: int | None) -> Folder:
    """Returns the folder of the checkpoint of a step, or of the best; of equals the last, as Orbax keeps it."""
    steps = saved_steps(workdir)
    if not steps:
        raise UserError(f"{workdir} holds no complete checkpoint of a run (they would be in {workdir}/checkpoints).")
    if step is None:
        step = max(steps, key=lambda each: (_score(workdir / "checkpoints" / str(each)), each))
    if step not in steps:
        raise UserError(f"{workdir} has no checkpoint of step {step}; it has {', '.join(map(str, steps))}.")
    return workdir / "checkpoints" / str(step)


def _score(path: Folder) -> float:
    """Returns the metric by which the run picks its best checkpoint; -inf if this one was not evaluated."""
    try:
        metrics = json.loads((path / "metrics" / "metrics").read_text())
        return float(metrics["eval_ema/top1" if "eval_ema/top1" in metrics else "eval/top1"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(_damaged(path, error)) from error


def _read_meta(path: Folder) -> dict[str, Any]:
    try:
        meta = json.loads((path / "meta" / "metadata").read_text())
    except (OSError, ValueError) as error:
        raise DamagedCheckpoint(first_line(error)) from error
    check_format(path, meta)
    return meta


def _read_arrays(path: Folder, checksums: dict[str, int], root: str) -> dict[str, Any]:
    """Returns the variables of a state whose paths begin with `root`: "" or "ema/".

    Raises:
      DamagedCheckpoint: they cannot be read, or are not what was written.
    """
    names = [name for name in checksums if name.startswith((f"{root}params/", f"{root}batch_stats/"))]
    item = traverse_util.unflatten_dict({tuple(name.split("/")): 0 for name in names})
    on_host = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), item)
    args = ocp.args.PyTreeRestore(item=item, restore_args=on_host, partial_restore=True)
    try:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
            tree = reader.restore(path / "state", args=args)
    except (MemoryError, PermissionError):
        raise
    except Exception as error:  # Orbax and TensorStore raise whatever they like on damaged files
        raise DamagedCheckpoint(first_line(error)) from error
    flat = traverse_util.flatten_dict(tree, sep="/")
    wrong = [name for name in names if host_checksum(flat[name]) != checksums[name]]
    if wrong:
        raise DamagedCheckpoint(f"{len(wrong)} arrays read back changed, the first is {wrong[0]}")
    return {"params": {}, "batch_stats": {}} | (tree["ema"] if root else tree)


def _damaged(path: Folder, why: BaseException) -> str:
    others = [step for step in saved_steps(path.parents[1]) if step != int(path.name)]
    return f"Checkpoint {path} is damaged ({first_line(why)}). Other steps: {others or 'none'}."
