"""Folds the preprocessing of pixels into the first convolution."""

from __future__ import annotations

import dataclasses

import numpy as np
from flax import traverse_util

from inception_jax.errors import UserError
from inception_jax.models import spec
from inception_jax.weights.files import Weights


def fold_preprocess(weights: Weights) -> Weights:
    """Returns weights that read pixels 0 ... 255: (x - mean) / std becomes part of the first convolution.

    conv((x - mean) / std, w) = conv(x, w / std) - sum(w mean / std), and batch norm absorbs the constant. That holds
    only if the convolution does not pad: a padded zero is the mean before the transform, not zero.

    Raises:
      UserError: the first convolution pads.
    """
    name, row = next(iter(weights.create_model().table.items()))
    if not isinstance(row, spec.Conv) or row.padding != spec.VALID:
        raise UserError(
            f"{name} of {weights.info.model} pads its input: folding would change the output near its edges."
        )
    flat = traverse_util.flatten_dict(weights.variables)
    stated = weights.info.preprocess
    mean, std = (np.array(values).reshape(1, 1, -1, 1) for values in (stated.mean, stated.std))
    kernel = flat["params", name, "conv", "kernel"] / std
    shift = (kernel * mean).sum((0, 1, 2))  # the constant that the convolution adds for the mean
    flat["params", name, "conv", "kernel"] = np.float32(kernel)
    running_mean = ("batch_stats", name, "bn", "mean")
    flat[running_mean] = np.float32(flat[running_mean] + shift)
    preprocess = dataclasses.replace(stated, mean=(0.0,) * len(stated.mean), std=(1.0,) * len(stated.std))
    info = dataclasses.replace(weights.info, preprocess=preprocess)
    return Weights.of(info, flat, weights.report)
