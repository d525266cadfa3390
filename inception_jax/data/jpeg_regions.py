"""Crops of encoded images; of a JPEG only the region of the crop is decoded."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
from collections.abc import Iterator

import numpy as np
from PIL import Image

from inception_jax.data import exif, jpeg, memory
from inception_jax.data.pixels import MAX_PIXELS, check_scans, cost_of_scans, decode, decoded
from inception_jax.data.transforms import Box, crop_resize

try:
    from inception_jax.data import _jpeg
except ImportError:  # no compiler, or no headers of libjpeg-turbo, when this package was installed
    _jpeg = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

FILTERS = {"nearest": 0, "area": 1, "bilinear": 2, "bicubic": 3}  # of native/resample.h
END_OF_JPEG = b"\xff\xd9"


def decodes_regions() -> bool:
    """Returns whether JPEGs are decoded by region; otherwise Pillow decodes them whole, to the same pixels."""
    return _jpeg is not None


@functools.cache
def warn_of_whole_decoding() -> None:
    """Warns once in a process if JPEGs are decoded whole."""
    if not decodes_regions():
        logger.warning(
            "JPEGs are decoded whole, which takes longer: this package was installed without a C compiler or without "
            "the headers of libjpeg-turbo (libjpeg-dev)."
        )


def decodes_huffman() -> bool:
    """Returns whether regions are decoded with our Huffman decoder, which supports some versions of libjpeg-turbo."""
    return decodes_regions() and bool(_jpeg.SPEEDS_UP)


@dataclasses.dataclass(frozen=True)
class EncodedJpeg:
    """A JPEG of which each crop decodes only its own region.

    The bytes up to the end of the region are checked for damage. Of those after it only the end marker is checked.

    Attributes:
      encoded: the bytes of the file.
      size: width and height, in pixels.
      scans: number of scans, each a pass of the decoder over the image.
    """

    encoded: bytes
    size: tuple[int, int]
    scans: int = 1

    def crop_resize(self, box: Box, size: int, interpolation: str, mirror: bool = False) -> np.ndarray:
        """Returns exactly what `transforms.crop_resize` returns for the decoded image.

        Raises:
          BrokenImage: the data are damaged.
        """
        with memory.IMAGES.reserve(cost_of_scans(self.scans, *self.size)):
            pixels = _jpeg.crop_resize(self.encoded, box, size, FILTERS[interpolation], mirror)
        if pixels is None:  # damaged: Pillow decides whether it can be read
            with decoded(self.encoded) as image:
                return crop_resize(image, box, size, interpolation, mirror)
        return np.frombuffer(pixels, np.uint8).reshape(size, size, 3)


def open_for_crop(encoded: bytes, upright: bool = False) -> Image.Image | EncodedJpeg:
    """Returns an image to crop: an `EncodedJpeg` if it is a JPEG that can be decoded by region, else decoded.

    Args:
      encoded: the bytes of the file.
      upright: see `decode`; an image that has to be turned is decoded whole.

    Raises:
      BrokenImage: see `decode`.
    """
    return _open_jpeg(encoded, upright) or decode(encoded, upright)


@contextlib.contextmanager
def opened_for_crop(encoded: bytes, upright: bool = False) -> Iterator[Image.Image | EncodedJpeg]:
    """Yields what `open_for_crop` returns; a large image that is decoded whole waits for memory, as in `decoded`."""
    if (image_by_region := _open_jpeg(encoded, upright)) is not None:
        yield image_by_region
        return
    with decoded(encoded, upright) as image:
        yield image


def _open_jpeg(encoded: bytes, upright: bool) -> EncodedJpeg | None:
    """Returns a JPEG that can be decoded by region; None for anything else."""
    size = _jpeg.size(encoded) if _jpeg is not None and encoded.endswith(END_OF_JPEG) else None
    if size is None or size[0] * size[1] > MAX_PIXELS:
        return None
    header = jpeg.read_header(encoded)
    check_scans(header.scans, *size)
    if upright and exif.orientation(header.exif) != exif.UPRIGHT:
        return None
    return EncodedJpeg(encoded, size, header.scans)
