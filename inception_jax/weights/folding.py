"""Folding what surrounds a network into its parameters."""

from __future__ import annotations

import dataclasses

import numpy as np
from flax import traverse_util

from inception_jax.errors import UserError
from inception_jax.models import spec
from inception_jax.weights.files import Weights


def fold_preprocess(weights: Weights) -> Weights:
    """Returns weights that read pixels of 0 ... 255 as they are: (x - mean) / std moves into the first convolution.

    It is exact only where that convolution does not pad: padding is zero after the transform, and would be before it.

    Raises:
      UserError: the first convolution pads.
    """
    name, row = next(iter(weights.create_model().table.items()))
    if not isinstance(row, spec.Conv) or row.padding != spec.VALID:
        raise UserError(
            f"{name} of {weights.info.model} pads its input: folding the preprocessing would change borders."
        )
    flat = traverse_util.flatten_dict(weights.variables)
    mean, std = (np.array(x).reshape(1, 1, 3, 1) for x in (weights.info.preprocess.mean, weights.info.preprocess.std))
    kernel = flat["params", name, "conv", "kernel"] / std
    shift = (kernel * mean).sum((0, 1, 2))  # what the convolution would add if the mean were not subtracted
    flat["params", name, "conv", "kernel"] = np.float32(kernel)
    running_mean = ("batch_stats", name, "bn", "mean")
    flat[running_mean] = np.float32(flat[running_mean] + shift)
    preprocess = dataclasses.replace(weights.info.preprocess, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    info = dataclasses.replace(weights.info, preprocess=preprocess)
    return Weights.of(info, flat, weights.report)
