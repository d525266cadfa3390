"""TensorFlow's checkpoints of variables, as TF-slim publishes them: V1 (one file) and V2 (an index and its data)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from inception_jax.weights.readers.refusal import MissingPackage


def read(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the variables by name, in alphabetical order; `path` is a V1 file, or the prefix or a file of a V2 one.

    Raises:
      MissingPackage: TensorFlow.
    """
    try:
        import tensorflow as tf
    except ImportError as error:
        raise MissingPackage("TensorFlow: pip install 'inception-jax[slim]', or tensorflow-cpu") from error
    prefix = re.sub(r"\.(index|data-\d{5}-of-\d{5})$", "", str(path))
    reader = tf.train.load_checkpoint(prefix)
    for name in sorted(reader.get_variable_to_shape_map()):
        yield name, np.asarray(reader.get_tensor(name))


def has_index(path: Path) -> bool:
    """Returns whether `path` is the prefix of a V2 checkpoint, which is no file itself."""
    return not path.exists() and path.with_name(f"{path.name}.index").is_file()
