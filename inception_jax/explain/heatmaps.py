"""Heatmaps: class activation maps scaled to 0 ... 1, and interpolated over the part of the image that was read."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

STRIP = 1 << 21  # pixels of an image that are computed together

Box = tuple[float, float, float, float]  # left, top, right, bottom; the edges of pixels, so right - left is the width


def heat(maps: np.ndarray) -> np.ndarray:
    """Returns maps [..., H, W] in 0 ... 1: max(maps, 0), divided by the largest value of each map."""
    positive = np.maximum(maps, 0)
    largest = positive.max((-2, -1), keepdims=True)
    return positive / np.where(largest > 0, largest, 1)


def on_image(maps: np.ndarray, box: Box, width: int, height: int) -> np.ndarray:
    """Returns maps [..., h, w], which cover `box` of an image, as [..., height, width]: bilinear, 0 outside the box."""
    return PlacedHeatmap(maps, box, width, height).rows(0, height)


@dataclasses.dataclass(frozen=True)
class PlacedHeatmap:
    """Maps [..., h, w] that cover `box` of an image of width x height pixels, interpolated strip by strip.

    As one array, the heatmap of a photograph of 48 million pixels takes 190 MB for each class.
    """

    maps: np.ndarray
    box: Box
    width: int
    height: int

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array that `on_image` returns."""
        return *self.maps.shape[:-2], self.height, self.width

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Returns rows start ... stop - 1 as [..., stop - start, width]: bilinear, 0 outside the box."""
        left, top, right, bottom = self.box
        rows = _weights(start, stop, top, bottom, self.maps.shape[-2])
        columns = _weights(0, self.width, left, right, self.maps.shape[-1])
        return np.einsum("yh,...hw,xw->...yx", rows, self.maps, columns, optimize=True).astype(np.float32)

    def strips(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Yields (rows, array) from top to bottom, in strips of at most `STRIP` pixels, as `rows` returns them."""
        count = max(STRIP // (self.width * max(int(np.prod(self.maps.shape[:-2])), 1)), 1)
        for start in range(0, self.height, count):
            stop = min(start + count, self.height)
            yield slice(start, stop), self.rows(start, stop)

    def each(self) -> list[PlacedHeatmap]:
        """Returns one heatmap for each of the maps [K, h, w]."""
        return [dataclasses.replace(self, maps=each) for each in self.maps]


def _weights(first: int, last: int, start: float, stop: float, cells: int) -> np.ndarray:
    """Returns bilinear weights [last - first, cells] of the cells of start ... stop at the centre of each pixel."""
    centres = np.arange(first, last) + 0.5
    at = (centres - start) / (stop - start) * cells - 0.5  # in cells, from the centre of the first
    weights = np.maximum(1 - np.abs(at.clip(0, cells - 1)[:, None] - np.arange(cells)), 0)
    weights[(centres < start) | (centres > stop)] = 0
    return weights
