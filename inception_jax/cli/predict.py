"""`inception-jax predict`: the most likely classes of images."""

from __future__ import annotations

import csv
import dataclasses
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inception_jax.cli.app import Json, app
from inception_jax.cli.network import (
    Batch,
    ClassFile,
    Dtype,
    DtypeOption,
    Exif,
    Input,
    Key,
    Model,
    Unverified,
    WeightsOption,
    Workdir,
    load_predictor,
)
from inception_jax.cli.streams import read_lines
from inception_jax.errors import UserError, printable
from inception_jax.progress import progress

if TYPE_CHECKING:
    from inception_jax.inference.prediction import Prediction

Printer = Callable[[Path, "Prediction"], None]


@app.command()
def predict(
    images: Annotated[list[str], typer.Argument(help="Files, folders, globs; - reads paths from stdin, one a line.")],
    weights: WeightsOption = None,
    workdir: Workdir = None,
    model: Model = None,
    k: Annotated[
        int | None, typer.Option("-k", help="How many classes to show; by default 5, or all if there are fewer.", min=1)
    ] = None,
    as_json: Json = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV with a header.")] = False,
    unverified: Unverified = False,
    preprocess: Input = None,
    key: Key = None,
    classes: ClassFile = None,
    batch: Batch = 32,
    dtype: DtypeOption = Dtype.FLOAT32,
    exif: Exif = True,
) -> None:
    """Print the most likely classes of images; exit code 1 if some cannot be read."""
    from inception_jax.data.transforms import BrokenImage
    from inception_jax.inference.files import find_images

    if as_json and as_csv:
        raise UserError("--json and --csv exclude each other.")
    paths = find_images(_named(images))
    predictor = load_predictor(
        weights, workdir, model, unverified, batch, dtype, preprocess=preprocess, key=key, classes=classes, exif=exif
    )
    k = min(5, predictor.info.num_classes) if k is None else k
    show = _print_json if as_json else _csv_printer() if as_csv else _table_printer(paths)
    broken = 0
    with progress(len(paths)) as advance:
        for path, result in zip(paths, predictor.stream(paths, k), strict=True):
            if isinstance(result, BrokenImage):
                broken += 1
                print(f"inception-jax: {printable(result)}", file=sys.stderr)
            else:
                show(path, result)
            advance()
    if broken:
        print(f"inception-jax: {broken} of {len(paths)} images cannot be read.", file=sys.stderr)
        raise typer.Exit(1)


def _named(images: list[str]) -> Iterator[str]:
    for name in images:
        if name == "-":
            yield from read_lines()
        else:
            yield name


def _print_json(path: Path, prediction: Prediction) -> None:
    print(json.dumps({"image": str(path), "classes": [dataclasses.asdict(each) for each in prediction.classes]}))


def _csv_printer() -> Printer:
    """Prints the header and returns a function that prints a row for each class of an image."""
    rows = csv.writer(sys.stdout, lineterminator="\n")
    rows.writerow(("image", "rank", "index", "label", "probability"))

    def show(path: Path, prediction: Prediction) -> None:
        for rank, each in enumerate(prediction.classes, start=1):
            rows.writerow((path, rank, each.index, each.label, f"{each.probability:.6g}"))

    return show


def _table_printer(paths: list[Path]) -> Printer:
    """Returns a function that prints an image and its classes, one a line."""
    width = max(len(printable(path)) for path in paths)

    def show(path: Path, prediction: Prediction) -> None:
        for rank, each in enumerate(prediction.classes):
            name = printable(each.label or f"class {each.index}")
            print(f"{'' if rank else printable(path):<{width}}  {each.probability:7.2%}  {name}")

    return show
