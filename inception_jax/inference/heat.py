"""From maps to heat on an image: scaled to 0 ... 1, and laid over the part of the image that the network read."""

from __future__ import annotations

import numpy as np

Box = tuple[float, float, float, float]  # left, top, right, bottom; the edges of pixels, so right - left is the width


def heat(maps: np.ndarray) -> np.ndarray:
    """Returns maps [..., H, W] in 0 ... 1: what speaks against the class is 0, the largest value 1."""
    positive = np.maximum(maps, 0)
    largest = positive.max((-2, -1), keepdims=True)
    return positive / np.where(largest > 0, largest, 1)


def on_image(maps: np.ndarray, box: Box, width: int, height: int) -> np.ndarray:
    """Returns maps [..., h, w] that cover `box` of an image as [..., height, width]: bilinear, 0 outside of the box."""
    left, top, right, bottom = box
    rows, columns = _weights(height, top, bottom, maps.shape[-2]), _weights(width, left, right, maps.shape[-1])
    return np.einsum("yh,...hw,xw->...yx", rows, maps, columns, optimize=True).astype(np.float32)


def _weights(pixels: int, start: float, stop: float, cells: int) -> np.ndarray:
    """Returns [pixels, cells]: how much each cell of start ... stop counts at the centre of each pixel."""
    centres = np.arange(pixels) + 0.5
    at = (centres - start) / (stop - start) * cells - 0.5  # in cells, from the centre of the first
    weights = np.maximum(1 - np.abs(at.clip(0, cells - 1)[:, None] - np.arange(cells)), 0)
    weights[(centres < start) | (centres > stop)] = 0
    return weights
