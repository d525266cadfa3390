"""Images as users have them: paths, bytes, Pillow images and arrays become RGB or grey images, or lists of them."""

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
"""Many images, or one; an array [B, H, W, C] is B images, [H, W, C] or [H, W] is one."""

Planes = list[Image.Image]
"""The pixels of one image: [RGB], [grey], or a grey image for each channel."""


def as_images(given: Images, channels: int = 3) -> tuple[Iterable[Input], bool]:
    """Returns the images to iterate over, and whether a single image was given, not in a list.

    Args:
      given: one image or several.
      channels: of arrays; a network for grey images takes RGB arrays, too.

    Raises:
      UserError: `given` is no image and no list of images; or it is an array [B, H, W], which may be either.
    """
    if isinstance(given, str | os.PathLike | bytes | bytearray | Image.Image):
        return [given], True
    if hasattr(given, "ndim") and hasattr(given, "shape"):  # of NumPy, of JAX and of others
        paths = given.ndim == 1 and np.dtype(getattr(given, "dtype", float)).kind in "OUS"
        if paths or given.ndim == 4:
            return given, False
        if given.ndim == 3 and not {given.shape[-1], given.shape[0]} & ({3, channels} if channels == 1 else {channels}):
            raise UserError(
                f"An array {list(given.shape)} is no image [H, W, {channels}] and no batch [B, H, W, {channels}]. "
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


@contextlib.contextmanager
def loaded(source: Input, channels: int, exif: bool = True) -> Iterator[Planes]:
    """Yields an image as a network of so many channels reads it.

    3: as RGB. 1: as grey, by Pillow's conversion of RGB (the luma of ITU-R 601). Any other number: the channels of an
    array [H, W, channels], which is uint8 or floats in 0 ... 1.

    Raises:
      BrokenImage: a file or bytes that cannot be read or decoded.
      UserError: an array of another shape, type or range; an image file, if the network reads neither RGB nor grey.
    """
    is_file = isinstance(source, Image.Image | bytes | bytearray | str | os.PathLike)
    if channels in (1, 3):
        if channels == 1 and not is_file and getattr(source, "shape", ())[2:] == (1,):
            source = np.asarray(source)[:, :, 0]
        with loaded_rgb(source, exif) as rgb:
            yield [rgb if channels == 3 else rgb.convert("L")]
        return
    if is_file:
        raise UserError(
            f"The network reads images of {channels} channels; image files are RGB or grey. "
            f"Give arrays uint8 [H, W, {channels}]."
        )
    pixels = _pixels(source, channels)
    yield [Image.fromarray(np.ascontiguousarray(pixels[:, :, i])) for i in range(channels)]


def joined(planes: list[np.ndarray], channels: int) -> np.ndarray:
    """Returns pixels [..., H, W, channels] from those of each of the `Planes`: RGB [..., H, W, 3], grey [..., H, W]."""
    return planes[0] if channels == 3 else np.stack(planes, axis=-1)


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
    return Image.fromarray(_pixels(source, 3)).convert("RGB")


def _pixels(source: Any, channels: int) -> np.ndarray:
    """Returns an array as uint8 [H, W, channels]; of three channels also [H, W]."""
    try:
        array = np.asarray(source)
    except ValueError as error:  # lists of several lengths
        raise UserError(f"A {type(source).__name__} is no image: {first_line(error)}.") from error
    _check_shape(array, channels)
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
    return array


def _check_shape(array: np.ndarray, channels: int) -> None:
    what, shape, allowed = f"{array.dtype}{list(array.shape)}", array.shape, f"[H, W, {channels}]"
    if array.ndim in (2, 3) and array.size:
        if array.ndim == 2 and channels == 3:
            if min(shape) > 4:
                return
            raise UserError(f"{what} is a row of pixels, no image [H, W, 3]; grey ones [H, W] have over 4 x 4 pixels.")
        if shape[-1] == channels:
            return
        if shape[0] in (1, channels):
            raise UserError(f"An image is an array {allowed}; {what} has its channels first: transpose(1, 2, 0).")
    raise UserError(f"An image is an array {allowed}{' or [H, W]' if channels == 3 else ''}, not {what}.")
