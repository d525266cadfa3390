"""`inception-jax models`, `summary` and `diagram`: the networks of the zoo."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from inception_jax.cli.app import Json, Overwrite, app, table, user_errors
from inception_jax.errors import UserError, printable
from inception_jax.paths import check_output, writing

if TYPE_CHECKING:
    from inception_jax.describe.summary import Summary


@app.command()
def models(
    as_json: Json = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print docs/MODELS.md.")] = False,
) -> None:
    """List the models."""
    from inception_jax.describe import models_page, summary
    from inception_jax.models import zoo

    if as_json and markdown:
        raise UserError("--json and --markdown exclude each other.")
    if markdown:
        return print(models_page.models_markdown(), end="")
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
    printed = table("name", "params", "with aux", "GMACs", "input", "paper", "summary", left=left)
    for card, totals in rows:
        params, params_with_aux = (f"{totals[key] / 1e6:.2f} M" for key in ("params", "params_with_aux"))
        size = f"{card.preprocess.size}"
        printed.add_row(
            card.name, params, params_with_aux, f"{totals['macs'] / 1e9:.3f}", size, card.paper, card.summary
        )
    Console().print(printed)


@app.command("summary")
def show_summary(
    name: Annotated[str, typer.Argument(help="A name of `inception-jax models`.")],
    as_json: Json = False,
    aux: Annotated[bool, typer.Option("--aux", help="Add the auxiliary heads.")] = False,
    image_size: Annotated[int | None, typer.Option(help="Height and width in pixels; by default the model's.")] = None,
    width: Annotated[float, typer.Option(help="Multiplier of all channels.")] = 1.0,
    num_classes: Annotated[int, typer.Option(help="Classes; 0: no classifier.")] = 1000,
) -> None:
    """Print Table 1 of the GoogLeNet paper for any model, computed from the model."""
    from inception_jax.describe import summary
    from inception_jax.models import zoo

    with user_errors():
        found = summary.summarize(name, image_size, width, num_classes, aux)
    if as_json:
        return print(json.dumps(found.to_json(), indent=2))
    columns = summary.headings(zoo.MODELS[name].table)
    middle = [column.replace(" ", "\n") for column in columns or ("branches",)]
    printed = table(
        "row", "patch/\nstride", "output", "depth", *middle, "params", "MACs\n(M)", left=("row", "branches")
    )
    for row in found.rows + found.aux:
        by_column = summary.features(row, columns) if columns else {0: row.branches}
        printed.add_row(
            row.name,
            row.patch,
            "x".join(map(str, row.output)),
            f"{row.depth or ''}",
            *(f"{by_column.get(i, '')}" for i in range(len(middle))),
            f"{row.params:,}" if row.params else "",
            f"{row.macs / 1e6:.1f}" if row.macs else "",
        )
    Console().print(printed)
    print(_totals_line(found))


@app.command("diagram")
def draw_diagram(
    name: Annotated[str, typer.Argument(help="A name of `inception-jax models`.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The picture to write: .svg, .png or .pdf.")],
    block: Annotated[str | None, typer.Option(help="Draw only this row of the model, enlarged.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Draw a model, or one row of it."""
    from inception_jax.describe import diagram

    path = check_output(output, overwrite, tuple(diagram.FORMATS))
    with user_errors(), writing(path, overwrite) as file:
        diagram.write(file, path.suffix.lower(), name, block)
    print(printable(output))


def _totals_line(found: Summary) -> str:
    totals = found.totals
    norm = f" + {totals['norm']:,} norm" if totals["norm"] else ""
    heads = f"\nwith auxiliary heads: {totals['params_with_aux']:,} params" if found.aux else ""
    return (
        f"{found.model} at {found.image_size} pixels: depth {totals['depth']}, {totals['macs']:,} MACs\n"
        f"{totals['params']:,} params = {totals['weights']:,} weights + {totals['biases']:,} biases{norm}{heads}"
    )
