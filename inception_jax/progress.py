"""Progress of long work on stderr: a bar with the time left on a terminal, an occasional line in a log."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import rich.console
import rich.progress

from inception_jax.errors import printable

SECONDS_BETWEEN_LINES = 30.0


class Unit(NamedTuple):
    """What is counted: its name, how many of what is passed to `advance` make one, and the decimals that are shown."""

    name: str
    size: float = 1.0
    decimals: int = 0


IMAGES = Unit("images")
MEGABYTES = Unit("MB", 1e6, 1)


@contextlib.contextmanager
def progress(total: int | None, unit: Unit = IMAGES, done: int = 0) -> Iterator[Callable[..., None]]:
    """Yields a function `advance(count=1)` to call after each piece of work.

    Args:
      total: of the work, in what `advance` counts; None: unknown, and no time left is shown.
      unit: what is shown.
      done: how much of it was done before; it does not count for the speed.
    """
    console = rich.console.Console(stderr=True, highlight=False)
    number = f",.{unit.decimals}f"
    whole = "?" if total is None else f"{total / unit.size:{number}}"
    bar = rich.progress.Progress(
        rich.progress.TextColumn(f"{{task.completed:{number}}}/{whole} {unit.name}"),
        rich.progress.BarColumn(),
        rich.progress.TaskProgressColumn(),
        rich.progress.TimeRemainingColumn(elapsed_when_finished=True),
        console=console,
        transient=True,
        redirect_stdout=sys.stdout.isatty(),  # otherwise rich would also capture output to a pipe
        disable=not console.is_terminal,
    )
    task = bar.add_task("", total=None if total is None else total / unit.size, completed=done / unit.size)  # type: ignore[arg-type]
    start = last = time.monotonic()
    before = done

    def advance(count: int = 1) -> None:
        nonlocal done, last
        done += count
        bar.advance(task, count / unit.size)
        now = time.monotonic()
        if not console.is_terminal and now - last >= SECONDS_BETWEEN_LINES:
            last = now
            speed = (done - before) / (now - start)
            left = "" if total is None else f", {(total - done) / speed:,.0f} s left"
            speed_words = f"{speed / unit.size:,.1f} {unit.name}/s"
            print(f"{done / unit.size:{number}}/{whole} {unit.name}, {speed_words}{left}", file=sys.stderr, flush=True)

    with bar:
        yield advance


@contextlib.contextmanager
def doing(text: str) -> Iterator[None]:
    """Shows a text during a long operation: with the elapsed time on a terminal, as one line in a log."""
    text, console = printable(text), rich.console.Console(stderr=True, highlight=False)
    columns = rich.progress.SpinnerColumn(), rich.progress.TextColumn("{task.description}", markup=False)
    clock = rich.progress.TimeElapsedColumn()
    bar = rich.progress.Progress(*columns, clock, console=console, transient=True, disable=not console.is_terminal)
    bar.add_task(text)
    if not console.is_terminal:
        print(text, file=sys.stderr, flush=True)
    with bar:
        yield
