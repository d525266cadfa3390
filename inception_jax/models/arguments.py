"""What `create_model` and a model are given, checked: a wrong value is a sentence, not an error in a layer."""

from __future__ import annotations

import math
import numbers
import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

DTYPES = "bfloat16", "float16", "float32", "float64"
TRAINING = (
    'model.apply(variables, images, train=True, mutable=["batch_stats"], rngs={"dropout": key}) '
    "returns the output and the new batch_stats"
)


def whole(name: str, value: Any, least: int) -> int:
    """Returns an integer, NumPy's too.

    Raises:
      ValueError: it is no integer, or below `least`.
    """
    if isinstance(value, bool | np.bool_) or not hasattr(value, "__index__"):
        raise ValueError(f"{name} is {value!r}; it must be a whole number of at least {least}.")
    number = operator.index(value)
    if number < least:
        raise ValueError(f"{name} is {value!r}; it must be at least {least}.")
    return number


def real(name: str, value: Any, allowed: str) -> float:
    """Returns a number, NumPy's too; `allowed` says which ones are, for the message.

    Raises:
      ValueError: it is no finite real number.
    """
    is_number = isinstance(value, numbers.Real | np.floating | np.integer) and not isinstance(value, bool | np.bool_)
    if not is_number or not math.isfinite(value):
        raise ValueError(f"{name} is {value!r}; it must be {allowed}.")
    return float(value)


def flag(name: str, value: Any) -> bool:
    """Returns a truth value, NumPy's too; raises a `ValueError` for anything else."""
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"{name} is {value!r}; it must be True or False.")
    return bool(value)


def check_dtype(dtype: Any) -> None:
    """Raises a `ValueError` if networks do not compute in a dtype."""
    try:
        name = None if dtype is None else jnp.dtype(dtype).name
    except TypeError:
        name = None
    if name not in DTYPES:
        raise ValueError(f"dtype is {dtype if name is None else name!r}; it must be one of {', '.join(DTYPES)}.")


def check_images(reader: str, images: Any, channels: int | None) -> None:
    """Raises a `ValueError` that says what images lack, unless they are normalised floats [B, H, W, channels].

    Args:
      reader: the name of the model.
      images: what it was given.
      channels: that it reads; None: any number.
    """
    expected = f"{reader} reads normalised floats [B, H, W, {'C' if channels is None else channels}]"
    if not hasattr(images, "shape") or not hasattr(images, "dtype"):
        raise ValueError(f"{expected}, not a {type(images).__name__}.")
    shape = tuple(images.shape)
    given = f"{images.dtype}[{', '.join(map(str, shape))}]"
    if len(shape) != 4:
        hint = "; one image is a batch of one: images[None]" if len(shape) == 3 else ""
        raise ValueError(f"{expected}, not {given}{hint}.")
    if channels is not None and shape[3] != channels:
        hint = "; this looks like NCHW: jnp.moveaxis(images, 1, -1)" if shape[1] == channels else ""
        raise ValueError(f"{expected} (NHWC), not {given}{hint}.")
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"{expected}, not {given}; the model's card says how pixels are normalised (`preprocess`).")


def described(leaf: Any) -> str:
    """Returns dtype and shape of an array, such as "float32[2, 10]"; of anything else, its type."""
    if not hasattr(leaf, "shape") or not hasattr(leaf, "dtype"):
        return type(leaf).__name__
    return f"{leaf.dtype}[{', '.join(map(str, leaf.shape))}]"


def in_tree(tree: Any) -> str:
    """Returns how many numbers and megabytes the arrays of a tree hold."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if hasattr(leaf, "size") and hasattr(leaf, "dtype")]
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
    return f"{sum(leaf.size for leaf in leaves):,} numbers in {len(leaves):,} arrays, {size / 1e6:,.1f} MB"
