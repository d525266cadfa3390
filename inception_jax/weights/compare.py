"""Where a network begins to differ from its original: endpoint by endpoint, against a dump of reference activations."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import NamedTuple, cast

import jax
import numpy as np

from inception_jax.errors import UserError
from inception_jax.models.network import ModelOutput
from inception_jax.weights.files import Weights


class Difference(NamedTuple):
    """The largest difference of an endpoint, as a share of its largest reference value; `diverges` if out of bounds."""

    endpoint: str
    difference: float
    diverges: bool


def compare(weights: Weights, dump: str | Path, tolerance: float = 1e-4) -> list[Difference]:
    """Returns the differences from a dump, in the order of the network, but those that diverge first.

    Args:
      weights: of the network to check.
      dump: an .npz file: `images` [B, H, W, 3] float32, as the network reads them, and any of its endpoints
        [B, H, W, C] under their names, `logits` [B, K] among them.
      tolerance: of the difference, relative to the largest value of the endpoint.

    Raises:
      UserError: the file is no such dump, or an array has another shape than the network's.
    """
    reference = _read(Path(dump))
    images = reference.pop("images", None)
    if images is None or not reference:
        raise UserError(f"{dump} holds {sorted(reference)}; it must hold `images` and at least one endpoint.")
    model = weights.create_model(aux=False)
    output = cast(ModelOutput, jax.jit(model.apply)(weights.variables, np.float32(images)))
    ours = {**output.endpoints, "logits": output.logits}
    unknown = sorted(reference.keys() - ours.keys())
    if unknown:
        raise UserError(f"{dump} names {', '.join(unknown)}; {weights.info.model} has {', '.join(ours)}.")
    found = [_difference(name, ours[name], reference[name], tolerance) for name in ours if name in reference]
    return sorted(found, key=lambda difference: not difference.diverges)


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as dump:
            return {name: dump[name] for name in dump.files}
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is no .npz file of plain arrays: {error}.") from error


def _difference(name: str, ours: jax.Array, reference: np.ndarray, tolerance: float) -> Difference:
    if ours.shape != reference.shape:
        raise UserError(f"{name} of the dump is {reference.shape}; the network makes {ours.shape}.")
    scale = max(float(np.abs(reference).max()), float(np.finfo(np.float32).tiny))
    difference = float(np.abs(np.asarray(ours) - reference).max()) / scale
    return Difference(name, difference, not (math.isfinite(difference) and difference <= tolerance))
