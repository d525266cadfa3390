"""What the commands share: the program itself, its errors, its tables."""

from __future__ import annotations

import contextlib
import importlib.metadata
from collections.abc import Iterator
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from inception_jax.errors import UserError
from inception_jax.version import __version__

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

Json = Annotated[bool, typer.Option("--json", help="Print JSON with exact figures.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"inception-jax {__version__} (jax {importlib.metadata.version('jax')})")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the versions and exit.")
    ] = False,
) -> None:
    """The Inception family in JAX."""


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """Turns the ValueErrors by which models refuse their arguments into errors for the user."""
    try:
        yield
    except ValueError as error:
        raise UserError(str(error)) from error


def table(*columns: str, left: tuple[str, ...]) -> Table:
    """Returns an empty table; `left` aligns words to the left; summaries and branches may wrap."""
    gap = 2 if Console().width >= 100 else 1
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, gap - 1, 0, 0))
    for column in columns:
        table.add_column(
            column, justify="left" if column in left else "right", no_wrap=column not in ("summary", "branches")
        )
    return table
