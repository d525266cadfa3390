"""The `inception-jax` command. JAX is imported inside the commands, so that --help and --version answer at once."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from inception_jax.errors import EXPECTED, UserError
from inception_jax.version import __version__

if TYPE_CHECKING:
    from inception_jax.models.summary import Summary

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

Json = Annotated[bool, typer.Option("--json", help="Print JSON with exact figures.")]


def main() -> None:
    """Runs the command line; an expected error is one line on stderr and its exit code, 2 for a user's mistake."""
    try:
        app()
    except EXPECTED as error:
        print(f"inception-jax: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


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


@app.command()
def models(as_json: Json = False) -> None:
    """List the zoo."""
    from inception_jax.models import summary, zoo

    rows = [(card, summary.summarize(card.name).totals) for card in zoo.MODELS.values()]
    if as_json:
        entries = [
            {
                "name": card.name,
                "params": totals["params"],
                "params_with_aux": totals["params_with_aux"],
                "macs": totals["macs"],
                "image_size": card.preprocess.size,
                "paper": card.paper,
                "summary": card.summary,
            }
            for card, totals in rows
        ]
        return print(json.dumps(entries, indent=2))
    left = ("name", "paper", "summary")
    table = _table("name", "params", "with aux", "GMACs", "input", "paper", "summary", left=left)
    for card, totals in rows:
        params, params_with_aux = (f"{totals[key] / 1e6:.2f} M" for key in ("params", "params_with_aux"))
        size = f"{card.preprocess.size}"
        table.add_row(card.name, params, params_with_aux, f"{totals['macs'] / 1e9:.3f}", size, card.paper, card.summary)
    Console().print(table)


@app.command("summary")
def show_summary(
    name: Annotated[str, typer.Argument(help="A name of `inception-jax models`.")],
    as_json: Json = False,
    aux: Annotated[bool, typer.Option("--aux", help="Add the auxiliary heads.")] = False,
    image_size: Annotated[int | None, typer.Option(help="Pixels; the model's own if not given.")] = None,
    width: Annotated[float, typer.Option(help="Multiplies all features.")] = 1.0,
    num_classes: Annotated[int, typer.Option(help="Outputs of the classifiers; 0: none.")] = 1000,
) -> None:
    """Print a model as the paper's Table 1, computed from the model itself."""
    from inception_jax.models import summary, zoo

    with _user_errors():
        found = summary.summarize(name, image_size, width, num_classes, aux)
    if as_json:
        return print(json.dumps(found.to_json(), indent=2))
    columns = summary.headings(zoo.MODELS[name].table)
    middle = [column.replace(" ", "\n") for column in columns or ("branches",)]
    table = _table("row", "patch/\nstride", "output", "depth", *middle, "params", "MACs\n(M)", left=("row", "branches"))
    for row in found.rows + found.aux:
        by_column = summary.features(row, columns) if columns else {0: row.branches}
        table.add_row(
            row.name,
            row.patch,
            "x".join(map(str, row.output)),
            f"{row.depth or ''}",
            *(f"{by_column.get(i, '')}" for i in range(len(middle))),
            f"{row.params:,}" if row.params else "",
            f"{row.macs / 1e6:.1f}" if row.macs else "",
        )
    Console().print(table)
    print(_totals_line(found))


def _totals_line(found: Summary) -> str:
    totals = found.totals
    norm = f" + {totals['norm']:,} norm" if totals["norm"] else ""
    heads = f"\nwith auxiliary heads: {totals['params_with_aux']:,} params" if found.aux else ""
    return (
        f"{found.model} at {found.image_size} pixels: depth {totals['depth']}, {totals['macs']:,} MACs\n"
        f"{totals['params']:,} params = {totals['weights']:,} weights + {totals['biases']:,} biases{norm}{heads}"
    )


@contextlib.contextmanager
def _user_errors() -> Iterator[None]:
    """Turns the ValueErrors by which models refuse their arguments into errors for the user."""
    try:
        yield
    except ValueError as error:
        raise UserError(str(error)) from error


def _table(*columns: str, left: tuple[str, ...]) -> Table:
    """Returns an empty table; `left` aligns words to the left; summaries and branches may wrap."""
    gap = 2 if Console().width >= 100 else 1
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, gap - 1, 0, 0))
    for column in columns:
        table.add_column(
            column, justify="left" if column in left else "right", no_wrap=column not in ("summary", "branches")
        )
    return table
