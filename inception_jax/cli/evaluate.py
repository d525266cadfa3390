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
    from inception_jax.data.sources import ImageSource
    from inception_jax.inference.evaluation import Evaluation
    from inception_jax.inference.predictor import Predictor
    from inception_jax.inference.wsol import Localiser

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
    localization: Annotated[
        Path | None, typer.Option("--localization", help="Boxes of the objects: a folder of .xml files, or a .csv.")
    ] = None,
    masks: Annotated[
        Path | None, typer.Option("--masks", help="A folder of masks, NAME.png: 0 background, i + 1 class i.")
    ] = None,
    threshold: Annotated[
        float, typer.Option(help="Of boxes and masks: share of the largest value of a class activation map.")
    ] = 0.2,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A folder for evaluation.json and pictures.")
    ] = None,
    as_json: Json = False,
    model: Model = None,
    unverified: Unverified = False,
    batch: Batch = 32,
    dtype: DtypeOption = Dtype.FLOAT32,
) -> None:
    """Measure top-1, top-5 and loss on every image of a labelled set, and how well maps of the classes find objects."""
    from inception_jax.data.sources import open_source
    from inception_jax.inference import evaluation
    from inception_jax.inference.boxes import read_boxes
    from inception_jax.inference.crops import check_kind
    from inception_jax.inference.wsol import Localiser

    check_kind(crops)
    source = open_source(data, split, data_dir)
    members = {str(weights or workdir): load_predictor(weights, workdir, model, unverified, batch, dtype)}
    members |= {each: load_predictor(each, None, None, unverified, batch, dtype) for each in ensemble or ()}
    localiser = None
    if localization is not None or masks is not None:
        boxes = None if localization is None else read_boxes(localization, source.class_names)
        localiser = Localiser(next(iter(members.values())), boxes, masks, threshold)
    if output is not None:
        _make_folder(output)
    start = time.monotonic()
    with progress(len(source)) as advance:
        found = evaluation.evaluate(list(members.values()), source, crops, advance, localiser)
    record = {
        "data": source.name,
        "crops": crops,
        "members": [{"weights": name, **_describe(member)} for name, member in members.items()],
        "dtype": dtype.value,
        "seconds": round(time.monotonic() - start, 1),
        **({"localisation": localiser.metrics()} if localiser else {}),
        **found.to_json(MISTAKES),
    }
    written = [] if output is None else _write(output, record, found, source, localiser)
    if as_json:
        print(json.dumps(record, indent=2))
    else:
        _print(record)
        if output is not None:
            print(f"{output}: {', '.join(written)}")


def _write(
    output: Path, record: dict[str, Any], found: Evaluation, source: ImageSource, localiser: Localiser | None
) -> list[str]:
    """Writes the record, pictures, and the boxes that were found; returns the names of the files."""
    from inception_jax.inference import sheets
    from inception_jax.inference.boxes import write_boxes

    title = f"{' + '.join(member['model'] for member in record['members'])} on {source.name}"
    (output / "evaluation.json").write_text(json.dumps(record, indent=2) + "\n")
    sheets.draw_confusion(found, output / "confusion.png", title)
    sheets.draw_mistakes(found, source, output / "mistakes.png", title)
    if localiser is None:
        return ["evaluation.json", "confusion.png", "mistakes.png"]
    sheets.draw_located(localiser.located, found.class_names, source, output / "located.png", title)
    write_boxes(output / "boxes.csv", {each.name: each.guesses for each in localiser.located}, source.class_names)
    return ["evaluation.json", "confusion.png", "mistakes.png", "located.png", "boxes.csv"]


def _print(record: dict[str, Any]) -> None:
    crops = record["crops"]
    print(f"{record['data']}: {record['count']:,} images in {record['seconds']:,} s, {crops} crop{'s' * (crops > 1)}")
    for member in record["members"]:
        print(f"  {member['model']} ({member['weights']})")
    print(f"top-1 {record['top1']:.2%}, top-5 {record['top5']:.2%}, loss {record['loss']:.4f}")
    located = record.get("localisation", {})
    if "images_with_boxes" in located:
        print(
            f"localisation error top-1 {located['top1_error']:.2%}, top-5 {located['top5_error']:.2%}, "
            f"class known {located['known_class_error']:.2%}; mean IoU of boxes {located['mean_iou_of_boxes']:.3f}; "
            f"{located['images_with_boxes']:,} images with boxes, threshold {located['threshold']:.0%}"
        )
    if "images_with_masks" in located:
        print(
            f"mean IoU of masks {located['mean_iou_of_masks']:.3f}; {located['images_with_masks']:,} images with masks"
        )


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be created: {error.strerror}.") from error


def _describe(member: Predictor) -> dict[str, Any]:
    return {"model": member.info.model, "source": member.info.source, "sha256": member.info.sha256}
