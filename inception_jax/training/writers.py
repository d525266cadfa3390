"""Writers of the metrics of a run: metrics.jsonl, TensorBoard files, and the terminal or log."""

from __future__ import annotations

import json
import logging
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import rich.console
import rich.progress
from tensorboardX.crc32c import crc32c
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

from inception_jax.errors import printable
from inception_jax.paths import write_bytes

logger = logging.getLogger(__name__)

Values = Mapping[str, float]


class Writer(Protocol):
    """Writes the metrics of a step, by name."""

    def write(self, step: int, values: Values) -> None: ...

    def close(self) -> None: ...


class MetricsFile:
    """metrics.jsonl, a line of JSON per written step. A resumed run drops the lines after the step it resumes from."""

    def __init__(self, path: Path, first_step: int):
        kept = [line for line in read_metrics(path) if line["step"] <= first_step]
        write_bytes(path, "".join(json.dumps(line) + "\n" for line in kept).encode())
        self._path = path

    def write(self, step: int, values: Values) -> None:
        if not self._path.exists():
            logger.warning("%s is gone; it begins again at step %s", printable(self._path), step)
        with self._path.open("ab") as file:  # not held open: lines to a removed file would be lost
            file.write((json.dumps({"step": step, **values}) + "\n").encode())

    def close(self) -> None:
        pass


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Returns the lines of a metrics file, without damaged ones, which a warning lists."""
    if not path.exists():
        return []
    records: list[dict[str, Any]] = []
    damaged: list[int] = []
    for number, line in enumerate(path.read_bytes().decode(errors="replace").split("\n"), start=1):
        try:
            record: Any = json.loads(line) if line else None
        except (ValueError, RecursionError):
            record = line
        if _is_record(record):
            records.append(record)
        elif line:
            damaged.append(number)
    if damaged:
        logger.warning("%s: damaged lines are left out: %s", printable(path), ", ".join(map(str, damaged)))
    return records


def _is_record(line: Any) -> bool:
    """Returns whether a line of a metrics file has a step and only numbers."""
    if not isinstance(line, dict) or type(line.get("step")) is not int or line["step"] < 0:
        return False
    return all(type(value) in (int, float) for value in line.values())


class TensorBoard:
    """Writes TensorBoard scalars, without TensorFlow.

    It writes in the thread of the loop, where a full disk raises an error. The writer of tensorboardX has its own
    thread, which would print a traceback instead.
    """

    def __init__(self, folder: Path, first_step: int):
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / f"events.out.tfevents.{int(time.time()):010}.{socket.gethostname()}"
        self._append(Event(file_version="brain.Event:2"))
        # This makes readers drop what the run wrote for these steps before it was interrupted.
        self._append(Event(step=first_step + 1, session_log=SessionLog(status=SessionLog.START)))

    def write(self, step: int, values: Values) -> None:
        scalars = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._append(Event(step=step, summary=Summary(value=scalars)))

    def close(self) -> None:
        pass

    def _append(self, event: Event) -> None:
        """Appends a TFRecord: the length, its checksum, the event, its checksum."""
        event.wall_time = time.time()
        content = event.SerializeToString()
        length = struct.pack("<Q", len(content))
        record = [length, _masked_checksum(length), content, _masked_checksum(content)]
        with self._path.open("ab") as file:
            file.write(b"".join(record))


def _masked_checksum(content: bytes) -> bytes:
    """Returns the masked CRC-32C of the TFRecord format: rotated by 15 bits, plus a constant."""
    value = crc32c(content)
    return struct.pack("<I", ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF)


class Console:
    """Shows progress: a bar with the remaining time on a terminal, plain lines in a log."""

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
        """Prints a line for each prefix of the names, except "train" on a terminal, where the bar shows it."""
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
