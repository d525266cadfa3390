"""Reads tensors by name from weight files of other frameworks. Reading executes no code in a file.

| format | name of a tensor |
|---|---|
| PyTorch, safetensors | as in the file, behind the keys of dictionaries around it ("state_dict.conv1.conv.weight") |
| Keras | layer and variable ("conv2d_1/kernel"), in the order of the file |
| TensorFlow | as in the file ("InceptionV3/Conv2d_1a_3x3/weights") |
| Caffe | layer and index: "conv1/7x7_s2/0" is the weight, "conv1/7x7_s2/1" the bias |
| frozen TensorFlow graphs | as in the graph ("conv/conv2d_params") |
| TorchScript | path of the attribute, as in a state dict |
| ONNX | numbered in the order of the graph: `onnx_graph` |

`Limits` bound time and memory. Every failure is a `UserError`, whatever a library raises or does.
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
    """The tensors of a file by name, and the preprocessing that it states."""

    tensors: dict[str, np.ndarray]
    statement: Statement


def read_tensors(source: Any, limits: Limits | None = None) -> dict[str, np.ndarray]:
    """Returns the tensors of `read_content`."""
    return read_content(source, limits).tensors


def read_content(source: Any, limits: Limits | None = None) -> Content:
    """Returns the tensors of a file or of a live Keras model by name, and the preprocessing that it states.

    Floats of 16 bits become float32; other dtypes stay as they are.

    Args:
      source: a path, also the prefix of a TensorFlow checkpoint; or a Keras model (anything that has `layers`).
      limits: of time and memory; None: by the size of the file.

    Raises:
      UserError: the file does not exist, is of no known format, is damaged, holds something other than tensors, exceeds
        the limits, or needs a package that is not installed or code that it contains.
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
      UserError: the file is not an .npz file of plain arrays, is damaged, or exceeds the limits.
    """
    path = user_path(path)
    check_regular(path)
    items = read_apart(formats.NPZ, path, limits or Limits.of(path.stat().st_size))
    return _collect(printable(path), "is no .npz file of plain arrays:", "", items).tensors


def _read(kind: formats.Format, path: Path, limits: Limits) -> Content:
    if kind is formats.SAFETENSORS:  # its library is memory-safe, so no separate process is needed
        from inception_jax.weights.readers import safe

        items: Iterator[Any] = numbers(safe.read(path, Budget(limits)))
    else:
        items = read_apart(kind, path, limits)
    return _collect(printable(path), "looks like a file of {kind}, but", kind.name, items)


def _collect(shown: str, words: str, kind: str, items: Iterator[Any]) -> Content:
    """Returns the content that a reader yields; turns whatever it raises into a `UserError`.

    Args:
      shown: the source, for messages.
      words: the words between the source and the reason in a message, with {kind} for its format.
      kind: the format; the first item may be another one.
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
