"""Tensors by name from weight files of other frameworks. Reading runs nothing that a file holds.

Their names: PyTorch's and those of safetensors as they are ("conv1.conv.weight"), less a "module." before them all;
Keras's by layer and variable ("conv2d_1/kernel"), in the order of the file; TensorFlow's as they are
("InceptionV3/Conv2d_1a_3x3/weights"); Caffe's by layer and place ("conv1/7x7_s2/0" is its weight, ".../1" its bias).

What a file may cost is bounded by `Limits`; every failure is one `UserError`, whatever a library raises or does.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from inception_jax.errors import UserError, first_line, printable
from inception_jax.paths import check_regular, user_path
from inception_jax.weights.readers import formats
from inception_jax.weights.readers.budget import Budget, Limits
from inception_jax.weights.readers.collecting import numbers
from inception_jax.weights.readers.process import read_apart
from inception_jax.weights.readers.refusal import MissingPackage, Refused
from inception_jax.weights.readers.statement import Statement


class Content(NamedTuple):
    """The tensors of a file by name, and what it says besides."""

    tensors: dict[str, np.ndarray]
    statement: Statement


def read_tensors(source: Any, limits: Limits | None = None) -> dict[str, np.ndarray]:
    """Returns the tensors of `read_content`."""
    return read_content(source, limits).tensors


def read_content(source: Any, limits: Limits | None = None) -> Content:
    """Returns the tensors of a file or of a live Keras model by the names that it gives them, and what it says besides.

    Floating-point tensors come as they are, those of 16 bits as float32; integers come as they are.

    Args:
      source: a path; a TensorFlow checkpoint also goes by its prefix; or a Keras model (anything that has `layers`).
      limits: of what reading it may cost; None: by the size of the file.

    Raises:
      UserError: there is no such file, it is of no known kind, it is damaged, it holds something else than tensors,
        reading it costs too much, or needs a package that is not installed or code that the file brings along.
    """
    if hasattr(source, "layers"):
        from inception_jax.weights.readers import keras

        shown = f"The model {getattr(source, 'name', type(source).__name__)!r}"
        return _collect(shown, "cannot be taken:", "", numbers(keras.read_model(source, Budget(limits or Limits()))))
    if not isinstance(source, str | os.PathLike):
        raise UserError(f"Weights come from a path or a Keras model, not from {type(source).__name__} {source!r}.")
    path = user_path(source)
    kind, size = formats.format_of(path)
    return _read(kind, path, limits or Limits.of(size))


def read_dump(path: str | os.PathLike[str], limits: Limits | None = None) -> dict[str, np.ndarray]:
    """Returns the arrays of an .npz file by name.

    Raises:
      UserError: it is no such file, or damaged, or reading it costs too much.
    """
    path = user_path(path)
    check_regular(path)
    items = read_apart(formats.NPZ, path, limits or Limits.of(path.stat().st_size))
    return _collect(printable(path), "is no .npz file of plain arrays:", "", items).tensors


def _read(kind: formats.Format, path: Path, limits: Limits) -> Content:
    if kind is formats.SAFETENSORS:  # its library is safe, and most files are of it
        from inception_jax.weights.readers import safe

        items: Iterator[Any] = numbers(safe.read(path, Budget(limits)))
    else:
        items = read_apart(kind, path, limits)
    return _collect(printable(path), "looks like a file of {kind}, but", kind.name, items)


def _collect(shown: str, words: str, kind: str, items: Iterator[Any]) -> Content:
    """Returns all that a reader gives; whatever it raises is one `UserError`.

    Args:
      shown: what is read.
      words: what an error says of it, with {kind} for its format.
      kind: the format, which the first item may correct.
      items: of a reader.
    """
    tensors: dict[str, np.ndarray] = {}
    statement = Statement()
    try:
        for item in items:
            if isinstance(item, Statement):
                statement = item
            elif isinstance(item, str):
                kind = item
            else:
                tensors[item[0]] = item[1]
        if not tensors:
            raise Refused("it holds no tensors")
    except UserError:
        raise
    except MissingPackage as error:
        raise UserError(f"{shown} is read with {error}.") from error
    except Refused as error:
        raise UserError(f"{shown} {words.format(kind=kind)} {error}.") from error
    except Exception as error:  # libraries raise whatever they like on damaged files
        reason = first_line(error)[:200]
        raise UserError(f"{shown} {words.format(kind=kind)} it cannot be read: {reason}.") from error
    return Content(tensors, statement)
