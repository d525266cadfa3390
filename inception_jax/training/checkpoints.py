"""Writes and restores the checkpoints of a run. Only this module and `saved`, which reads finished runs, use Orbax.

A checkpoint is the whole `TrainState` and a record `meta` (see `records`). It is written in the background and appears
under its final name only when complete. The last few checkpoints and the best one are kept.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from inception_jax.errors import UserError, printable
from inception_jax.parallel.processes import exchange, is_main, together
from inception_jax.training.config import TrainConfig, changes_that_forbid_resuming
from inception_jax.training.records import (
    FORMAT_VERSION,
    DamagedCheckpoint,
    Metrics,
    best_step,
    read_error,
    read_evaluation,
    read_record,
    root_cause,
    sign,
    write_evaluation,
)
from inception_jax.training.state import TrainState
from inception_jax.training.workdir import Folder, is_local, saved_steps

logger = logging.getLogger(__name__)

ODD = 0x9E3779B1  # multiplier of the checksums


class Checkpoints:
    """The checkpoints of one run, in `folder`. As a context manager it waits for the last save.

    Args:
      folder: a local folder, or a folder of a bucket.
      keep: how many of the last checkpoints to keep, in addition to the best one (`records.best_step`).
      start: what the run started from, as JSON (see `provenance`); stored in every record.
    """

    def __init__(self, folder: Folder, keep: int, start: Mapping[str, Any] | None = None):
        self.folder, self._start = epath.Path(folder), start
        self._metrics: dict[int, Metrics | None] = {}  # by step, of checkpoints saved or read so far
        options = ocp.CheckpointManagerOptions(
            preservation_policy=_Preserve(keep, self._metrics_of),
            lightweight_initialize=True,  # otherwise Orbax reads old metrics and fails if they are damaged
            cleanup_tmp_directories=True,  # complete ones are renamed into place; the rest are leftovers
        )
        self._manager = ocp.CheckpointManager(folder, options=options)

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        try:
            if kind is None:
                self.wait()
            self._manager.close()
        except Exception as failure:  # a save failed while another error propagates
            if kind is None:
                raise
            logger.warning("the last checkpoint failed too: %s", failure)

    def steps(self) -> list[int]:
        """Returns the steps of the complete checkpoints, oldest first."""
        return sorted(self._manager.all_steps())

    def metrics(self) -> dict[int, Metrics | None]:
        """Returns the metrics of each undamaged checkpoint by step; None where it was not evaluated."""
        found = {}
        for step in self.steps():
            with contextlib.suppress(DamagedCheckpoint):
                found[step] = self._metrics_of(step)
        return found

    def add_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Adds the metrics of an evaluation that ran after the save to a complete checkpoint.

        Raises:
          UserError: they cannot be written.
        """
        together(lambda: write_evaluation(self.folder / str(step), metrics) if is_main() else None)
        self._metrics[step] = dict(metrics)

    def save(self, state: TrainState, config: TrainConfig, metrics: Mapping[str, float] | None) -> None:
        """Copies the state to the host and starts writing it in the background.

        Args:
          state: of the run; the caller may donate it as soon as this returns.
          config: of the run; stored, and compared with the config of a run that resumes.
          metrics: from an evaluation of this state; None: not evaluated, so it cannot be the best checkpoint.

        Raises:
          UserError: this save or the previous one failed; earlier checkpoints are not affected.
        """
        step = int(state.step)
        if step in self.steps():
            return
        of_step = dict(metrics) if metrics else None
        meta = {
            "format_version": FORMAT_VERSION,
            "config": config.model_dump(mode="json"),
            "arrays": _describe(state),
            "checksums": checksums(state),
            "metrics": of_step,
            "start": self._start,
        }
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(sign(meta)))
        self._metrics[step] = of_step
        with self._explained(f"step {step}"):
            self._manager.save(step, args=args)

    def check(self) -> None:
        """Raises a `UserError` if a save in the background has failed."""
        with self._explained("the last save"):
            self._manager.check_for_errors()

    def wait(self) -> None:
        """Returns when every save is complete.

        Raises:
          UserError: one failed.
        """
        with self._explained("the last save"):
            self._manager.wait_until_finished()

    def restore(self, abstract_state: TrainState, config: TrainConfig) -> TrainState | None:
        """Returns the state of the latest undamaged checkpoint, or None if there is no checkpoint.

        A damaged checkpoint is renamed to `<step>.damaged`, with a warning, and the one before it is tried. Older
        checkpoints with a damaged record or damaged metrics are renamed too: one of them might have been the best.

        Args:
          abstract_state: shapes, dtypes and shardings of the result; the devices may differ from those that saved it.
          config: of the run that resumes.

        Raises:
          UserError: the config does not fit the checkpoint, every checkpoint is damaged, or one cannot be read for
            reasons outside the file (see `records.read_error`).
        """
        damages: dict[int, DamagedCheckpoint] = {}
        state: TrainState | None = None
        for step in reversed(self.steps()):
            try:
                record = together(functools.partial(self._read_record, step), DamagedCheckpoint)
                if state is None:
                    state = self._restore_step(step, record, abstract_state, config)
            except DamagedCheckpoint as damage:
                damages[step] = damage
        if state is not None:
            for step, reason in damages.items():
                self._set_aside(step, reason)
            return state
        set_aside = [entry.name for entry in self.folder.glob("*.damaged*")]
        if damages or set_aside:
            listed = "; ".join([*(f"{step}: {reason}" for step, reason in damages.items()), *set_aside])
            raise UserError(f"No checkpoint in {self.folder} is whole ({listed}). Start in another workdir.")
        return None

    def _set_aside(self, step: int, damage: DamagedCheckpoint) -> None:
        if is_main():
            names = itertools.chain([f"{step}.damaged"], (f"{step}.damaged.{n}" for n in itertools.count(2)))
            aside = next(self.folder / name for name in names if not (self.folder / name).exists())
            (self.folder / str(step)).rename(aside)
            logger.warning("checkpoint %s is damaged (%s); it is now %s.", step, printable(damage), aside.name)
        exchange("renamed")  # the others wait for it
        self._metrics.pop(step, None)
        self._manager.reload()

    def _restore_step(
        self, step: int, record: dict[str, Any], abstract_state: TrainState, config: TrainConfig
    ) -> TrainState:
        self._check_meta(step, record, abstract_state, config)
        state = together(lambda: self._read(step, abstract_state), DamagedCheckpoint)
        now = checksums(state)
        wrong = [name for name, value in record["checksums"].items() if now.get(name) != value]
        if wrong:
            raise DamagedCheckpoint(f"{len(wrong)} arrays read back changed, the first is {wrong[0]}")
        return state

    def _read_record(self, step: int) -> dict[str, Any]:
        path = self.folder / str(step)
        record = read_record(path)
        self._metrics[step] = read_evaluation(path, record)
        return record

    def _metrics_of(self, step: int) -> Metrics | None:
        """Returns the metrics of a checkpoint; those of earlier processes are read from disk once.

        Raises:
          DamagedCheckpoint: its record or its metrics are damaged.
        """
        if step not in self._metrics:
            self._read_record(step)
        return self._metrics[step]

    def _check_meta(self, step: int, meta: dict[str, Any], abstract_state: TrainState, config: TrainConfig) -> None:
        """Raises a `UserError` if the checkpoint belongs to another run or another network."""
        path = self.folder / str(step)
        differences = changes_that_forbid_resuming(meta["config"], config)
        if differences:
            listed = "; ".join(f"config.{name}: {old!r} then, {new!r} now" for name, (old, new) in differences.items())
            raise UserError(f"{self.folder.parent} holds a run with another config ({listed}). Use another workdir.")
        wanted = _describe(abstract_state)
        unlike = [name for name in {**wanted, **meta["arrays"]} if wanted.get(name) != meta["arrays"].get(name)]
        if unlike:
            first = unlike[0]
            raise UserError(
                f"Checkpoint {path} holds other arrays than this config builds ({len(unlike)}); "
                f"{first}: {meta['arrays'].get(first)} saved, {wanted.get(first)} now. Use another workdir."
            )

    def _read(self, step: int, abstract_state: TrainState) -> TrainState:
        args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract_state))
        try:
            return self._manager.restore(step, args=args)["state"]
        except Exception as error:  # Orbax and TensorStore raise whatever they like on damaged files
            meant = read_error(error, self.folder / str(step))
            if meant is error:
                raise
            raise meant from error

    @contextlib.contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        """Turns any error of a save into a `UserError` that lists the complete checkpoints."""
        try:
            yield
        except Exception as error:  # as in _read
            whole = saved_steps(self.folder.parent)
            free = f" ({shutil.disk_usage(self.folder).free / 2**20:,.0f} MiB free)" if is_local(self.folder) else ""
            raise UserError(
                f"Checkpoint ({what}) not written to {self.folder}: {root_cause(error)}{free}. "
                f"Whole checkpoints: {whole or 'none'}; the same command resumes from the last."
            ) from error


class _Preserve:
    """Keeps the last checkpoints, the best one, and those whose metrics cannot be read."""

    def __init__(self, keep: int, metrics_of: Callable[[int], Metrics | None]):
        self._keep, self._metrics_of = keep, metrics_of

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        """Returns for each checkpoint, oldest first, whether it is kept (Orbax's `PreservationPolicy`)."""
        del context
        steps = [each.step for each in checkpoints]
        metrics, stay = {}, set(steps[-self._keep :])
        for step in steps:
            try:
                metrics[step] = self._metrics_of(step)
            except (DamagedCheckpoint, UserError):
                stay.add(step)
        if metrics:
            stay.add(best_step(metrics))
        return [step in stay for step in steps]


def checksums(tree: Any) -> dict[str, int]:
    """Returns a checksum below 2^32 of every array, by path; it does not depend on how the arrays are sharded.

    Of words w_0, w_1, ... it is the sum of w_i (2 i ODD + 1), modulo 2^32. Every factor is odd, so that a change of any
    one word changes the sum.
    """
    arrays = _flatten(tree)
    sharding = next((array.sharding for array in arrays.values()), None)
    on_all = NamedSharding(sharding.mesh, P()) if isinstance(sharding, NamedSharding) else None
    values = jax.jit(_checksums, out_shardings=on_all)(arrays)  # so that every process can read them
    return {name: int(value) for name, value in jax.device_get(values).items()}


def _checksums(arrays: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return {name: _checksum(array) for name, array in arrays.items()}


def _checksum(array: jax.Array) -> jax.Array:
    word = jnp.dtype(f"uint{8 * array.dtype.itemsize}")
    words = jax.lax.bitcast_convert_type(array, word).astype(jnp.uint32)
    place = jax.lax.iota(jnp.uint32, array.size).reshape(array.shape)
    return jnp.sum(words * (2 * place * jnp.uint32(ODD) + 1), dtype=jnp.uint32)


def host_checksum(array: np.ndarray) -> int:
    """Returns the checksum of one array in host memory, without compiling anything."""
    words = np.frombuffer(array.tobytes(), f"uint{8 * array.dtype.itemsize}").astype(np.uint32)
    place = np.arange(words.size, dtype=np.uint32)
    return int(np.sum(words * (2 * place * np.uint32(ODD) + 1), dtype=np.uint32))


def _describe(tree: Any) -> dict[str, str]:
    """Returns "float32[3, 3]" by path."""
    return {name: f"{leaf.dtype}{list(leaf.shape)}" for name, leaf in _flatten(tree).items()}


def _flatten(tree: Any) -> dict[str, Any]:
    path_of = functools.partial(jax.tree_util.keystr, simple=True, separator="/")
    return {path_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
