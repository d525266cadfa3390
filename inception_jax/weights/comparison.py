"""Compares a network with its original, endpoint by endpoint, against a file of reference activations."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import numpy as np

from inception_jax.errors import UserError, printable
from inception_jax.models.network import ModelOutput
from inception_jax.weights.files import Weights
from inception_jax.weights.readers import read_dump


class Difference(NamedTuple):
    """An endpoint, its largest absolute difference over its largest reference value, and whether that is too large."""

    endpoint: str
    difference: float
    diverges: bool


def compare(weights: Weights, dump: str | Path, tolerance: float = 1e-4) -> list[Difference]:
    """Returns the difference at every endpoint of a dump: those that diverge first, each group in the network's order.

    Args:
      weights: of the network to check.
      dump: an .npz file with `images` [B, H, W, C], normalised floats as the network reads them, and any of the
        endpoints [B, H, W, C] under their names; `logits` [B, K] is one.
      tolerance: the largest difference that does not count as divergence, as `Difference` measures it.

    Raises:
      UserError: the file is no such dump, or an array differs in shape from the network's.
    """
    reference = read_dump(dump)
    images = reference.pop("images", None)
    shown = printable(dump)
    if images is None or not reference:
        raise UserError(f"{shown} holds {sorted(reference)}; it must hold `images` and at least one endpoint.")
    channels, kind = weights.info.in_channels, f"{images.dtype}{list(images.shape)}"
    if images.ndim != 4 or images.shape[-1] != channels or not len(images) or images.dtype.kind != "f":
        raise UserError(f"images of {shown} are {kind}; they must be floats [B, H, W, {channels}].")
    model, images = weights.create_model(aux=False), images.astype(np.float32)

    def run(variables: Any, images: jax.Array) -> dict[str, jax.Array]:
        output = cast(ModelOutput, model.apply(variables, images))
        return {**output.endpoints, "logits": output.logits}

    try:
        shapes = jax.eval_shape(run, weights.variables, images)
    except ValueError as error:  # the network cannot read images of this size
        raise UserError(f"images of {shown}: {error}") from error
    unknown = sorted(reference.keys() - shapes.keys())
    if unknown:
        raise UserError(
            f"{shown} names {printable(', '.join(unknown))}; {weights.info.model} has {', '.join(model.table)}, logits."
        )
    for name, array in reference.items():
        if array.shape != shapes[name].shape:
            raise UserError(f"{name} of {shown} is {array.shape}; the network has {shapes[name].shape}.")
    with jax.default_matmul_precision("highest"):  # accelerators round the factors of float32 products otherwise
        ours = jax.jit(run)(weights.variables, images)
    order = [name for name in (*model.table, "logits") if name in reference]  # JAX sorts the keys of dicts
    found = [_difference(name, ours[name], reference[name], tolerance) for name in order]
    return sorted(found, key=lambda difference: not difference.diverges)


def _difference(name: str, ours: jax.Array, reference: np.ndarray, tolerance: float) -> Difference:
    scale = max(float(np.abs(reference).max()), float(np.finfo(np.float32).tiny))
    difference = float(np.abs(np.asarray(ours) - reference).max()) / scale
    return Difference(name, difference, not (math.isfinite(difference) and difference <= tolerance))
