"""From what a user has of an image to what a network reads: uint8 pixels [size, size, 3], cut as its card says."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from inception_jax.data.transforms import BrokenImage, decode, to_rgb
from inception_jax.errors import UserError

Input = str | os.PathLike | bytes | Image.Image | np.ndarray


def open_image(source: Input) -> Image.Image:
    """Returns an RGB image from a path, encoded bytes, a Pillow image, or an array [H, W, 3] or [H, W].

    Arrays are uint8, or floats in 0 ... 1. Networks normalise by themselves: what is normalised already is refused.

    Raises:
      BrokenImage: a file or bytes that cannot be decoded.
      UserError: no such file, or an array of another shape, type or range.
    """
    if isinstance(source, Image.Image):
        return to_rgb(source)
    if isinstance(source, bytes | bytearray):
        return decode(bytes(source))
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        try:
            encoded = path.read_bytes()
        except OSError as error:
            raise BrokenImage(f"{path}: {error.strerror}") from error
        try:
            return decode(encoded)
        except BrokenImage as error:
            raise BrokenImage(f"{path}: {error}") from error
    return _from_array(source)


def _from_array(source: Any) -> Image.Image:
    array = np.asarray(source)
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] != 3) or not array.size:
        raise UserError(f"An image is an array [H, W, 3] or [H, W], not {array.dtype}{list(array.shape)}.")
    if np.issubdtype(array.dtype, np.floating):
        low, high = float(np.min(array)), float(np.max(array))
        if not (low >= 0 and high <= 1):
            raise UserError(
                f"The values of a float image are in 0 ... 1; these are in {low:.3g} ... {high:.3g}. "
                "Pixels of 0 ... 255 are uint8, and nothing is normalised beforehand: the network's card says how."
            )
        array = np.rint(array * 255).astype(np.uint8)
    if array.dtype != np.uint8:
        raise UserError(f"An image is an array of uint8, or of floats in 0 ... 1, not of {array.dtype}.")
    return Image.fromarray(array).convert("RGB")
