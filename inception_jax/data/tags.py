"""Reads the tags of TIFF files and EXIF data, which share a layout, without trusting any number in them."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

INTEGERS = {1: "B", 3: "H", 4: "I"}
TEXT = frozenset({1, 2, 7})  # types whose values are single bytes
STRIPS = frozenset({273, 324})  # offsets of the pixels, by strips or by tiles


class Tag(NamedTuple):
    """A tag: its number, the type and the number of its values, and its value if that is one small integer, else 0."""

    number: int
    kind: int
    values: int
    value: int


def first_tags(data: bytes) -> Iterator[Tag]:
    """Yields the tags of the first image of a TIFF or BigTIFF, or of EXIF data, up to the first damage."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None:
        return
    try:
        big = struct.unpack_from(order + "H", data, 2)[0] == 43
        start, number, entry, size = (8, "Q", "HHQ", 20) if big else (4, "I", "HHI", 12)
        (place,) = struct.unpack_from(order + number, data, start)
        (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, place)
        place += 8 if big else 2
        for at in range(place, place + size * min(count, 65_536), size):
            tag, kind, values = struct.unpack_from(order + entry, data, at)
            value = 0
            if kind in INTEGERS and values == 1:
                (value,) = struct.unpack_from(order + INTEGERS[kind], data, at + struct.calcsize(order + entry))
            yield Tag(tag, kind, values, value)
    except (struct.error, OverflowError):  # the data are truncated
        return


def most_values(data: bytes) -> int:
    """Returns the largest number of values among the tags that a reader turns into a list."""
    return max((tag.values for tag in first_tags(data) if tag.kind not in TEXT or tag.number in STRIPS), default=0)
