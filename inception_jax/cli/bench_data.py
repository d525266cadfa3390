"""`inception-jax bench data`: times the input pipeline."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from inception_jax.cli.app import Json, table, user_errors
from inception_jax.cli.bench import Save, bench, command_line
from inception_jax.errors import printable

if TYPE_CHECKING:
    from inception_jax.bench.records import Row


@bench.command("data")
def bench_data(
    data: Annotated[str, typer.Option("--data", help="digits, a TFDS name or folder:PATH.")] = "imagenet2012",
    data_dir: Annotated[Path | None, typer.Option("--data-dir", help="Where TFDS keeps prepared data.")] = None,
    split: Annotated[str, typer.Option("--split", help="Split of the data set.")] = "train",
    images: Annotated[int, typer.Option("--images", help="Images that each engine reads in a turn.", min=1)] = 768,
    size: Annotated[int, typer.Option("--image-size", help="Height and width of the crops in pixels.", min=1)] = 224,
    rounds: Annotated[int, typer.Option("--rounds", help="Turns of each engine.", min=1)] = 9,
    workers: Annotated[
        list[int] | None,
        typer.Option("--workers", help="Also time our loader with this many worker processes; repeat it.", min=0),
    ] = None,
    seconds: Annotated[float, typer.Option("--seconds", help="Seconds for each --workers.", min=0)] = 5.0,
    note: Annotated[str, typer.Option("--note", help="A remark, saved with the row.")] = "",
    save: Save = None,
    as_json: Json = False,
) -> None:
    """Time the way from JPEGs to training crops on one core: our loader, torchvision, OpenCV, tf.data, decoding alone.

    They take turns, and their crops are compared first. Packages that are not installed are listed. With --workers, our
    loader is also timed on all cores.
    """
    from inception_jax.bench import records
    from inception_jax.bench.data import measure
    from inception_jax.data.sources import open_source

    if save:
        records.check(save)
    with user_errors():
        source = open_source(data, split, None if data_dir is None else str(data_dir))
        row, missing = measure(source, size, images, rounds, workers or [], seconds, command_line())
        row = row.model_copy(update={"note": printable(note)})
        if save:
            records.append(save, row)
    for name, reason in missing.items():
        print(f"{name} is left out: {printable(reason)}", file=sys.stderr)
    if as_json:
        return print(row.model_dump_json(indent=2))
    _print(row)


def _print(row: Row) -> None:
    engines = row.figures["engines"]
    printed = table("on one core", "images/s", "p10 of a turn, ms/image", "p90", "of ours", left=("on one core",))
    count = row.figures["case"]["images"]
    for name, found in engines.items():
        laps = (f"{found[each] / count * 1e3:.2f}" for each in ("p10", "p90"))
        printed.add_row(name, f"{found['images_per_second']:,.0f}", *laps, f"{found['of_ours']['median']:.2f}")
    print(f"{row.hardware}; load {row.hardware.load_average}; partial JPEG decoding: {row.flags['decodes_parts']}")
    Console().print(printed)
    for workers, speed in row.figures["workers"].items():
        print(f"our loader, {workers} workers, all cores: {speed:,.0f} images/s")
