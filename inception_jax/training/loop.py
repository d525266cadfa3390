"""The training loop: compiles the steps, reads batches, trains, evaluates, writes metrics and saves checkpoints."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax

from inception_jax.data.loader import Batch, skipped
from inception_jax.data.unguarded import UnguardedScriptError, leave_worker_that_trains
from inception_jax.errors import Interrupted, NonFiniteLossError, UserError
from inception_jax.parallel import signals
from inception_jax.parallel.mesh import batch_sharding, shard_batch
from inception_jax.parallel.processes import exchange
from inception_jax.training import metrics
from inception_jax.training.agreement import claimed, prepare_together
from inception_jax.training.checkpoints import Checkpoints
from inception_jax.training.clock import Clock
from inception_jax.training.compilation import CompilationLog, compile_steps
from inception_jax.training.config import TrainConfig
from inception_jax.training.experiment import Experiment
from inception_jax.training.run_files import Outputs
from inception_jax.training.state import TrainState
from inception_jax.training.stopping import Stop, stop_signal
from inception_jax.training.workdir import Folder, explained_disk_errors, resolve_workdir
from inception_jax.weights.files import to_json

logger = logging.getLogger(__name__)

SLOW_DATA = 0.2  # a larger share of the time spent waiting for images gives a warning


def train_and_evaluate(config: Mapping[str, Any] | TrainConfig, workdir: str | os.PathLike[str]) -> TrainState:
    """Trains and evaluates the network of `config`; resumes from the latest checkpoint in `workdir` if there is one.

    Args:
      config: see configs/default.py.
      workdir: folder of the run. It gets checkpoints/, metrics.jsonl, tensorboard/, classes.txt, finetune.json if the
        run starts from weights, and at the end curves.png and summary.json.

    Returns:
      The state after the last step.

    Raises:
      UserError: the config, the data, the folder or the disk is unsuitable. Nothing has been compiled yet, or the
        earlier checkpoints are unharmed.
      NonFiniteLossError: the loss, its gradient or a parameter became NaN or infinite.
      Interrupted: SIGTERM or SIGINT; the state is saved.
      SystemExit: the calling script lacks `if __name__ == "__main__":`, so that each data worker would train again; a
        line on stderr says what to do.
    """
    leave_worker_that_trains()
    try:
        return _train_and_evaluate(config, resolve_workdir(workdir))
    except UnguardedScriptError as error:  # a traceback would hide the line that helps
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None


def _train_and_evaluate(config: Mapping[str, Any] | TrainConfig, workdir: Folder) -> TrainState:
    config = config if isinstance(config, TrainConfig) else TrainConfig.parse(config)
    experiment = prepare_together(config, workdir)
    with (
        explained_disk_errors(workdir),
        claimed(workdir),
        CompilationLog() as compilation,
        Checkpoints(workdir / "checkpoints", config.keep_checkpoints, started_from(experiment)) as checkpoints,
    ):
        state = checkpoints.restore(experiment.abstract_state, config)
        if state is None:
            state = experiment.init_state()
        signals.resumes_after(int(state.step))
        with Outputs(experiment, workdir, int(state.step)) as outputs:
            run = Run(experiment, outputs, checkpoints)
            state = run.train(state)
        checkpoints.wait()
        outputs.finish(int(state.step), run.clock.seconds, str(compilation), len(run.skipped), checkpoints.metrics())
    return state


def started_from(experiment: Experiment) -> dict[str, Any] | None:
    """Returns what each checkpoint records of the weights that the run started from; None from scratch."""
    return None if experiment.config.finetune.weights is None else json.loads(to_json(experiment.info))


class Run:
    """The training loop of one process, from the step after `first_step` to the last."""

    def __init__(self, experiment: Experiment, outputs: Outputs, checkpoints: Checkpoints):
        self.experiment, self.config = experiment, experiment.config
        self.outputs, self.checkpoints = outputs, checkpoints
        self.first_step = outputs.first_step
        self.clock, self.stop = Clock(), Stop()
        self.skipped: set[tuple[str, int]] = set()  # (split, record) of broken images that this process read
        self.data_is_slow = False  # whether the warning was given
        self.recent: list[dict[str, float]] = []  # sums of the steps since the last written line

    def train(self, state: TrainState) -> TrainState:
        """Runs the remaining steps; evaluates, writes metrics and saves when these are due.

        Raises:
          NonFiniteLossError, Interrupted, UserError: see `train_and_evaluate`.
        """
        total = self.experiment.total_steps
        lacks_evaluation = self._lacks_evaluation()
        if self.first_step >= total and not lacks_evaluation:
            self.outputs.console.print("Nothing is left to do: raise config.duration, or use another workdir.")
            return state
        sharding = batch_sharding(self.experiment.mesh)
        running: tuple[int, Any] | None = None  # the last step, and its sums on the device
        step_fn, self.eval_fn = compile_steps(self.experiment)
        with stop_signal(self.experiment.mesh) as self.stop:
            if lacks_evaluation:
                self._evaluate_restored(state)
            batches = self.experiment.train_batches(self.first_step)
            with contextlib.closing(batches), jax.transfer_guard("disallow"):
                self.clock.lap()
                for step in range(self.first_step + 1, total + 1):
                    with self.clock.waiting():
                        batch = next(batches)
                    self._note_skipped("train", batch)
                    state, sums = step_fn(state, shard_batch(batch, sharding))
                    self._collect(running)  # of the step before, so that the device never waits for the host
                    self.stop.poll()
                    running = (step, sums)
                    if self._due(step) or self._stopping(step):
                        self._collect(running)
                        running = None
                        self._write_train(step)
                        self._evaluate_and_save(step, state)
        return state

    def _lacks_evaluation(self) -> bool:
        """Returns whether the restored step was due for an evaluation that a signal or a kill prevented.

        If metrics.jsonl has the evaluation and the checkpoint does not, it is added to the checkpoint.
        """
        if not self.first_step or not self._is_due(self.first_step, "eval_every"):
            return False
        found = self.outputs.evaluation(self.first_step)
        if found:
            self._keep_metrics(found)
        return not found

    def _evaluate_restored(self, state: TrainState) -> None:
        results = self._evaluate(self.first_step, state)
        if results:
            self._keep_metrics(results)

    def _keep_metrics(self, results: dict[str, float]) -> None:
        """Adds the metrics of the restored step to its checkpoint if it has none, since it may be the best."""
        saved = self.checkpoints.metrics()
        if self.first_step in saved and saved[self.first_step] is None:
            self.checkpoints.add_metrics(self.first_step, results)
            self.outputs.publish()

    def _due(self, step: int) -> bool:
        return any(self._is_due(step, every) for every in ("log_every", "eval_every", "checkpoint_every"))

    def _is_due(self, step: int, every: str) -> bool:
        interval = self.experiment.steps(getattr(self.config, every))
        return step >= self.experiment.total_steps or (interval > 0 and step % interval == 0)

    def _collect(self, running: tuple[int, Any] | None) -> None:
        """Fetches the sums of a step from the device, and checks that they are finite.

        Raises:
          NonFiniteLossError: the loss, its gradient or the new parameters are not finite; names the step.
        """
        if running is None:
            return
        step, sums = running
        values = {name: float(value) for name, value in jax.device_get(sums).items()}
        broken = [name for name, value in values.items() if not math.isfinite(value)]
        if broken:
            raise NonFiniteLossError(
                f"The {broken[0]} of step {step} is {values[broken[0]]}; saved steps: {self.checkpoints.steps()}. "
                "Try a lower config.optimizer.learning_rate, a clip_norm there, or a longer config.schedule.warmup."
            )
        self.recent.append(values)
        self.outputs.console.step(step, values["loss"] / max(values["count"], 1), self.clock.wait_share)

    def _write_train(self, step: int) -> None:
        self.checkpoints.check()
        if not self.recent:
            return
        values = metrics.means(self.recent)
        images = values.pop("count")
        seconds, wait_share = self.clock.lap()
        with jax.transfer_guard("allow"):
            learning_rate = float(self.experiment.schedule(step - 1))
        values |= {
            "epoch": step / self.experiment.steps_per_epoch,
            "learning_rate": learning_rate,
            "images_per_second": images / seconds,
            "data_wait": wait_share,
        }
        self.outputs.write(step, {f"train/{name}": value for name, value in values.items()})
        self.recent = []
        self._warn_of_slow_data(wait_share)

    def _warn_of_slow_data(self, wait_share: float) -> None:
        if wait_share > SLOW_DATA and not self.data_is_slow:
            self.data_is_slow = True
            logger.warning(
                "%.0f%% of the time since the last line went by waiting for images: raise data.workers (%d) or "
                "data.threads (%d); `inception-jax bench data` says how many images a core reads.",
                100 * wait_share,
                self.config.data.workers,
                self.config.data.threads,
            )

    def _stopping(self, step: int) -> str | None:
        """Returns the name of the signal that stops the run after `step`, if any; nothing stops the last step."""
        return self.stop.name if step < self.experiment.total_steps else None

    def _evaluate_and_save(self, step: int, state: TrainState) -> None:
        """Evaluates and saves if these are due.

        Raises:
          Interrupted: a signal arrived before or during this, and the state is saved.
        """
        with self.clock.paused():
            results = self._evaluate(step, state) if self._is_due(step, "eval_every") else None
            signal_name = self._stopping(step)
            if results or signal_name or self._is_due(step, "checkpoint_every"):
                with jax.transfer_guard("allow"):
                    self.checkpoints.save(state, self.config, results)
                self.outputs.publish()
            if signal_name:
                self.checkpoints.wait()
                raise Interrupted(
                    f"{signal_name}: step {step} is saved in {self.outputs.workdir}; the same command resumes there."
                )

    def _evaluate(self, step: int, state: TrainState) -> dict[str, float] | None:
        """Returns the metrics of the parameters and of their average; None if a signal arrived meanwhile."""
        results: dict[str, float] = {}
        for prefix, variables in {"eval": state.variables, "eval_ema": state.ema}.items():
            if variables:
                values = self.evaluate(variables, until=lambda: self._called_off(step))
                results |= {f"{prefix}/{name}": value for name, value in values.items()}
        if self._stopping(step):
            return None
        self.outputs.write(step, results)
        return results

    def _called_off(self, step: int) -> bool:
        self.stop.poll()
        return bool(self._stopping(step))

    def evaluate(self, variables: Any, until: Callable[[], bool] = lambda: False) -> dict[str, float]:
        """Returns top-1, top-5 and loss over every evaluation image; {} if `until` becomes true before the end."""
        sharding = batch_sharding(self.experiment.mesh)
        sums, left_out = [], 0
        batches = self.experiment.eval_batches()
        with contextlib.closing(batches):
            for batch in batches:
                if until():
                    return {}
                left_out += self._note_skipped("eval", batch)
                sums.append(self.eval_fn(variables, shard_batch(batch, sharding)))
        values = metrics.means([jax.device_get(each) for each in sums])
        left_out = sum(map(int, exchange(str(left_out))))
        if values["count"] != len(self.experiment.eval_source) - left_out:
            raise AssertionError(
                f"{values['count']} images evaluated of {len(self.experiment.eval_source)} - {left_out}"
            )
        return values

    def _note_skipped(self, split: str, batch: Batch) -> int:
        """Returns how many broken images a batch leaves out.

        Raises:
          UserError: more than `config.data.max_skipped` distinct images of this process were skipped.
        """
        records = skipped(batch)
        self.skipped |= {(split, record) for record in records}
        if len(self.skipped) > self.config.data.max_skipped:
            raise UserError(
                f"{len(self.skipped)} broken images were skipped; "
                f"config.data.max_skipped is {self.config.data.max_skipped}."
            )
        return len(records)
