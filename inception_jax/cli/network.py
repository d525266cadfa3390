"""Options of commands that name a network, and the loading of it."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inception_jax.errors import UserError

if TYPE_CHECKING:
    from inception_jax.inference.predictor import Predictor
    from inception_jax.weights import Weights


class Dtype(StrEnum):
    """The dtype that the network computes in."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


WeightsOption = Annotated[
    str | None,
    typer.Option(
        "--weights", help="A file, the id or name of published weights (`inception-jax weights`), or hf-hub:OWNER/NAME."
    ),
]
Workdir = Annotated[
    Path | None, typer.Option("--workdir", help="The folder of a run of train.py: its best checkpoint.")
]
Model = Annotated[
    str | None,
    typer.Option("--model", help="The model of the weights; by default found from the names of the tensors."),
]
Unverified = Annotated[
    bool, typer.Option("--unverified", help="Accept a file whose checksum is not that of published weights.")
]
Input = Annotated[
    str | None,
    typer.Option(
        "--preprocess",
        help="Input of weights of others: inception, imagenet, caffe, or 'mean=0.5;std=0.5;size=299'.",
    ),
]
Key = Annotated[
    str | None,
    typer.Option("--key", help="Which of several networks in a checkpoint: state_dict, model_ema, ema.module, ..."),
]
ClassFile = Annotated[Path | None, typer.Option("--classes", help="A text file of class names, one a line, in order.")]
Batch = Annotated[int, typer.Option("--batch", help="Batch size.", min=1)]
DtypeOption = Annotated[Dtype, typer.Option("--dtype", help="Dtype of the computation; bfloat16 for accelerators.")]

Exif = Annotated[bool, typer.Option("--exif/--no-exif", help="Apply the EXIF orientation, or read pixels as stored.")]


def load_weights(
    weights: str | None,
    workdir: Path | None,
    model: str | None,
    unverified: bool,
    preprocess: str | None = None,
    classes: Path | None = None,
    key: str | None = None,
) -> Weights:
    """Returns the weights of a file, a card or a run.

    Raises:
      UserError: not exactly one of them is named, or it cannot be loaded.
    """
    from inception_jax import weights as ours
    from inception_jax.training.saved import is_run, run_weights
    from inception_jax.weights.classes import read_class_names

    if (weights is None) == (workdir is None):
        raise UserError("Name a network: either --weights or --workdir.")
    names = None if classes is None else read_class_names(classes)
    run = workdir if workdir is not None else weights if is_run(str(weights)) else None
    source = weights if run is None else run_weights(run)
    return ours.load(source, model, unverified=unverified, preprocess=preprocess, key=key, class_names=names)


def load_predictor(
    weights: str | None,
    workdir: Path | None,
    model: str | None,
    unverified: bool,
    batch: int = 8,
    dtype: Dtype = Dtype.FLOAT32,
    *,
    preprocess: str | None = None,
    key: str | None = None,
    classes: Path | None = None,
    exif: bool = True,
) -> Predictor:
    """Returns the predictor of `load_weights`."""
    from inception_jax.inference.predictor import Predictor

    loaded = load_weights(weights, workdir, model, unverified, preprocess, classes, key)
    return Predictor(loaded, max_batch=batch, dtype=dtype.value, exif=exif)
