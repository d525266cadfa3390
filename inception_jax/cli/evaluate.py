"""`inception-jax evaluate`: accuracy and localisation of a network on a labelled set."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from inception_jax.cli.app import Json, Overwrite, app
from inception_jax.cli.config import run_data
from inception_jax.cli.network import (
    Batch,
    ClassFile,
    Dtype,
    DtypeOption,
    Input,
    Key,
    Model,
    Unverified,
    WeightsOption,
    Workdir,
    load_predictor,
)
from inception_jax.errors import UserError, printable
from inception_jax.paths import check_output, user_path, write_bytes
from inception_jax.progress import progress

if TYPE_CHECKING:
    from inception_jax.data.sources import ImageSource
    from inception_jax.explain.wsol import Localiser
    from inception_jax.inference.evaluation import Evaluation
    from inception_jax.inference.predictor import Predictor

MISTAKES = 100  # listed in evaluation.json
FILES = ("evaluation.json", "confusion.png", "mistakes.png")
LOCATED = ("located.png", "boxes.csv")  # with --localization or --masks


Data = Annotated[
    str | None, typer.Option("--data", help="digits, a TFDS name, or folder:PATH; by default that of the run.")
]
DataDir = Annotated[str | None, typer.Option("--data-dir", help="Where TFDS keeps prepared data.")]
Split = Annotated[
    str | None,
    typer.Option("--split", help="Split of the data set; by default that of the run's evaluation, or validation."),
]
Ensemble = Annotated[
    list[str] | None,
    typer.Option("--ensemble", help="More weights or runs, whose probabilities are averaged; repeat it."),
]
Crops = Annotated[int, typer.Option("--crops", help="Multi-crop evaluation: 1, 10 or 144 crops of each image.", min=1)]
Boxes = Annotated[
    Path | None, typer.Option("--localization", help="Boxes of the objects: a folder of .xml files, or a .csv.")
]
Masks = Annotated[
    Path | None, typer.Option("--masks", help="A folder of masks, NAME.png: 0 background, i + 1 class i.")
]
Threshold = Annotated[
    float, typer.Option(min=0, help="Boxes and masks: threshold, as a share of the map's largest value.")
]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="A folder for evaluation.json and pictures.")]
OwnExif = Annotated[
    bool | None,
    typer.Option("--exif/--no-exif", help="Apply the EXIF orientation; by default as the run did on its data."),
]


@app.command()
def evaluate(
    data: Data = None,
    data_dir: DataDir = None,
    split: Split = None,
    weights: WeightsOption = None,
    workdir: Workdir = None,
    ensemble: Ensemble = None,
    crops: Crops = 1,
    localization: Boxes = None,
    masks: Masks = None,
    threshold: Threshold = 0.2,
    output: Output = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
    model: Model = None,
    unverified: Unverified = False,
    preprocess: Input = None,
    key: Key = None,
    classes: ClassFile = None,
    batch: Batch = 32,
    dtype: DtypeOption = Dtype.FLOAT32,
    exif: OwnExif = None,
) -> None:
    """Measure top-1, top-5 and loss on a labelled set; with boxes or masks, also localisation."""
    from inception_jax.data.sources import open_source
    from inception_jax.explain.localisation import check_threshold
    from inception_jax.inference import evaluation
    from inception_jax.inference.multi_crop import check_crops

    check_crops(crops)
    data, split, data_dir, exif = _which_data(
        _Data(data, split, data_dir, exif), workdir if weights is None else weights
    )
    check_threshold(threshold)
    first = load_predictor(
        weights, workdir, model, unverified, batch, dtype, preprocess=preprocess, key=key, classes=classes, exif=exif
    )
    members = {str(weights or workdir): first}
    members |= {each: load_predictor(each, None, None, unverified, batch, dtype) for each in ensemble or ()}
    names = first.class_names  # a folder may lack some, and labels are those of the network
    source = open_source(data, split, data_dir, class_names=names if any(names) else None, exif=exif)
    localiser = _localiser(first, localization, masks, threshold, source)
    if output is not None:
        _check_outputs(output, overwrite, localiser is not None)
    start = time.monotonic()
    with progress(len(source)) as advance:
        found = evaluation.evaluate(list(members.values()), source, crops, advance, localiser)
    record = {
        "data": source.name,
        "crops": crops,
        "members": [{"weights": name, **_describe(member)} for name, member in members.items()],
        "dtype": dtype.value,
        "seconds": round(time.monotonic() - start, 1),
        **found.to_json(MISTAKES),
    }
    _report(record, found, source, localiser, output, overwrite, as_json)


def _localiser(
    member: Predictor, localization: Path | None, masks: Path | None, threshold: float, source: ImageSource
) -> Localiser | None:
    """Returns the evaluation of localisation; None if neither boxes nor masks are given."""
    from inception_jax.explain.annotations import read_boxes
    from inception_jax.explain.wsol import Localiser

    if localization is None and masks is None:
        return None
    boxes = None if localization is None else read_boxes(localization, source.class_names)
    return Localiser(member, boxes, masks, threshold)


def _report(
    record: dict[str, Any],
    found: Evaluation,
    source: ImageSource,
    localiser: Localiser | None,
    output: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Writes and prints the results; they are printed even if a file cannot be written."""
    written: list[str] = []
    with _late_errors() as late:
        with late():
            record |= {"localisation": localiser.metrics()} if localiser else {}
        with late():
            written = [] if output is None else _write(output, record, found, source, localiser, overwrite)
        print(json.dumps(record, indent=2) if as_json else "\n".join([*_lines(record), *written]))


class _Data(NamedTuple):
    """--data, --split, --data-dir and --exif."""

    name: str | None
    split: str | None
    folder: str | None
    exif: bool | None


def _which_data(given: _Data, network: str | Path | None) -> tuple[str, str, str | None, bool]:
    """Returns data set, split, folder and EXIF setting; what is not given is that of the run's evaluation.

    The choice is printed on stderr.

    Raises:
      UserError: the data set is not given, and the network is not a run.
    """
    from inception_jax.training.saved import is_run

    if given.name is not None:
        return given.name, given.split or "validation", given.folder, bool(given.exif)
    if network is None or (isinstance(network, str) and not is_run(network)):
        raise UserError(
            "--data is not given; without a run (--workdir) it must be digits, a TFDS name, or folder:PATH."
        )
    own = run_data(network)
    split, folder = given.split or own.eval_split, given.folder or own.data_dir
    exif = own.exif if given.exif is None else given.exif
    options = f"--data {own.name} --split {split}{f' --data-dir {folder}' if folder else ''}{' --exif' if exif else ''}"
    print(f"As the run evaluated: {printable(options)}", file=sys.stderr)
    return own.name, split, folder, exif


@contextlib.contextmanager
def _late_errors() -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """Yields a context manager that collects `UserError`s; at the end they are raised as one."""
    errors: list[UserError] = []

    @contextlib.contextmanager
    def late() -> Iterator[None]:
        try:
            yield
        except UserError as error:
            errors.append(error)

    yield late
    if errors:
        raise UserError(" ".join(map(str, errors))) from errors[0]


def _check_outputs(folder: Path, overwrite: bool, localises: bool) -> None:
    """Makes the folder of the results; raises a `UserError` if one of the files cannot be written there."""
    try:
        user_path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{printable(folder)} cannot be created: {error.strerror}.") from error
    for name in (*FILES, *(LOCATED if localises else ())):
        check_output(folder / name, overwrite)


def _write(
    output: Path,
    record: dict[str, Any],
    found: Evaluation,
    source: ImageSource,
    localiser: Localiser | None,
    overwrite: bool,
) -> list[str]:
    """Writes the record, the pictures and the boxes; returns a line that names the files."""
    from inception_jax.explain import evaluation_plots, plots
    from inception_jax.explain.annotations import write_boxes

    title = f"{' + '.join(member['model'] for member in record['members'])} on {source.name}"
    write_bytes(output / "evaluation.json", (json.dumps(record, indent=2) + "\n").encode(), overwrite)
    plots.save(evaluation_plots.draw_confusion(found, title), output / "confusion.png", overwrite, dpi=100)
    plots.save(evaluation_plots.draw_mistakes(found, source, title), output / "mistakes.png", overwrite, dpi=90)
    if localiser is not None:
        located = evaluation_plots.draw_localisations(localiser.located, found.class_names, source, title)
        plots.save(located, output / "located.png", overwrite, dpi=90)
        boxes = {each.name: each.guesses for each in localiser.located}
        write_boxes(output / "boxes.csv", boxes, source.class_names, overwrite)
    return [f"{printable(output)}: {', '.join((*FILES, *(LOCATED if localiser else ())))}"]


def _lines(record: dict[str, Any]) -> list[str]:
    """Returns the lines that are printed of a record."""
    from inception_jax.training.curves import accuracy

    crops, located, data = record["crops"], record.get("localisation", {}), printable(record["data"])
    lines = [
        f"{data}: {record['count']:,} images in {record['seconds']:,} s, {crops} crop{'s' * (crops > 1)}",
        *(f"  {member['model']} ({printable(member['weights'])})" for member in record["members"]),
        accuracy(record, len(record["classes"])),
    ]
    if "images_with_boxes" in located:
        lines.append(
            f"localisation error top-1 {located['top1_error']:.2%}, top-5 {located['top5_error']:.2%}, "
            f"class known {located['known_class_error']:.2%}; mean IoU of boxes {located['mean_iou_of_boxes']:.3f}; "
            f"{located['images_with_boxes']:,} images with boxes, threshold {located['threshold']:.0%}"
        )
    if "images_with_masks" in located:
        count = located["images_with_masks"]
        lines.append(f"mean IoU of masks {located['mean_iou_of_masks']:.3f}; {count:,} images with masks")
    return lines


def _describe(member: Predictor) -> dict[str, Any]:
    return {"model": member.info.model, "source": member.info.source, "sha256": member.info.sha256}
