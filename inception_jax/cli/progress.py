"""Progress of a command on stderr: a bar with the time left on a terminal, an occasional line in a log."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

import rich.console
import rich.progress

from inception_jax.errors import printable

SECONDS_BETWEEN_LINES = 30.0


@contextlib.contextmanager
def progress(total: int) -> Iterator[Callable[[], None]]:
    """Yields a function to call after each of `total` images."""
    console = rich.console.Console(stderr=True, highlight=False)
    bar = rich.progress.Progress(
        rich.progress.TextColumn("{task.completed:,.0f}/{task.total:,.0f} images"),
        rich.progress.BarColumn(),
        rich.progress.TaskProgressColumn(),
        rich.progress.TimeRemainingColumn(elapsed_when_finished=True),
        console=console,
        transient=True,
        redirect_stdout=sys.stdout.isatty(),  # otherwise rich would also capture output to a pipe
        disable=not console.is_terminal,
    )
    task = bar.add_task("", total=total)
    start = last = time.monotonic()
    done = 0

    def advance() -> None:
        nonlocal done, last
        done += 1
        bar.advance(task)
        now = time.monotonic()
        if not console.is_terminal and now - last >= SECONDS_BETWEEN_LINES:
            last = now
            left = (now - start) * (total - done) / done
            print(
                f"{done:,}/{total:,} images, {done / (now - start):,.1f} images/s, {left:,.0f} s left", file=sys.stderr
            )

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
