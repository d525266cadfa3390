"""Reads the EXIF orientation of images and applies it. Damaged EXIF data count as none; nothing here raises."""

from __future__ import annotations

from typing import Any

from PIL import Image

from inception_jax.data.tags import first_tags

UPRIGHT = 1
_TAG = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def orientation(exif: bytes) -> int:
    """Returns the orientation 1 ... 8 in EXIF data, with or without the "Exif" prefix; 1 if none is valid."""
    for tag in first_tags(exif.removeprefix(b"Exif\0\0")):
        if tag.number == _TAG and tag.values == 1:
            return tag.value if tag.value in _TURNS else UPRIGHT
    return UPRIGHT


def stated(image: Image.Image) -> int:
    """Returns the EXIF orientation 1 ... 8 of an image; 1 for TIFFs, which Pillow turns itself.

    Load a PNG first: its EXIF data may follow the pixels.
    """
    return UPRIGHT if image.format == "TIFF" else orientation(_exif_of(image.info))


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """Returns the image rotated and mirrored according to an EXIF orientation; 1 returns it unchanged."""
    return image if orientation == UPRIGHT else image.transpose(_TURNS[orientation])


def turns(orientation: int) -> bool:
    """Returns whether an EXIF orientation swaps width and height."""
    return orientation >= 5


def _exif_of(info: dict[str | tuple[int, int], Any]) -> bytes:
    exif = info.get("exif", b"")
    if not exif and isinstance(text := info.get("Raw profile type exif"), str):  # ImageMagick's, in a PNG
        try:
            return bytes.fromhex("".join(text.split("\n")[3:]))
        except ValueError:
            return b""
    return exif if isinstance(exif, bytes) else b""
