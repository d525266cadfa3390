"""What a run writes beside its checkpoints. Process 0 writes it; in the others all of this is silent."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from importlib.metadata import version

import jax
import rich.console

from inception_jax.parallel.processes import exchange, is_main
from inception_jax.training.experiment import Experiment
from inception_jax.training.finetune import write_classes, write_record
from inception_jax.training.preview import describe, devices
from inception_jax.training.report import draw_curves, print_summary, summarise
from inception_jax.training.workdir import Folder, LocalCopy
from inception_jax.training.writers import Console, MetricsFile, TensorBoard, Writer, read_metrics
from inception_jax.version import __version__


class Outputs:
    """The files and the console of a run that goes on after `first_step`; use it as a context manager."""

    def __init__(self, experiment: Experiment, workdir: Folder, first_step: int, best_metric: str):
        self.experiment, self.config = experiment, experiment.config
        self.workdir, self.first_step, self.best_metric = workdir, first_step, best_metric
        self.files = LocalCopy(workdir)
        self.metrics_path = self.files.path / "metrics.jsonl"

    def __enter__(self) -> Outputs:
        total = self.experiment.total_steps
        silent = None if is_main() else rich.console.Console(quiet=True)
        self.console = Console(total, self.first_step, self.config.batch_size, silent)
        self.writers: list[Writer] = [self.console]
        if is_main():
            self.files.fetch("metrics.jsonl", "summary.json")
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
        with contextlib.ExitStack() as stack:  # closes all of them, even if one cannot write its rest
            for writer in self.writers:
                stack.callback(writer.close)
        self.publish()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes the numbers of a step everywhere."""
        for writer in self.writers:
            writer.write(step, values)

    def publish(self) -> None:
        """Writes to a bucket what has been written since; to be called with every checkpoint."""
        if is_main():
            self.files.publish()

    def evaluated(self, step: int) -> bool:
        """Returns whether the evaluation of a step is written, as process 0 sees it."""
        records = read_metrics(self.metrics_path) if is_main() else []
        found = any(record["step"] == step and self.best_metric in record for record in records)
        return exchange("found" if found else "")[0] == "found"

    def finish(self, step: int, seconds: float, compilation: str, skipped: int) -> None:
        """Draws the curves, and writes and prints the summary; that of a run that had ended before is left as it is.

        Args:
          step: the last one.
          seconds: since the start.
          compilation: what it took.
          skipped: broken images that this process left out.
        """
        skipped = sum(map(int, exchange(str(skipped))))
        if not is_main():
            return
        path = self.files.path / "summary.json"
        if step > self.first_step or not path.exists():
            summary = {
                "model": self.config.model.name,
                "data": self.config.data.name,
                "step": step,
                **summarise(read_metrics(self.metrics_path), self.best_metric, self.first_step),
                "seconds": round(seconds, 1),
                "compilation": compilation,
                "skipped": skipped,
                "versions": {"inception_jax": __version__}
                | {package: version(package) for package in ("jax", "jaxlib", "flax", "optax")},
                "devices": devices(),
                "processes": jax.process_count(),
                "xla_flags": os.environ.get("XLA_FLAGS", ""),
            }
            path.write_text(json.dumps(summary, indent=2) + "\n")
            draw_curves(
                self.metrics_path,
                self.files.path / "curves.png",
                f"{self.config.model.name} on {self.config.data.name}",
            )
            self.publish()
        print_summary(self.console.console, json.loads(path.read_text()), self.workdir)
