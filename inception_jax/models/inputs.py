"""What the input of a network is: pixel constants, and how an image is cut and resized. No JAX."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any, Literal

import numpy as np

MAX_CHANNELS = 256  # of images: a file that states more is damaged


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """How an image becomes the input of a model: (pixel - mean) / std on pixels in 0 ... 255.

    mean and std have a number for each channel: of RGB images three, of grey ones one.

    Evaluation keeps the centre of an image, in the way that `geometry` names:

    short_side   resize the short side to round(size / crop_fraction) pixels, then cut a square of `size`
    central_box  cut the central `crop_fraction` of height and of width, then resize that box to a square of `size`,
                 whatever its shape
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_fraction: float = 0.875
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    geometry: Literal["short_side", "central_box"] = "short_side"

    @property
    def resize(self) -> int:
        """The short side, in pixels, before the centre crop of "short_side"."""
        return round(self.size / self.crop_fraction)

    def with_channels(self, channels: int) -> Preprocess:
        """Returns it for images of so many channels: mean and std are averaged for one, else repeated (R, G, B, R)."""
        if channels == len(self.mean):
            return self

        def fitted(values: tuple[float, ...]) -> tuple[float, ...]:
            if channels == 1:
                return (math.fsum(values) / len(values),)
            return tuple(itertools.islice(itertools.cycle(values), channels))

        return dataclasses.replace(self, mean=fitted(self.mean), std=fitted(self.std))


def normalise(images: Any, preprocess: Preprocess) -> Any:
    """Returns (pixel - mean) / std in float32 of pixels [B, H, W, C] in 0 ... 255; arrays of NumPy or JAX."""
    mean, std = (np.array(values, np.float32).reshape(1, 1, 1, -1) for values in (preprocess.mean, preprocess.std))
    return (images.astype(np.float32) - mean) / std


PAPER = Preprocess(224, mean=(123.0, 117.0, 104.0), std=(1.0, 1.0, 1.0))
# Caffe's tools resize whole images to 256 x 256 beforehand; the central 224 x 224 of that are read.
CAFFE = dataclasses.replace(PAPER, geometry="central_box")
BGR_MEANS = dataclasses.replace(PAPER, mean=(128.0, 117.0, 104.0))
# The GoogLeNet of the ONNX Model Zoo: the whole image, whatever its shape.
ONNX_ZOO = dataclasses.replace(CAFFE, mean=(123.68, 116.779, 103.939), crop_fraction=1.0)
IMAGENET = Preprocess(224, mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))
CIFAR = Preprocess(32, mean=(125.3, 123.0, 113.9), std=(63.0, 62.1, 66.7), crop_fraction=1.0)

# To -1 ... 1. The ImageNet constants and the `transform_input` of torchvision's weights compose to this, too.
SYMMETRIC_224 = Preprocess(224, mean=(127.5, 127.5, 127.5), std=(127.5, 127.5, 127.5))
SYMMETRIC_299 = dataclasses.replace(SYMMETRIC_224, size=299)
SLIM_224 = dataclasses.replace(SYMMETRIC_224, geometry="central_box")
SLIM_299 = dataclasses.replace(SYMMETRIC_299, geometry="central_box")
CADENE_299 = dataclasses.replace(SYMMETRIC_299, crop_fraction=299 / 341)  # 299 / 0.875, rounded down
TIMM_299 = dataclasses.replace(CADENE_299, interpolation="bicubic")  # rounded down, too
TIMM_299_WIDE = dataclasses.replace(TIMM_299, crop_fraction=0.8975)
FID = dataclasses.replace(SYMMETRIC_299, crop_fraction=1.0, geometry="central_box")  # the whole image
# The graph of 2015 itself: (pixel - 128) / 128.
FID_OF_TF = dataclasses.replace(FID, mean=(128.0, 128.0, 128.0), std=(128.0, 128.0, 128.0))
FACES = Preprocess(160, mean=(127.5, 127.5, 127.5), std=(128.0, 128.0, 128.0), crop_fraction=1.0)
