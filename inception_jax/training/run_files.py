"""The files that a run writes besides its checkpoints, and its console. Only process 0 writes and prints."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Mapping
from importlib.metadata import version

import jax
import rich.console

from inception_jax.parallel.processes import exchange, is_main
from inception_jax.paths import write_bytes
from inception_jax.training.compilation import implementation_of_step
from inception_jax.training.curves import (
    draw_curves,
    is_png,
    is_whole_evaluation,
    print_summary,
    read_summary,
    summarise,
)
from inception_jax.training.experiment import Experiment
from inception_jax.training.preview import describe, devices
from inception_jax.training.provenance import write_classes, write_record
from inception_jax.training.records import Metrics
from inception_jax.training.workdir import Folder, LocalCopy
from inception_jax.training.writers import Console, MetricsFile, TensorBoard, Writer, read_metrics
from inception_jax.version import __version__


class Outputs:
    """The files and the console of a run that starts after `first_step`; use it as a context manager."""

    def __init__(self, experiment: Experiment, workdir: Folder, first_step: int):
        self.experiment, self.config = experiment, experiment.config
        self.workdir, self.first_step = workdir, first_step
        self.files = LocalCopy(workdir)
        self.metrics_path = self.files.path / "metrics.jsonl"

    def __enter__(self) -> Outputs:
        silent = None if is_main() else rich.console.Console(quiet=True)
        self.console = Console(self.experiment.total_steps, self.first_step, self.config.batch_size, silent)
        self.writers: list[Writer] = [self.console]
        if is_main():
            self.files.fetch("metrics.jsonl", "summary.json", "curves.png")
            write_classes(self.files.path, self.experiment.train_source.class_names)
            if self.experiment.weights is not None:
                write_record(self.files.path, self.experiment.weights)
            self.files.publish()
            tensorboard = TensorBoard(self.files.path / "tensorboard", self.first_step)
            self.writers = [MetricsFile(self.metrics_path, self.first_step), tensorboard, self.console]
        self.console.print(describe(self.experiment, self.first_step))
        if self.experiment.weights is not None:
            self.console.print(str(self.experiment.weights.report))
        return self

    def __exit__(self, *_: object) -> None:
        for writer in self.writers:
            writer.close()
        self.publish()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes the metrics of a step to every writer."""
        for writer in self.writers:
            writer.write(step, values)

    def publish(self) -> None:
        """Copies changed files to the bucket, if the workdir is in one; call it with every checkpoint."""
        if is_main():
            self.files.publish()

    def evaluation(self, step: int) -> Metrics | None:
        """Returns the evaluation of a step from the metrics.jsonl of process 0; None if it is not there. Collective."""
        records = read_metrics(self.metrics_path) if is_main() else []
        of_step = [record for record in records if record["step"] == step and is_whole_evaluation(record)]
        text = exchange(json.dumps(of_step[-1:]))[0]
        return {name: value for each in json.loads(text) for name, value in each.items() if name != "step"} or None

    def finish(
        self,
        step: int,
        seconds: float,
        compilation: str,
        skipped: int,
        evaluations: Mapping[int, Metrics | None],
    ) -> None:
        """Draws the curves, and writes and prints the summary. If the run had ended before, existing files are kept.

        Args:
          step: the last one.
          seconds: since the start of this process.
          compilation: its time, in words.
          skipped: how many broken images this process left out.
          evaluations: metrics of the existing checkpoints, by step.
        """
        skipped = sum(map(int, exchange(str(skipped))))
        if not is_main():
            return
        path, picture = self.files.path / "summary.json", self.files.path / "curves.png"
        ended_now = step > self.first_step
        summary = None if ended_now else read_summary(path)
        if summary is None or summary["best_step"] not in evaluations:
            since = self.first_step if ended_now else 0
            summary = {
                "model": self.config.model.name,
                "data": self.config.data.name,
                "classes": len(self.experiment.train_source.class_names),
                "command": _command(),
                "step": step,
                **summarise(read_metrics(self.metrics_path), evaluations, since),
                "seconds": round(seconds, 1),
                "compilation": compilation,
                "skipped": skipped,
                "versions": {"inception_jax": __version__}
                | {package: version(package) for package in ("jax", "jaxlib", "flax", "optax")},
                "devices": devices(),
                "processes": jax.process_count(),
                "implementation": implementation_of_step(self.experiment),
                "xla_flags": os.environ.get("XLA_FLAGS", ""),
            }
            write_bytes(path, (json.dumps(summary, indent=2) + "\n").encode())
        if ended_now or not is_png(picture):
            draw_curves(self.metrics_path, picture, f"{self.config.model.name} on {self.config.data.name}")
        self.publish()
        print_summary(self.console.console, summary, self.workdir)


def _command() -> str:
    """Returns the command line of this process, as a shell reads it."""
    program = "python " if sys.argv[0].endswith(".py") else ""
    return program + shlex.join([os.path.basename(sys.argv[0]), *sys.argv[1:]])
