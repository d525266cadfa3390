"""Decodes untrusted image files to RGB, within limits on formats, memory and time.

`open_untrusted` opens every image. Pillow reads more formats than `FORMATS`, some by starting other programs.
"""

from __future__ import annotations

import contextlib
import functools
import io
import warnings
from collections.abc import Collection, Iterator

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError, _imaging

from inception_jax.data import exif, jpeg, memory, tags
from inception_jax.errors import UserError, first_line

# Pillow warns of each damaged tag of a TIFF or of EXIF data, which can be thousands of lines for one file.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.TiffImagePlugin")

# The C library returns blocks of over 32 MiB to the system when they are freed. It keeps Pillow's default blocks of
# 16 MiB for the thread that had them, so each thread would hold on to the memory of its largest image.
_imaging.set_block_size(64 << 20)

FORMATS: dict[str, tuple[str, ...]] = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "GIF": (".gif",),
    "BMP": (".bmp", ".dib"),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
    "AVIF": (".avif",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
}
"""The supported formats, by Pillow's names, with the suffixes by which folders are searched."""

IMAGE_SUFFIXES = frozenset(suffix for suffixes in FORMATS.values() for suffix in suffixes)
MAX_FILE = 256 << 20  # bytes
MAX_PIXELS = 89_000_000  # where Pillow begins to warn; the largest ImageNet image has about 60 million
MAX_SCANNED = 20 * MAX_PIXELS  # scans of a JPEG times its pixels
MAX_STRIPS = 200_000  # of a TIFF, which Pillow decodes at 100,000 a second
MAX_SLOW_PIXELS = 4_000_000  # decoded by Pillow's Python: about a second
SLOW_DECODERS = frozenset({"ppm", "ppm_plain", "bmp_rle"})

# Upper bound of the bytes per pixel to decode and crop: RGB takes 4 in Pillow, and the crop may copy all of it.
_BYTES = 9
_BYTES_OF = {"WEBP": 24, "AVIF": 24}  # their decoders hold several copies, of all channels
_BYTES_OF_LIBTIFF = 16
_BYTES_OF_SCANS = 6  # in addition, for a JPEG of several scans, whose coefficients are kept until the last one
_SCANS = "scans"  # key in `image.info`
_NARROW = 512  # pixels of the short side, to which an image may be enlarged before it is cropped


class BrokenImage(UserError):
    """An image that cannot be read as RGB."""


def open_untrusted(encoded: bytes, formats: Collection[str] = tuple(FORMATS)) -> Image.Image:
    """Opens an encoded image by reading its header, and refuses it if decoding would take too much memory or time.

    Args:
      encoded: the bytes of the file.
      formats: allowed ones of FORMATS.

    Raises:
      BrokenImage: it is not an image of these formats, or exceeds a limit of pixels, memory or scans.
    """
    with reading(encoded):
        _check_canvas(encoded)
        if tags.most_values(encoded) > MAX_STRIPS:
            raise BrokenImage(f"a TIFF of over {MAX_STRIPS:,} strips, tiles or values of a tag")
        image = Image.open(io.BytesIO(encoded), formats=[each for each in formats if each in _readable()])
        _check_pixels(*image.size, MAX_PIXELS, "")
        tile = getattr(image, "tile", None)
        if tile and tile[0][0] in SLOW_DECODERS:
            _check_pixels(*image.size, MAX_SLOW_PIXELS, f" of {image.format} in this encoding")
        if encoded.startswith(jpeg.START):
            image.info[_SCANS] = jpeg.read_header(encoded).scans
            check_scans(image.info[_SCANS], *image.size)
        _check_pixels(*image.size, memory.IMAGES.limit // _bytes_a_pixel(image), f" of {image.format}")
        return image


def decode(encoded: bytes, upright: bool = False) -> Image.Image:
    """Decodes any image of FORMATS to RGB: the first frame, without alpha.

    Args:
      encoded: the bytes of the file.
      upright: whether to apply the EXIF orientation. ImageNet's published accuracies are measured without.

    Raises:
      BrokenImage: it is not an image, is truncated, exceeds a limit, or has pixels without a fixed range.
    """
    image = open_untrusted(encoded)
    with reading(encoded):
        return _to_rgb(image, upright)


@contextlib.contextmanager
def decoded(encoded: bytes, upright: bool = False) -> Iterator[Image.Image]:
    """Yields what `decode` returns; a large image waits until enough memory is free (see `memory`).

    The block must not open another image.
    """
    image = open_untrusted(encoded)
    with memory.IMAGES.reserve(_cost(image)):
        with reading(encoded):
            image = _to_rgb(image, upright)
        yield image


def size_of(encoded: bytes, upright: bool = False) -> tuple[int, int]:
    """Returns the width and height of the image that `decode` returns, from its header if that suffices.

    Raises:
      BrokenImage: as `open_untrusted`.
    """
    image = open_untrusted(encoded)
    if not upright:
        return image.size
    if image.format == "PNG":  # whose EXIF data may follow its pixels
        return decode(encoded, upright).size
    return image.size[::-1] if exif.turns(exif.stated(image)) else image.size


def to_rgb(image: Image.Image) -> Image.Image:
    """Returns an image of any mode as RGB, without alpha.

    Raises:
      BrokenImage: its pixels have no fixed range.
    """
    if image.mode.startswith("I;16"):  # Pillow's own conversion clips 16-bit pixels to white
        pixels = np.asarray(image)
        upper = 0 if pixels.dtype.str.startswith(">") else 1
        return Image.fromarray(np.ascontiguousarray(pixels.view(np.uint8)[:, upper::2])).convert("RGB")
    if image.mode in ("I", "F"):
        raise BrokenImage(f"pixels of mode {image.mode!r} (32 bits) have no fixed range")
    if image.mode == "RGB" and "transparency" not in image.info:
        image.load()
        return image  # `convert` would copy it
    if "transparency" in image.info:  # a transparent colour, on its way to RGB only through RGBA
        image = image.convert("RGBA")
    return image.convert("RGB")


def check_scans(scans: int, width: int, height: int) -> None:
    """Raises a `BrokenImage` if a JPEG has so many scans that decoding would take too long."""
    if scans > jpeg.MAX_SCANS:
        raise BrokenImage(f"a JPEG of over {jpeg.MAX_SCANS} scans")
    if scans * width * height > MAX_SCANNED:
        raise BrokenImage(f"{scans} scans of {width} x {height} pixels are over the limit of {MAX_SCANNED:,} together")


def cost_of_scans(scans: int, width: int, height: int) -> int:
    """Returns the bytes of coefficients that decoding a JPEG needs: 0 unless it has several scans."""
    return _BYTES_OF_SCANS * width * height if scans > 1 else 0


def from_pillow(image: Image.Image, upright: bool) -> Image.Image:
    """Returns an image that the caller has opened, as RGB; `upright` applies the EXIF orientation that it carries.

    Raises:
      BrokenImage: it cannot be decoded.
    """
    with reading(b""):
        rgb = to_rgb(image)
        turned = exif.upright(rgb, exif.stated(image)) if upright else rgb
    if turned is not rgb:
        turned.info = {}  # else its EXIF data would turn it again
    return turned


@contextlib.contextmanager
def reading(encoded: bytes) -> Iterator[None]:
    """Turns any error of a decoder into a `BrokenImage` of one line."""
    try:
        yield
    except BrokenImage:
        raise
    except UnidentifiedImageError as error:
        raise BrokenImage(f"not an image ({len(encoded):,} bytes)") from error
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        raise BrokenImage(first_line(error)) from error


def _to_rgb(image: Image.Image, upright: bool) -> Image.Image:
    """Returns the pixels of an image from `open_untrusted`, as RGB and without its metadata."""
    image.load()  # of a PNG, also what follows the pixels
    rgb = exif.upright(to_rgb(image), exif.stated(image) if upright else exif.UPRIGHT)
    rgb.info = {}
    return rgb


@functools.cache
def _readable() -> frozenset[str]:
    """Returns the formats that this build of Pillow knows."""
    Image.init()
    return frozenset(FORMATS) & Image.OPEN.keys()


def _check_pixels(width: int, height: int, limit: int, what: str) -> None:
    if width * height > limit:
        raise BrokenImage(f"{width} x {height} pixels{what} are over the limit of {limit:,}")


def _check_canvas(encoded: bytes) -> None:
    """Refuses a WebP that is too large by its first bytes, because Pillow allocates the pixels when it opens one."""
    if encoded[8:12] != b"WEBP":
        return
    kind, size = encoded[12:16], (0, 0)
    if kind == b"VP8X":
        size = 1 + int.from_bytes(encoded[24:27], "little"), 1 + int.from_bytes(encoded[27:30], "little")
    elif kind == b"VP8L":
        bits = int.from_bytes(encoded[21:25], "little")
        size = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    _check_pixels(*size, memory.IMAGES.limit // _BYTES_OF["WEBP"], " of WEBP")


def _bytes_a_pixel(image: Image.Image) -> int:
    if isinstance(image, ImageFile.ImageFile) and image.tile and image.tile[0][0] == "libtiff":
        return _BYTES_OF_LIBTIFF
    return _BYTES_OF.get(image.format or "", _BYTES) + _BYTES_OF_SCANS * (image.info.get(_SCANS, 1) > 1)


def _cost(image: Image.Image) -> int:
    """Returns an upper bound of the bytes to decode an image and crop it."""
    width, height = image.size
    enlarged = min(_NARROW**2 * max(width, height) // max(min(width, height), 1), MAX_PIXELS)
    return max(width * height * _bytes_a_pixel(image), enlarged * 4)
