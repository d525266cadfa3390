"""The 1000 classes of ImageNet (ILSVRC 2012) in the order of their labels: WordNet ids and readable names."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

CLASSES = Path(__file__).parent / "data" / "imagenet_classes.txt"


@functools.cache
def classes() -> dict[str, str]:
    """Returns the name of each class by its WordNet id, in the order of the labels; the names are unique."""
    lines = CLASSES.read_text().splitlines()
    return {wnid: name for wnid, _, name in (line.partition("\t") for line in lines)}


def class_names() -> tuple[str, ...]:
    """Returns the names in the order of the labels."""
    return tuple(classes().values())


def readable(names: str | Sequence[str]) -> tuple[str, ...]:
    """Returns names for WordNet ids; if one of them is no such id, all are returned unchanged. A string is one id."""
    known, names = classes(), (names,) if isinstance(names, str) else names
    return tuple(known[name] for name in names) if all(name in known for name in names) else tuple(names)
