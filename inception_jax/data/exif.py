"""The orientation that EXIF data state, and images turned as it says. Damaged data state nothing; nothing raises."""

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
    """Returns the orientation 1 ... 8 in EXIF data, with or without their mark; 1 where there is none that is valid."""
    for tag in first_tags(exif.removeprefix(b"Exif\0\0")):
        if tag.number == _TAG and tag.values == 1:
            return tag.value if tag.value in _TURNS else UPRIGHT
    return UPRIGHT


def stated(image: Image.Image) -> int:
    """Returns the orientation 1 ... 8 that the EXIF data of an image state.

    Those of a PNG may follow its pixels, so these are loaded before. Pillow turns a TIFF by itself.
    """
    return UPRIGHT if image.format == "TIFF" else orientation(_exif_of(image.info))


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """Returns the image turned, and mirrored, as an orientation asks; itself for 1."""
    return image if orientation == UPRIGHT else image.transpose(_TURNS[orientation])


def turns(orientation: int) -> bool:
    """Returns whether an orientation exchanges width and height."""
    return orientation >= 5


def _exif_of(info: dict[str | tuple[int, int], Any]) -> bytes:
    exif = info.get("exif", b"")
    if not exif and isinstance(text := info.get("Raw profile type exif"), str):  # ImageMagick's, in a PNG
        try:
            return bytes.fromhex("".join(text.split("\n")[3:]))
        except ValueError:
            return b""
    return exif if isinstance(exif, bytes) else b""
