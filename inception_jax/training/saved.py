"""Reads what a run has learned: the variables of one of its checkpoints, without the optimizer and its devices."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import traverse_util

from inception_jax import weights
from inception_jax.errors import UserError, printable
from inception_jax.parallel.devices import start_devices
from inception_jax.training.checkpoints import host_checksum
from inception_jax.training.config import TrainConfig
from inception_jax.training.provenance import CLASSES, card_info, read_classes, read_start_info
from inception_jax.training.records import (
    FIGURES,
    DamagedCheckpoint,
    Metrics,
    best_step,
    read_error,
    read_evaluation,
    read_record,
)
from inception_jax.training.workdir import Folder, resolve_workdir, saved_steps

logger = logging.getLogger(__name__)


class Saved(NamedTuple):
    """Variables of a run.

    Attributes:
      variables: {"params", "batch_stats"}, as NumPy arrays.
      config: of the run.
      step: after which they were saved.
      averaged: whether they are the average over the steps.
      metrics: of the evaluation of that checkpoint; None if it was not evaluated.
    """

    variables: dict[str, Any]
    config: TrainConfig
    step: int
    averaged: bool
    metrics: Metrics | None = None


def is_run(folder: str | os.PathLike[str]) -> bool:
    """Returns whether a folder is the workdir of a run that has started to save checkpoints."""
    try:
        return (resolve_workdir(folder) / "checkpoints").is_dir()
    except (OSError, ValueError, ImportError, RuntimeError):  # RuntimeError: the home folder of "~" is unknown
        return False


def read_variables(workdir: str | os.PathLike[str], average: bool | None = None, step: int | None = None) -> Saved:
    """Returns {"params", "batch_stats"} of a run; writes nothing to its folder and compiles nothing.

    Args:
      workdir: of the run.
      average: whether to read the averaged variables (see `config.ema_decay`); None: if the run has them.
      step: of the checkpoint; None: the best, or the last if none was evaluated. Damaged checkpoints are then skipped
        with a warning.

    Raises:
      UserError: there is no such checkpoint; it has no average, an unknown format or damage; or it cannot be read for
        reasons outside it, such as a device that does not start.
    """
    start_devices()  # Orbax would start them, and its error about a device looks like damage
    workdir = resolve_workdir(workdir)
    steps = _wanted(workdir, step)
    records, metrics = {}, {}
    damages: dict[int, DamagedCheckpoint] = {}
    for each in steps:
        path = _folder(workdir, each)
        try:
            records[each] = read_record(path)
            metrics[each] = read_evaluation(path, records[each])
        except DamagedCheckpoint as damage:
            damages[each] = damage
            records.pop(each, None)
    while records:
        best = best_step({each: metrics[each] for each in records})
        try:
            saved = _read_step(workdir, best, records.pop(best), average)._replace(metrics=metrics[best])
        except DamagedCheckpoint as damage:
            damages[best] = damage
            continue
        for each, reason in sorted(damages.items()):
            logger.warning(
                "checkpoint %s is damaged (%s) and left out; step %s is read, the best of the others.",
                printable(_folder(workdir, each)), printable(reason), best,
            )  # fmt: skip
        return saved
    first = max(damages)
    others = [each for each in saved_steps(workdir) if each not in damages]
    words = f"Checkpoint {printable(_folder(workdir, first))} is damaged ({printable(damages[first])})."
    raise UserError(f"{words} Other steps: {others or 'none'}.") from damages[first]


def run_weights(workdir: str | os.PathLike[str], average: bool | None = None) -> weights.Weights:
    """Returns the variables of the best checkpoint of a run, with all that building their network takes.

    Args:
      workdir: of the run.
      average: whether to read the averaged variables; None: if the run has them.

    Raises:
      UserError: as `read_variables`; or the run started from weights and its record is missing; or classes.txt does not
        fit the number of classes.
    """
    return read_run(workdir, average).learned


class Run(NamedTuple):
    """The weights of a run, and how it made them.

    Attributes:
      learned: the weights of the best checkpoint.
      step: after which they were saved.
      averaged: whether they are the average over the steps.
      data, split: of the evaluation.
      metrics: top1, top5 and loss of these weights in that evaluation; {} if it was not made.
      command: that started the run; "": not recorded, as in earlier versions.
    """

    learned: weights.Weights
    step: int
    averaged: bool
    data: str
    split: str
    metrics: Metrics
    command: str


def read_run(workdir: str | os.PathLike[str], average: bool | None = None) -> Run:
    """Returns the weights of a run, as `run_weights`, with what its files say of them."""
    variables, config, step, averaged, metrics = read_variables(workdir, average)
    num_classes = len(variables["params"]["classifier"]["linear"]["bias"])
    workdir = resolve_workdir(workdir)
    scratch = config.finetune.weights is None
    info = card_info(config, num_classes) if scratch else read_start_info(workdir)
    source = f"the run {workdir}, step {step:,}, {'averaged' if averaged else 'not averaged'}"
    class_names = _read_classes(workdir, num_classes)
    info = dataclasses.replace(info, source=source, sha256="", num_classes=num_classes, class_names=class_names)
    report = weights.Report(loaded=tuple(weights.Weights(info, variables).flat()), notes=(f"from {source}",))
    return Run(
        learned=weights.Weights(info, variables, report),
        step=step,
        averaged=averaged,
        data=config.data.name,
        split=config.data.eval_split,
        metrics=_own_metrics(metrics or {}, averaged),
        command=_read_command(workdir),
    )


def _own_metrics(metrics: Metrics, averaged: bool) -> Metrics:
    """Returns the figures of an evaluation that are of the averaged variables, or of the others."""
    prefix = "eval_ema" if averaged else "eval"
    return {name: metrics[key] for name in FIGURES if (key := f"{prefix}/{name}") in metrics}


def _read_command(workdir: Folder) -> str:
    """Returns the command that started a run, from its summary; "" if it has none, or it is damaged."""
    try:
        command = json.loads((workdir / "summary.json").read_bytes()).get("command", "")
    except (OSError, ValueError, AttributeError):
        return ""
    return command if isinstance(command, str) else ""


def _folder(workdir: Folder, step: int) -> Folder:
    return workdir / "checkpoints" / str(step)


def _wanted(workdir: Folder, step: int | None) -> list[int]:
    """Returns the steps of the checkpoints to choose from: the one of `step`, or all."""
    steps = saved_steps(workdir)
    shown = printable(workdir)
    if not steps:
        raise UserError(f"{shown} holds no complete checkpoint of a run (they would be in {shown}/checkpoints).")
    if step is None:
        return steps
    if step not in steps:
        raise UserError(f"{shown} has no checkpoint of step {step}; it has {', '.join(map(str, steps))}.")
    return [step]


def _read_step(workdir: Folder, step: int, record: dict[str, Any], average: bool | None) -> Saved:
    """Reads the variables of one checkpoint, as `read_variables`."""
    kept = any(name.startswith("ema/") for name in record["checksums"])
    if average and not kept:
        raise UserError(
            f"The run in {printable(workdir)} kept no average of its parameters (its config.ema_decay is None); "
            "average=False reads the parameters themselves."
        )
    averaged = kept if average is None else average
    variables = _read_arrays(_folder(workdir, step), record["checksums"], "ema/" if averaged else "")
    return Saved(variables, TrainConfig.parse_saved(record["config"]), step, averaged)


def _read_arrays(path: Folder, checksums: dict[str, int], root: str) -> dict[str, Any]:
    """Returns the variables of a checkpoint whose paths begin with `root`: "" or "ema/".

    Raises:
      DamagedCheckpoint: they differ from what was written.
      UserError: they cannot be read for reasons outside the files.
    """
    names = [name for name in checksums if name.startswith((f"{root}params/", f"{root}batch_stats/"))]
    item = traverse_util.unflatten_dict({tuple(name.split("/")): 0 for name in names})
    on_host = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), item)
    args = ocp.args.PyTreeRestore(item=item, restore_args=on_host, partial_restore=True)
    try:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
            tree = reader.restore(path / "state", args=args)
    except Exception as error:  # Orbax and TensorStore raise whatever they like on damaged files
        meant = read_error(error, path)
        if meant is error:
            raise
        raise meant from error
    flat = traverse_util.flatten_dict(tree, sep="/")
    wrong = [name for name in names if host_checksum(flat[name]) != checksums[name]]
    if wrong:
        raise DamagedCheckpoint(f"{len(wrong)} arrays read back changed, the first is {wrong[0]}")
    return {"params": {}, "batch_stats": {}} | (tree["ema"] if root else tree)


def _read_classes(workdir: Folder, num_classes: int) -> tuple[str, ...]:
    class_names = read_classes(workdir)
    if class_names and len(class_names) != num_classes:
        raise UserError(
            f"{workdir / CLASSES} holds {len(class_names)} class names, and the run in {workdir} has {num_classes}."
        )
    return class_names
