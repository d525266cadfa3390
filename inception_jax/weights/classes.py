"""Class names for weights that come without them."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence

from inception_jax.errors import UserError, printable
from inception_jax.paths import read_bytes
from inception_jax.weights.files import Weights

LARGEST = 16 << 20  # bytes of a file of names


def read_class_names(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Returns the names in a text file, one a line, in the order of the classes.

    Raises:
      UserError: the file cannot be read, is not UTF-8, or a line is empty.
    """
    shown = printable(path)
    try:
        lines = read_bytes(path, LARGEST).decode("utf-8-sig").rstrip().split("\n")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{shown} is no text in UTF-8: byte {error.start} is {error.object[error.start]:#x}."
        ) from error
    names = tuple(line.strip() for line in lines)
    if "" in names:
        raise UserError(f"{shown} must name a class in each line; line {names.index('') + 1} is empty.")
    return names


def with_class_names(weights: Weights, names: Sequence[str]) -> Weights:
    """Returns the weights with `names` as the names of their classes.

    Raises:
      UserError: there are not as many names as classes.
    """
    if isinstance(names, str):
        raise UserError(f"class_names is {names!r}; it must be a sequence of names.")
    if len(names) != weights.info.num_classes:
        raise UserError(f"{len(names)} class names are given, and the network has {weights.info.num_classes} classes.")
    return dataclasses.replace(weights, info=dataclasses.replace(weights.info, class_names=tuple(names)))
