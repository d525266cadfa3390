"""The options by which commands name a network, and the predictor that they give."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inception_jax.errors import UserError

if TYPE_CHECKING:
    from inception_jax.inference.predictor import Predictor


class Dtype(StrEnum):
    """What the network computes in."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


WeightsOption = Annotated[
    str | None, typer.Option("--weights", help="A file, or the id of published weights (`inception-jax weights`).")
]
Workdir = Annotated[
    Path | None, typer.Option("--workdir", help="The folder of a run of train.py: its best checkpoint.")
]
Model = Annotated[str | None, typer.Option("--model", help="Whose weights they are; found by names where one fits.")]
Unverified = Annotated[bool, typer.Option("--unverified", help="Take a file that is no published one.")]
Batch = Annotated[int, typer.Option("--batch", help="Images that are computed at once.", min=1)]
DtypeOption = Annotated[Dtype, typer.Option("--dtype", help="Of the computation; bfloat16 for accelerators.")]


def load_predictor(
    weights: str | None, workdir: Path | None, model: str | None, unverified: bool, batch: int, dtype: Dtype
) -> Predictor:
    """Returns the predictor of weights or of a run.

    Raises:
      UserError: not exactly one of them is named, or it cannot be loaded.
    """
    from inception_jax.inference.predictor import Predictor
    from inception_jax.training.saved import is_run

    if (weights is None) == (workdir is None):
        raise UserError("Name a network: either --weights or --workdir.")
    run = workdir if workdir is not None else (weights if weights is not None and is_run(weights) else None)
    if run is None:
        return Predictor.from_weights(weights, model, unverified=unverified, max_batch=batch, dtype=dtype.value)
    predictor = Predictor.from_checkpoint(run, max_batch=batch, dtype=dtype.value)
    if model not in (None, predictor.info.model):
        raise UserError(f"The run in {run} is of {predictor.info.model}, not of {model}.")
    return predictor
