"""From what a user has of an image to what a network reads: uint8 pixels [size, size, 3], cut as its card says."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from inception_jax.data.pixels import MAX_FILE, BrokenImage, decode, decoded, from_pillow
from inception_jax.errors import UserError, printable
from inception_jax.paths import read_bytes

Input = str | os.PathLike | bytes | Image.Image | np.ndarray


def open_image(source: Input, exif: bool = True) -> Image.Image:
    """Returns an RGB image from a path, encoded bytes, a Pillow image, or an array [H, W, 3] or [H, W].

    Arrays are uint8, or floats in 0 ... 1. Networks normalise by themselves: what is normalised already is refused.

    Args:
      source: the image.
      exif: turn it as its EXIF data say, those of a Pillow image included; an array has none.

    Raises:
      BrokenImage: a file or bytes that cannot be read or decoded.
      UserError: an array of another shape, type or range.
    """
    if isinstance(source, Image.Image):
        return from_pillow(source, exif)
    if isinstance(source, bytes | bytearray | str | os.PathLike):
        encoded = _encoded(source)
        with _named(source):
            return decode(encoded, exif)
    return _from_array(source)


@contextlib.contextmanager
def opened(source: Input, exif: bool = True) -> Iterator[Image.Image]:
    """Gives what `open_image` returns; a large file waits until the threads of this process have room for it."""
    if not isinstance(source, bytes | bytearray | str | os.PathLike):
        yield open_image(source, exif)
        return
    encoded = _encoded(source)
    with contextlib.ExitStack() as stack:
        with _named(source):
            image = stack.enter_context(decoded(encoded, exif))
        yield image


def _encoded(source: bytes | bytearray | str | os.PathLike) -> bytes:
    if isinstance(source, bytes | bytearray):
        return bytes(source)
    try:
        return read_bytes(source, MAX_FILE)
    except UserError as error:  # it names the file
        raise BrokenImage(str(error).rstrip(".")) from error


@contextlib.contextmanager
def _named(source: bytes | bytearray | str | os.PathLike) -> Iterator[None]:
    """Puts the name of a file before what is broken about it."""
    try:
        yield
    except BrokenImage as error:
        if isinstance(source, bytes | bytearray):
            raise
        raise BrokenImage(f"{printable(os.fspath(source))}: {error}") from error


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
