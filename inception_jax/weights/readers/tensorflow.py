"""TensorFlow checkpoints of variables, as TF-slim publishes them: V1 (one file) and V2 (an index and data files)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from inception_jax.weights.readers.budget import Budget
from inception_jax.weights.readers.formats import Items, files_of, prefix_of
from inception_jax.weights.readers.refusal import MissingPackage


def prepare() -> Any:
    """Returns TensorFlow.

    Raises:
      MissingPackage: it is not installed.
    """
    try:
        import tensorflow as tf
    except ImportError as error:
        raise MissingPackage("TensorFlow: pip install 'inception-jax[slim]', or tensorflow-cpu") from error
    return tf


def read(path: Path, budget: Budget) -> Items:
    """Yields the variables by name, in alphabetical order; `path` is a V1 file, or the prefix or a file of a V2 one.

    Raises:
      MissingPackage: TensorFlow.
      Refused: the variables exceed the budget.
    """
    tf = prepare()
    files_of(path)  # refuses a FIFO, for which TensorFlow would wait
    reader = tf.train.load_checkpoint(str(prefix_of(path)))
    types = reader.get_variable_to_dtype_map()
    for name, shape in sorted(reader.get_variable_to_shape_map().items()):
        # A file of V1 may be packed, so what it stores for a variable is not known.
        budget.tensor(name, shape, max(types[name].size or 0, 1), None)
        yield name, np.asarray(reader.get_tensor(name))
