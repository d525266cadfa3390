"""Adapts weights of RGB images to images of another number of channels."""

from __future__ import annotations

import dataclasses

import numpy as np
from flax import traverse_util

from inception_jax.errors import UserError
from inception_jax.models import spec
from inception_jax.models.inputs import MAX_CHANNELS
from inception_jax.weights.files import Weights


def with_channels(weights: Weights, channels: int | None) -> Weights:
    """Returns weights of RGB images for images of `channels` channels, by the rule of timm's `adapt_input_conv`.

    | channels | kernel of the first convolution | mean, std |
    |---|---|---|
    | None, 3 | unchanged | unchanged |
    | 1 | its sum over R, G and B | averaged |
    | n | R, G, B, R, G, ... up to n channels, times 3 / n | R, G, B, R, G, ... |

    With 1, 6, 9, ... channels, an image whose channels are all equal has the outputs that it has with three, if those
    of mean and std are equal, too.

    Raises:
      UserError: the number is out of range, or the weights are not those of RGB images.
    """
    info = weights.info
    if channels is None or channels == info.in_channels:
        return weights
    if not 1 <= channels <= MAX_CHANNELS:
        raise UserError(f"in_channels is {channels}; it must be 1 ... {MAX_CHANNELS}.")
    if info.in_channels != 3:
        raise UserError(
            f"in_channels is {channels}; {info.source or 'the network'} reads images of {info.in_channels} channels, "
            "and only weights for RGB images are adapted."
        )
    name, row = next(iter(weights.create_model().table.items()))
    flat = traverse_util.flatten_dict(weights.variables)
    path = ("params", spec.module_name(name, row))
    if isinstance(row, spec.Conv):
        kernel = (*path, "conv", "kernel")
        flat[kernel] = _fitted(flat[kernel], channels)
    elif isinstance(row, spec.SeparableConv) and channels > 1:  # of one, `spec.for_channels` keeps all kernels
        depthwise, pointwise = ((*path, layer, "kernel") for layer in ("depthwise", "pointwise"))
        by_colour = flat[depthwise].reshape(*row.kernel, 3, -1)[:, :, np.arange(channels) % 3]
        flat[depthwise] = by_colour.reshape(*row.kernel, 1, -1)
        by_colour = flat[pointwise].reshape(1, 1, 3, -1)  # [1, 1, 3, filters of a colour * outputs]
        flat[pointwise] = _fitted(by_colour, channels).reshape(1, 1, -1, row.features)
    report = dataclasses.replace(weights.report, notes=(*weights.report.notes, _note(channels)))
    info = dataclasses.replace(info, preprocess=info.preprocess.with_channels(channels))
    return Weights.of(info, flat, report)


def _fitted(kernel: np.ndarray, channels: int) -> np.ndarray:
    """Returns a kernel [h, w, 3, O] as [h, w, channels, O]."""
    if channels == 1:
        return kernel.sum(axis=2, keepdims=True)
    return kernel[:, :, np.arange(channels) % 3] * np.float32(3 / channels)


def _note(channels: int) -> str:
    if channels == 1:
        return "for images of 1 channel, the first kernel is summed over R, G and B, and mean and std are averaged"
    order = ", ".join("RGB"[i % 3] for i in range(min(channels, 6))) + (", ..." if channels > 6 else "")
    return (
        f"for images of {channels} channels, the first kernel is repeated ({order}) and multiplied by 3/{channels}, "
        "and mean and std are repeated"
    )
