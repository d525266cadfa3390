"""The 1000 classes of ImageNet (ILSVRC 2012), in the order of its labels: WordNet's ids, and names for people."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

CLASSES = Path(__file__).parent / "data" / "imagenet_classes.txt"


@functools.cache
def classes() -> dict[str, str]:
    """Returns the name of each class by its WordNet id; all names differ."""
    lines = CLASSES.read_text().splitlines()
    return {wnid: name for wnid, _, name in (line.partition("\t") for line in lines)}


def class_names() -> tuple[str, ...]:
    """Returns the name of each class."""
    return tuple(classes().values())


def readable(names: str | Sequence[str]) -> tuple[str, ...]:
    """Returns the names of classes that are called by their WordNet ids; others as they are. A string is one class."""
    known, names = classes(), (names,) if isinstance(names, str) else names
    return tuple(known[name] for name in names) if all(name in known for name in names) else tuple(names)
