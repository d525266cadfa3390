"""Images in memory, whole and broken."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

from inception_jax.data.sources import ImageSource


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encode(image: Image.Image | np.ndarray, file_format: str = "PNG", **options) -> bytes:
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def noise_source(count: int, size: int = 8, classes: int = 3) -> ImageSource:
    """Returns `count` different images."""
    records = [{"image": encode(noise(size, size, seed)), "label": seed % classes} for seed in range(count)]
    return ImageSource("noise[all]", records, tuple(str(label) for label in range(classes)))


def bomb(width: int, height: int) -> bytes:
    """Returns a PNG whose header alone is that large."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = b"IDAT" + zlib.compress(b"\0")
    chunks = [
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in (header, pixels)
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def truncated_jpeg() -> bytes:
    encoded = encode(noise(64, 64), "JPEG")
    return encoded[: len(encoded) // 2]
