"""Parts of encoded images: cropped and resized, and of JPEGs no more decoded than that takes."""

from __future__ import annotations

import dataclasses

import numpy as np
from PIL import Image

from inception_jax.data.transforms import MAX_PIXELS, Box, decode, resize_part

try:
    from inception_jax.data import _jpeg
except ImportError:  # no compiler, or no headers of libjpeg-turbo, when this package was installed
    _jpeg = None  # type: ignore[assignment]

FILTERS = {"nearest": 0, "area": 1, "bilinear": 2, "bicubic": 3}  # of native/resample.h
END_OF_JPEG = b"\xff\xd9"


def decodes_parts() -> bool:
    """Returns whether JPEGs are decoded in part; otherwise Pillow decodes them in full, to the same pixels."""
    return _jpeg is not None


def decodes_huffman() -> bool:
    """Returns whether parts are decoded with our function for Huffman codes; it suits versions of libjpeg-turbo."""
    return decodes_parts() and bool(_jpeg.SPEEDS_UP)


@dataclasses.dataclass(frozen=True)
class EncodedJpeg:
    """A JPEG that is decoded in part, when a part is asked for.

    The bytes before the part and those of it are checked for damage; those after it only for the mark of the end.
    """

    encoded: bytes
    size: tuple[int, int]

    def resize_part(self, box: Box, size: int, interpolation: str, mirror: bool = False) -> np.ndarray:
        """Returns what `transforms.resize_part` does of the decoded image, to the last bit.

        Raises:
          BrokenImage: the data are damaged.
        """
        pixels = _jpeg.crop_resize(self.encoded, box, size, FILTERS[interpolation], mirror)
        if pixels is None:  # damaged: Pillow decides
            return resize_part(decode(self.encoded), box, size, interpolation, mirror)
        return np.frombuffer(pixels, np.uint8).reshape(size, size, 3)


def open_image(encoded: bytes) -> Image.Image | EncodedJpeg:
    """Returns an image to take parts of: decoded, unless it is a JPEG and parts can be decoded.

    Raises:
      BrokenImage: see `decode`.
    """
    if _jpeg is not None and encoded.endswith(END_OF_JPEG):
        size = _jpeg.size(encoded)
        if size is not None and size[0] * size[1] <= MAX_PIXELS:
            return EncodedJpeg(encoded, size)
    return decode(encoded)
