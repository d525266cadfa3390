"""Where the numbers of a run go: metrics.jsonl, TensorBoard files, and the terminal or log."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import rich.console
import rich.progress
import tensorboardX

logger = logging.getLogger(__name__)

Values = Mapping[str, float]


class Writer(Protocol):
    """Takes the numbers of a step, by name."""

    def write(self, step: int, values: Values) -> None: ...

    def close(self) -> None: ...


class MetricsFile:
    """A line of JSON per written step. A resumed run drops what was written after the step it resumes from."""

    def __init__(self, path: Path, first_step: int):
        kept = [line for line in read_metrics(path) if line["step"] <= first_step]
        partial = path.with_suffix(".partial")
        partial.write_text("".join(json.dumps(line) + "\n" for line in kept))
        os.replace(partial, path)
        self._file = path.open("a")

    def write(self, step: int, values: Values) -> None:
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Returns the lines of a metrics file, without those that a killed run or a lost disk cut short."""
    if not path.exists():
        return []
    records = []
    for number, line in enumerate(path.read_text(errors="replace").splitlines(keepends=True), start=1):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            logger.warning("line %s of %s is damaged and left out", number, path)
    return records


class TensorBoard:
    """TensorBoard scalars, without TensorFlow."""

    def __init__(self, folder: Path, first_step: int):
        self._writer = tensorboardX.SummaryWriter(str(folder), purge_step=first_step + 1, flush_secs=10)

    def write(self, step: int, values: Values) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class Console:
    """Progress for people: a bar with the time left on a terminal, plain lines in a log."""

    def __init__(self, total_steps: int, first_step: int, batch_size: int, console: rich.console.Console | None = None):
        self.console = console or rich.console.Console(highlight=False, markup=False, soft_wrap=True)
        self._total, self._first, self._batch_size = total_steps, first_step, batch_size
        self._start: float | None = None
        self._bar = rich.progress.Progress(
            rich.progress.TextColumn("step {task.completed:,.0f}/{task.total:,.0f}"),
            rich.progress.BarColumn(),
            rich.progress.TaskProgressColumn(),
            rich.progress.TextColumn("{task.fields[status]}"),
            rich.progress.TimeRemainingColumn(elapsed_when_finished=True),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self._task = self._bar.add_task("train", total=total_steps, completed=first_step, status="compiling")
        self._bar.start()

    def step(self, step: int, loss: float, data_wait: float) -> None:
        """Moves the bar; `data_wait` is the share of the time spent waiting for images."""
        self._start = self._start or time.monotonic()
        speed = self._batch_size * self._bar.tasks[0].speed if self._bar.tasks[0].speed else 0.0
        status = f"loss {loss:.3f}  {speed:,.0f} images/s  data wait {data_wait:.0%}"
        self._bar.update(self._task, completed=step, status=status)

    def write(self, step: int, values: Values) -> None:
        """Prints a line for each prefix of the names; on a terminal not for "train", which the bar shows."""
        for prefix in dict.fromkeys(name.partition("/")[0] for name in values):
            if prefix == "train" and self.console.is_terminal:
                continue
            shown = [
                f"{name.partition('/')[2]} {value:{_format(name)}}"
                for name, value in values.items()
                if name.startswith(f"{prefix}/")
            ]
            left = f"  left {self._time_left(step)}" if prefix == "train" else ""
            self.print(f"step {step:,}/{self._total:,}  {prefix}  {'  '.join(shown)}{left}")

    def print(self, text: str) -> None:
        """Prints above the bar."""
        self.console.print(text)

    def close(self) -> None:
        self._bar.stop()

    def _time_left(self, step: int) -> str:
        done = step - self._first
        if self._start is None or not done:
            return "?"
        return duration((time.monotonic() - self._start) * (self._total - step) / done)


def duration(seconds: float) -> str:
    """Returns h:mm:ss."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"


def _format(name: str) -> str:
    if name.endswith(("top1", "top5", "data_wait")):
        return ".1%"
    if name.endswith(("images_per_second", "count", "skipped")):
        return ",.0f"
    return ".4g"
