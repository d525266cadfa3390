"""Reads the markers of a JPEG without decoding it: the number of scans, and the EXIF data."""

from __future__ import annotations

import re
from typing import NamedTuple

START = b"\xff\xd8"
MAX_SCANS = 100  # encoders write about 10; a decoder passes over all pixels for each

_SCAN, _END, _APP1 = 0xDA, 0xD9, 0xE1
_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_ONE_PASS = frozenset({0xC0, 0xC1, 0xC9})  # frames that are not progressive
_BARE = frozenset({0x01, *range(0xD0, 0xD9)})  # markers without a length
_MARKER = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")  # in compressed data; 0xff 0x00 is a byte, 0xffd0 ... 7 restart
_EXIF = b"Exif\0\0"


class Header(NamedTuple):
    """What the markers of a JPEG say.

    Attributes:
      scans: number of scans, each a pass of the decoder over the image; counted up to MAX_SCANS + 1.
      exif: content of the EXIF segments, without their "Exif" prefix; empty if there are none.
    """

    scans: int
    exif: bytes


def read_header(encoded: bytes) -> Header:
    """Returns what the markers say. Bytes that are not a JPEG give an arbitrary header; the decoder refuses them."""
    exif: list[bytes] = []
    place, end, components, one_pass = len(START), len(encoded), 0, False
    while place + 4 <= end and encoded[place] == 0xFF:
        marker = encoded[place + 1]
        if marker == 0xFF or marker in _BARE:
            place += 1 if marker == 0xFF else 2
            continue
        if marker == _END:
            break
        if marker == _SCAN:
            if one_pass and encoded[place + 4 : place + 5] == bytes([components]):
                return Header(1, b"".join(exif))  # all components in one scan: the decoder ignores the rest
            break
        length = int.from_bytes(encoded[place + 2 : place + 4], "big")
        if marker in _FRAMES:
            components, one_pass = encoded[place + 9] if place + 9 < end else 0, marker in _ONE_PASS
        elif marker == _APP1 and encoded.startswith(_EXIF, place + 4):
            exif.append(encoded[place + 4 + len(_EXIF) : place + 2 + length])
        place += 2 + max(length, 2)
    return Header(_count_scans(encoded, place), b"".join(exif))


def _count_scans(encoded: bytes, place: int) -> int:
    """Returns the number of scans from the marker at `place` on, counted up to MAX_SCANS + 1."""
    if encoded.count(bytes([0xFF, _SCAN]), place) <= MAX_SCANS:  # an upper bound: it includes bytes inside segments
        return max(encoded.count(bytes([0xFF, _SCAN]), place), 1)
    scans = 0
    while scans <= MAX_SCANS and (found := _MARKER.search(encoded, place)):
        marker, place = encoded[found.end() - 1], found.end()
        if marker == _END:
            break
        scans += marker == _SCAN
        if marker not in _BARE:
            place += int.from_bytes(encoded[place : place + 2], "big")
    return max(scans, 1)
