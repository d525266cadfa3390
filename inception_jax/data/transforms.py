"""Transforms of images on the host, to uint8 [size, size, 3], for training and for evaluation, with NumPy and Pillow.

Nothing here normalises pixels: the device does, as the model card says.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import ClassVar, Protocol

import numpy as np
from PIL import Image, ImageEnhance

from inception_jax.data.pixels import MAX_PIXELS
from inception_jax.data.pixels import BrokenImage as BrokenImage  # re-exported, as the next two
from inception_jax.data.pixels import decode as decode
from inception_jax.data.pixels import to_rgb as to_rgb
from inception_jax.errors import UserError

RESAMPLING = {
    "bilinear": Image.Resampling.BILINEAR,
    "area": Image.Resampling.BOX,
    "nearest": Image.Resampling.NEAREST,
    "bicubic": Image.Resampling.BICUBIC,
}
# Principal components of the RGB values of ImageNet in 0 ... 1: eigenvalues, and eigenvectors as columns.
PCA_VALUES = np.array([0.2175, 0.0188, 0.0045])
PCA_VECTORS = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])

Box = tuple[int, int, int, int]
"""left, top, right, bottom, in pixels."""


class Encoded(Protocol):
    """An image that decodes only the region of a crop (see `jpeg_regions`)."""

    @property
    def size(self) -> tuple[int, int]: ...

    def crop_resize(self, box: Box, size: int, interpolation: str, mirror: bool = False) -> np.ndarray: ...


class Transform(Protocol):
    """Turns an RGB image into uint8 pixels [size, size, 3]; all its randomness comes from the generator.

    Attributes:
      size: of the result, in pixels.
      accepts_encoded: whether it also takes an `Encoded` image, of which only the region that it crops is decoded.
    """

    @property
    def size(self) -> int: ...
    @property
    def accepts_encoded(self) -> bool: ...

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> np.ndarray: ...


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Resizes the short side to `resize` pixels and crops the central `size` x `size` (the geometry of torchvision).

    Raises:
      UserError: `resize` is below `size`, or the interpolation is unknown.
    """

    size: int
    resize: int
    interpolation: str = "bilinear"
    accepts_encoded: ClassVar[bool] = False

    def __post_init__(self):
        if self.resize < self.size:
            raise UserError(f"resize is {self.resize}; it must be at least the crop of {self.size} pixels.")
        _check_interpolation(self.interpolation)

    def __call__(self, image: Image.Image, rng: np.random.Generator | None = None) -> np.ndarray:
        image = resize_short_side(image, self.resize, self.interpolation)
        left, top = (round((side - self.size) / 2) for side in image.size)
        return np.asarray(image.crop((left, top, left + self.size, top + self.size)))

    def box(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Returns (left, top, right, bottom) of what is kept of an image, in its own pixels."""
        resized = resized_short_side(width, height, self.resize)
        x, y = width / resized[0], height / resized[1]
        left, top = (round((side - self.size) / 2) for side in resized)
        return left * x, top * y, (left + self.size) * x, (top + self.size) * y


class Geometry(Protocol):
    """The crop of evaluation images, as a model card gives it (see `models.inputs.Preprocess`)."""

    @property
    def geometry(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def resize(self) -> int: ...
    @property
    def crop_fraction(self) -> float: ...
    @property
    def interpolation(self) -> str: ...


def eval_transform(card: Geometry) -> Evaluate | EvaluateBox:
    """Returns the transform of evaluation images for `card.geometry`."""
    if card.geometry == "central_box":
        return EvaluateBox(card.size, card.crop_fraction, card.interpolation)
    return Evaluate(card.size, card.resize, card.interpolation)


def resize_short_side(image: Image.Image, short: int, interpolation: str) -> Image.Image:
    """Returns the image with a short side of `short` pixels.

    Raises:
      BrokenImage: it is so narrow that it would have over MAX_PIXELS.
    """
    size = resized_short_side(*image.size, short)
    if size[0] * size[1] > MAX_PIXELS:
        raise BrokenImage(f"{image.width} x {image.height} pixels are too narrow to resize to {size[0]} x {size[1]}")
    return image if size == image.size else image.resize(size, RESAMPLING[interpolation])


def resized_short_side(width: int, height: int, short: int) -> tuple[int, int]:
    """Returns width and height with a short side of `short` pixels; the long one is rounded down."""
    return int(short * width / min(width, height)), int(short * height / min(width, height))


@dataclasses.dataclass(frozen=True)
class EvaluateBox:
    """Resizes the central `fraction` of height and width to a square of `size` pixels (the geometry of TF-slim).

    Pillow antialiases when it shrinks an image; TensorFlow 1 interpolated between neighbouring pixels.

    Raises:
      UserError: `fraction` is out of range, or the interpolation is unknown.
    """

    size: int
    fraction: float = 0.875
    interpolation: str = "bilinear"
    accepts_encoded: ClassVar[bool] = False

    def __post_init__(self):
        if not 0 < self.fraction <= 1:
            raise UserError(f"fraction is {self.fraction}; it must be above 0 and at most 1.")
        _check_interpolation(self.interpolation)

    def __call__(self, image: Image.Image, rng: np.random.Generator | None = None) -> np.ndarray:
        kept = image.crop(self.box(*image.size))
        return np.asarray(kept.resize((self.size, self.size), RESAMPLING[self.interpolation]))

    def box(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Returns (left, top, right, bottom) of what is kept of an image, in its own pixels."""
        left, top = (int((side - side * self.fraction) / 2) for side in (width, height))
        return left, top, width - left, height - top


def _check_interpolation(name: str) -> None:
    if name not in RESAMPLING:
        raise UserError(f"interpolation is {name!r}; allowed: {', '.join(RESAMPLING)}.")


@dataclasses.dataclass(frozen=True)
class InceptionCrop:
    """The sampling of 1409.4842, section 6: a crop of random area and aspect ratio, resized with a random filter.

    Also flips, and with `photometric` distorts brightness, contrast, colour and lighting (arXiv 1312.5402).
    """

    size: int
    area: tuple[float, float] = (0.08, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    interpolations: tuple[str, ...] = ("bilinear", "area", "nearest", "bicubic")
    flip: bool = True
    photometric: bool = True
    accepts_encoded: ClassVar[bool] = True

    def __call__(self, image: Image.Image | Encoded, rng: np.random.Generator) -> np.ndarray:
        box = sample_box(*image.size, rng, self.area, self.aspect)
        interpolation = self.interpolations[rng.integers(len(self.interpolations))]
        resize = functools.partial(crop_resize, image) if isinstance(image, Image.Image) else image.crop_resize
        if not self.photometric:
            return resize(box, self.size, interpolation, mirror=self.flip and rng.random() < 0.5)
        pixels = np.asarray(distort_colours(Image.fromarray(resize(box, self.size, interpolation)), rng))
        return random_flip(pixels, rng) if self.flip else pixels


def crop_resize(image: Image.Image, box: Box, size: int, interpolation: str, mirror: bool = False) -> np.ndarray:
    """Returns a crop as uint8 [size, size, 3]: resampled along x, then along y; `mirror` flips it left to right."""
    resampling = RESAMPLING[interpolation]
    crop = image.crop(box)
    # In two calls: in one, Pillow would choose the order of the axes, which changes the rounding.
    pixels = np.asarray(crop.resize((size, crop.height), resampling).resize((size, size), resampling))
    return pixels[:, ::-1] if mirror else pixels


@dataclasses.dataclass(frozen=True)
class CropFlip:
    """For small images: resizes to `size` pixels, pads with `pad` black pixels, crops at random and flips."""

    size: int
    pad: int = 4
    flip: bool = True
    accepts_encoded: ClassVar[bool] = False

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> np.ndarray:
        if image.size != (self.size, self.size):
            image = image.resize((self.size, self.size), Image.Resampling.BILINEAR)
        left, top = (int(offset) - self.pad for offset in rng.integers(0, 2 * self.pad, size=2, endpoint=True))
        pixels = np.asarray(image.crop((left, top, left + self.size, top + self.size)))
        return random_flip(pixels, rng) if self.flip else pixels


def sample_box(
    width: int, height: int, rng: np.random.Generator, area: tuple[float, float], aspect: tuple[float, float]
) -> Box:
    """Returns a random box with uniform area and log aspect ratio; the largest central box if 10 draws do not fit.

    Args:
      width, height: of the image, in pixels.
      rng: the random generator.
      area: range of the share of the image.
      aspect: range of width / height.
    """
    for _ in range(10):
        target = width * height * rng.uniform(*area)
        ratio = np.exp(rng.uniform(*np.log(aspect)))
        w, h = round(float(np.sqrt(target * ratio))), round(float(np.sqrt(target / ratio)))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return left, top, left + w, top + h
    ratio = min(max(width / height, aspect[0]), aspect[1])
    w, h = min(width, round(height * ratio)), min(height, round(width / ratio))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def distort_colours(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Scales brightness, contrast and colour by 0.5 ... 1.5 in random order, then adds noise along `PCA_VECTORS`."""
    enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    for i in rng.permutation(len(enhancers)):
        image = enhancers[i](image).enhance(rng.uniform(0.5, 1.5))
    shift = np.round(PCA_VECTORS @ (rng.normal(0.0, 0.1, size=3) * PCA_VALUES) * 255).astype(np.int16)
    return Image.fromarray(np.clip(np.asarray(image) + shift, 0, 255).astype(np.uint8))


def random_flip(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mirrors [H, W, C] left to right with probability 1/2."""
    return pixels[:, ::-1] if rng.random() < 0.5 else pixels
