"""Images as users have them: paths, bytes, Pillow images and arrays become RGB images or lists of them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from PIL import Image

from inception_jax.data.pixels import MAX_FILE, BrokenImage, decode, decoded, from_pillow
from inception_jax.errors import UserError, first_line, printable
from inception_jax.paths import read_bytes

Encoded = str | os.PathLike | bytes | Image.Image
"""One image: a path, the bytes of a file, or a Pillow image. (An array may be one image or several.)"""

Input = Encoded | np.ndarray
Images = Input | Iterable[Input]
"""Many images, or one; an array [B, H, W, 3] is B images, [H, W, 3] or [H, W] is one."""


def as_images(given: Images) -> tuple[Iterable[Input], bool]:
    """Returns the images to iterate over, and whether a single image was given, not in a list.

    Raises:
      UserError: `given` is no image and no list of images; or it is an array [B, H, W], which may be either.
    """
    if isinstance(given, str | os.PathLike | bytes | bytearray | Image.Image):
        return [given], True
    if hasattr(given, "ndim") and hasattr(given, "shape"):  # of NumPy, of JAX and of others
        paths = given.ndim == 1 and np.dtype(getattr(given, "dtype", float)).kind in "OUS"
        if paths or given.ndim == 4:
            return given, False
        if given.ndim == 3 and given.shape[-1] != 3 and given.shape[0] != 3:
            raise UserError(
                f"An array {list(given.shape)} is no image [H, W, 3] and no batch [B, H, W, 3]. "
                "Grey images [H, W] are given in a list."
            )
        return [np.asarray(given)], True
    if isinstance(given, Iterable) and not isinstance(given, Mapping):
        return given, False
    raise UserError(
        "Images are paths, bytes, images of Pillow, arrays [H, W, 3], or a list of these, "
        f"not a {type(given).__name__}."
    )


def as_names(given: str | Iterable[str]) -> tuple[str, ...]:
    """Returns the names to iterate over; a string is one name, not a list of letters.

    Raises:
      UserError: `given` is neither a string nor a list of strings.
    """
    if isinstance(given, str):
        return (given,)
    if isinstance(given, Iterable) and not isinstance(given, bytes):
        names = tuple(given)
        if all(isinstance(name, str) for name in names):
            return names
    raise UserError(f"Names are a string or a list of strings, not {printable(repr(given)[:80])}.")


def load_rgb(source: Input, exif: bool = True) -> Image.Image:
    """Returns an RGB image from a path, encoded bytes, a Pillow image, or an array [H, W, 3] or [H, W].

    Arrays are uint8, or floats in 0 ... 1. The network normalises its input, so normalised arrays are refused.

    Args:
      source: the image.
      exif: turn it by its EXIF orientation, also a Pillow image; an array has none.

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
def loaded_rgb(source: Input, exif: bool = True) -> Iterator[Image.Image]:
    """Yields what `load_rgb` returns; a large file waits until the memory limit of this process allows decoding it."""
    if not isinstance(source, bytes | bytearray | str | os.PathLike):
        yield load_rgb(source, exif)
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
    """Puts the name of the file before the message of a `BrokenImage`."""
    try:
        yield
    except BrokenImage as error:
        if isinstance(source, bytes | bytearray):
            raise
        raise BrokenImage(f"{printable(os.fspath(source))}: {error}") from error


def _from_array(source: Any) -> Image.Image:
    try:
        array = np.asarray(source)
    except ValueError as error:  # lists of several lengths
        raise UserError(f"A {type(source).__name__} is no image: {first_line(error)}.") from error
    _check_shape(array)
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


def _check_shape(array: np.ndarray) -> None:
    what, shape = f"{array.dtype}{list(array.shape)}", array.shape
    if array.ndim in (2, 3) and array.size:
        if array.ndim == 2 and min(shape) <= 4:
            raise UserError(f"{what} is a row of pixels, no image [H, W, 3]; grey ones [H, W] have over 4 x 4 pixels.")
        if array.ndim == 2 or shape[-1] == 3:
            return
        if shape[0] in (1, 3):
            raise UserError(f"An image is an array [H, W, 3]; {what} has its channels first: transpose(1, 2, 0).")
    raise UserError(f"An image is an array [H, W, 3] or [H, W], not {what}.")
