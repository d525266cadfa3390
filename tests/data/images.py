"""Images in memory, valid and broken."""

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


def bomb(width: int, height: int, bits: int = 8, colour: int = 2, whole: bool = False) -> bytes:
    """Returns a PNG whose header alone is that large; if `whole`, with its pixels, all 0."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    row = bytes(1 + width * bits // 8 * {2: 3, 6: 4}[colour])
    packer = zlib.compressobj()
    packed = [packer.compress(row) for _ in range(height)] if whole else [packer.compress(b"\0")]
    pixels = b"IDAT" + b"".join([*packed, packer.flush()])
    chunks = [
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        for chunk in (header, pixels, b"IEND")
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def vast_webp(width: int, height: int) -> bytes:
    """Returns a lossless WebP of one colour in about 30 bytes."""
    one_symbol = "1000"  # a Huffman code for a single symbol, 0
    bits = f"{width - 1:014b}"[::-1] + f"{height - 1:014b}"[::-1] + "0" + "000" + "000" + one_symbol * 5
    bits += "0" * (-len(bits) % 8)
    body = b"\x2f" + bytes(int(bits[i : i + 8][::-1], 2) for i in range(0, len(bits), 8))
    body += bytes(len(body) % 2)
    return b"RIFF" + struct.pack("<I", 12 + len(body)) + b"WEBPVP8L" + struct.pack("<I", len(body)) + body


def many_scans(side: int, scans: int) -> bytes:
    """Returns a grey progressive JPEG of so many scans, each of which says that nothing changes."""

    def segment(marker: int, content: bytes) -> bytes:
        return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content

    def packed(bits: str) -> bytes:
        bits += "1" * (-len(bits) % 8)
        return (int(bits, 2).to_bytes(len(bits) // 8, "big")).replace(b"\xff", b"\xff\0") if bits else b""

    blocks = ((side + 7) // 8) ** 2
    long_run = 1 << 14  # the one symbol of the table: a run of that many blocks without coefficients, and 14 bits more
    runs, left = "", blocks
    while left > 0:
        count = min(max(left, long_run), 2 * long_run - 1)
        runs, left = runs + "0" + f"{count - long_run:014b}", left - count
    tables = segment(0xDB, b"\0" + b"\1" * 64) + segment(0xC4, b"\0" + b"\1" + bytes(15) + b"\0")
    tables += segment(0xC4, b"\x10" + b"\1" + bytes(15) + b"\xe0")
    frame = segment(0xC2, b"\x08" + struct.pack(">HH", side, side) + b"\1\1\x11\0")
    first = segment(0xDA, b"\1\1\0\0\0\0") + packed("0" * blocks)
    again = segment(0xDA, b"\1\1\0\1\x3f\x0d") + packed(runs)
    return b"\xff\xd8" + tables + frame + first + again * (scans - 1) + b"\xff\xd9"


def many_strips(strips: int, big: bool = False, kind: int = 4) -> bytes:
    """Returns a grey TIFF of 8 x 8 pixels that names so many strips, all of them one row of zeros."""
    head, entry, number = (20, "<HHQQ", "<Q") if big else (12, "<HHII", "<I")
    values = {256: 8, 257: 8, 258: 8, 259: 1, 262: 1, 277: 1, 278: 1}
    start = 80
    end = start + struct.calcsize(number) * 2 + head * 9  # behind the tags; the longer count of tags fits as well
    entries = [struct.pack(entry, tag, 4, 1, value) for tag, value in values.items()]
    entries += [struct.pack(entry, 273, kind, strips, end), struct.pack(entry, 279, 4, 8, end)]
    magic = struct.pack("<HHHQ", 43, 8, 0, start) if big else struct.pack("<HI", 42, start)
    count = struct.pack("<Q" if big else "<H", len(entries))
    content = (b"II" + magic).ljust(start, b"\0") + count + b"".join(entries)
    return content.ljust(end, b"\0") + struct.pack("<I", 16) * strips


def truncated_jpeg() -> bytes:
    encoded = encode(noise(64, 64), "JPEG")
    return encoded[: len(encoded) // 2]
