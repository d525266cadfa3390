"""Shared by all commands: the typer application, its errors, its tables."""

from __future__ import annotations

import contextlib
import importlib.metadata
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text
from typer.core import TyperCommand, TyperGroup

from inception_jax.errors import UserError, printable
from inception_jax.paths import user_path
from inception_jax.version import __version__

LARGEST = 2**31 - 1  # of any number on a command line; libraries truncate larger ones, or try to allocate them
ClickError: Any = typer.BadParameter.__mro__[2]
"""The error of a command line that does not fit the options; typer does not export the class."""


class _Plain:
    """Escapes brackets in help texts, because typer takes "[tpu]" for markup and does not show it."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        if getattr(self, "rich_markup_mode", None) != "rich":
            return super().format_help(ctx, formatter)  # type: ignore[misc]
        shown = [self, *getattr(self, "params", ()), *getattr(self, "commands", {}).values()]
        before = [vars(each).copy() for each in shown]
        try:
            for each in shown:
                for name in ("help", "short_help", "epilog"):
                    if text := vars(each).get(name):
                        setattr(each, name, escape(text))
            super().format_help(ctx, formatter)  # type: ignore[misc]
        finally:
            for each, attributes in zip(shown, before, strict=True):
                vars(each).update(attributes)


class Command(_Plain, TyperCommand):
    """A command that first checks its options for numbers out of range and for invalid paths."""

    def invoke(self, ctx: Any) -> Any:
        for param in self.params:
            value, option = ctx.params.get(param.name), max(param.opts, key=len, default=param.name)
            if isinstance(value, list | tuple):
                ctx.params[param.name] = [_checked(option, each) for each in value]
            else:
                ctx.params[param.name] = _checked(option, value)
        return super().invoke(ctx)


class Group(_Plain, TyperGroup):
    """A group of commands."""


class App(typer.Typer):
    """A `Typer` whose commands are `Command`s."""

    def __init__(self, **settings: Any):
        super().__init__(cls=Group, pretty_exceptions_enable=False, no_args_is_help=True, **settings)

    def command(self, name: str | None = None, **settings: Any) -> Any:
        return super().command(name, **{"cls": Command, **settings})


app = App()

Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace files that exist.")]
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


def _checked(option: str, value: Any) -> Any:
    """Returns a value of the command line; of a path, with "~" expanded.

    Raises:
      UserError: a number out of range, or an invalid path.
    """
    if isinstance(value, int | float) and not abs(value) <= LARGEST:  # NaN, too
        raise UserError(f"{option} is {value}; it must be {-LARGEST:,} ... {LARGEST:,}.")
    try:
        if isinstance(value, str) and value.removeprefix("folder:").startswith("~"):
            user_path(value.removeprefix("folder:"))  # weights, data and images are names or paths; these are paths
        return user_path(value) if isinstance(value, Path) else value
    except UserError as error:
        raise UserError(f"{option}: {error}") from error


def _given(param: Any) -> str | None:
    """Returns the argument of an option as it was typed; None unless the option occurs once."""
    words, names = sys.argv[1:], tuple(getattr(param, "opts", ()))
    found = [after for word, after in itertools.pairwise([*words, ""]) if word in names]
    found += [word.partition("=")[2] for word in words if word.partition("=")[0] in names and "=" in word]
    return found[0] if len(found) == 1 else None


def usage(error: Any) -> str:
    """Returns the message of a `ClickError` in one line; "" where help was shown instead."""
    text = " ".join(error.format_message().split())
    given = _given(getattr(error, "param", None))
    if text.startswith("Invalid value") and given is not None and repr(given) not in text:
        text = f"{text.rstrip('.')}, not {given!r}"
    ctx = getattr(error, "ctx", None)
    end = "" if text.endswith(("?", ".")) else "."
    return f"{text}{end} See {ctx.command_path} --help." if text and ctx is not None else text


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """Turns a ValueError about arguments, as models raise, into a `UserError`."""
    try:
        yield
    except ValueError as error:
        raise UserError(str(error)) from error


def use_cpu_only() -> None:
    """Keeps JAX in this process off accelerators, which other processes may be using; call it before JAX starts."""
    import jax

    jax.config.update("jax_platforms", "cpu")


class PlainTable(Table):
    """A table that shows cells verbatim: names are not markup, and unprintable characters are escaped."""

    def add_column(self, header: Any = "", **settings: Any) -> None:  # type: ignore[override]
        super().add_column(_text(header), **settings)

    def add_row(self, *cells: Any, **settings: Any) -> None:
        super().add_row(*map(_text, cells), **settings)


def _text(cell: Any) -> Any:
    return Text(printable(cell, keep="\n")) if isinstance(cell, str) else cell


def table(*columns: str, left: tuple[str, ...]) -> Table:
    """Returns an empty table. Columns in `left` are aligned to the left; "summary" and "branches" may wrap."""
    gap = 2 if Console().width >= 100 else 1
    table = PlainTable(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, gap - 1, 0, 0))
    for column in columns:
        table.add_column(
            column, justify="left" if column in left else "right", no_wrap=column not in ("summary", "branches")
        )
    return table
