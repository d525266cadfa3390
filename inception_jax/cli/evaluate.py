"""The command that measures how often a network is right."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inception_jax.cli.app import Json, app
from inception_jax.cli.network import (
    Batch,
    Dtype,
    DtypeOption,
    Model,
    Unverified,
    WeightsOption,
    Workdir,
    load_predictor,
)
from inception_jax.cli.progress import progress
from inception_jax.errors import UserError

if TYPE_CHECKING:
    from inception_jax.inference.predictor import Predictor

MISTAKES = 100  # in evaluation.json


@app.command()
def evaluate(
    data: Annotated[str, typer.Option("--data", help="digits, a TFDS name, or folder:PATH.")],
    data_dir: Annotated[str | None, typer.Option("--data-dir", help="Where TFDS keeps prepared data.")] = None,
    split: Annotated[str, typer.Option("--split", help="Of the data set.")] = "validation",
    weights: WeightsOption = None,
    workdir: Workdir = None,
    ensemble: Annotated[
        list[str] | None, typer.Option("--ensemble", help="More weights or runs to average with; repeat it.")
    ] = None,
    crops: Annotated[int, typer.Option("--crops", help="Views of each image: 1, 10 or 144.")] = 1,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A folder for evaluation.json and pictures.")
    ] = None,
    as_json: Json = False,
    model: Model = None,
    unverified: Unverified = False,
    batch: Batch = 32,
    dtype: DtypeOption = Dtype.FLOAT32,
) -> None:
    """Measure top-1, top-5 and loss on every image of a labelled set."""
    from inception_jax.data.sources import open_source
    from inception_jax.inference import evaluation, sheets
    from inception_jax.inference.crops import check_kind

    check_kind(crops)
    source = open_source(data, split, data_dir)
    members = {str(weights or workdir): load_predictor(weights, workdir, model, unverified, batch, dtype)}
    members |= {each: load_predictor(each, None, None, unverified, batch, dtype) for each in ensemble or ()}
    if output is not None:
        _make_folder(output)
    start = time.monotonic()
    with progress(len(source)) as advance:
        found = evaluation.evaluate(list(members.values()), source, crops, advance)
    seconds = time.monotonic() - start
    record = {
        "data": source.name,
        "crops": crops,
        "members": [{"weights": name, **_describe(member)} for name, member in members.items()],
        "dtype": dtype.value,
        "seconds": round(seconds, 1),
        **found.to_json(MISTAKES),
    }
    if output is not None:
        title = f"{' + '.join(member.info.model for member in members.values())} on {source.name}"
        (output / "evaluation.json").write_text(json.dumps(record, indent=2) + "\n")
        sheets.draw_confusion(found, output / "confusion.png", title)
        sheets.draw_mistakes(found, source, output / "mistakes.png", title)
    if as_json:
        return print(json.dumps(record, indent=2))
    metrics = found.metrics()
    print(f"{source.name}: {metrics['count']:,} images in {seconds:,.1f} s, {crops} crop{'s' * (crops > 1)}")
    for name, member in members.items():
        print(f"  {member.info.model} ({name})")
    print(f"top-1 {metrics['top1']:.2%}, top-5 {metrics['top5']:.2%}, loss {metrics['loss']:.4f}")
    if output is not None:
        print(f"{output}: evaluation.json, confusion.png, mistakes.png")


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be created: {error.strerror}.") from error


def _describe(member: Predictor) -> dict[str, Any]:
    return {"model": member.info.model, "source": member.info.source, "sha256": member.info.sha256}
