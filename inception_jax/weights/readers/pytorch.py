"""PyTorch checkpoints: a state dict, or a dictionary of a training script that holds one at any depth."""

from __future__ import annotations

import argparse
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from inception_jax.errors import printable
from inception_jax.weights.readers import archives, pickles
from inception_jax.weights.readers.budget import MAX_NAME, Budget
from inception_jax.weights.readers.formats import Items
from inception_jax.weights.readers.refusal import MissingPackage, Refused
from inception_jax.weights.readers.statement import Statement

OPTIMIZER = re.compile(r"optim", re.IGNORECASE)
"""Keys of the state of an optimizer, whose tensors are no weights."""


def prepare() -> Any:
    """Returns PyTorch.

    Raises:
      MissingPackage: it is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise MissingPackage("PyTorch: pip install 'inception-jax[torch]'") from error
    return torch


def read(path: Path, budget: Budget) -> Items:
    """Yields the tensors of a checkpoint by name, and a statement of where they lie and of what else there is.

    A tensor in a dictionary has the keys that lead to it before its name: "state_dict.conv1.weight".

    Raises:
      MissingPackage: PyTorch.
      Refused: the pickle needs more than tensors, numbers and plain containers, it holds no dictionary, or a tensor
        states a size that exceeds the file or the budget.
    """
    torch = prepare()
    if zipfile.is_zipfile(path):
        _check_members(path, budget)
    try:
        with torch.serialization.safe_globals(_harmless()):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if known := pickles.advice(path):
            raise Refused(known) from error
        wanted = re.search(r"GLOBAL (\S+)", str(error))
        if wanted is None:
            raise Refused("it is no checkpoint of tensors; nothing in it was run") from error
        raise Refused(
            f"it asks to run {printable(wanted[1])}; nothing in it was run. Where you trust it, load it, and save its "
            "state_dict"
        ) from error
    if not isinstance(checkpoint, Mapping):
        raise Refused(f"it holds a {type(checkpoint).__name__}, not a state dict")
    containers: dict[str, None] = {}
    left_out: list[str] = []
    for container, name, tensor in _walk(torch, checkpoint, "", left_out, budget):
        containers[container] = None
        yield f"{container}.{name}" if container else name, _as_array(torch, name, tensor, budget)
    yield Statement(containers=tuple(containers), left_out=tuple(left_out))


def _harmless() -> list[Any]:
    """Returns types that training scripts put beside tensors and that only hold values.

    They are numbers of NumPy, such as the best accuracy, by their names in NumPy 1 and 2, and parsed options.
    """
    scalar = np.float64(0).__reduce__()[0]
    scalars = [(scalar, f"{module}.multiarray.scalar") for module in ("numpy.core", "numpy._core")]
    kinds = {type(np.dtype(each)) for each in ("f2", "f4", "f8", "i4", "i8", "?")}
    return [*scalars, np.dtype, *kinds, argparse.Namespace]


def _check_members(path: Path, budget: Budget) -> None:
    """Checks the size of what PyTorch loads before it returns anything: all members, and the pickle."""
    with archives.open_zip(path, budget) as archive:
        for info in archive.infolist():
            if info.filename.endswith(".pkl"):
                budget.text(info.file_size, f"its {info.filename!r}")
        packed = sum(info.file_size for info in archive.infolist())
    if packed > budget.limits.bytes:
        raise Refused(f"its members claim {packed:,} bytes; at most {budget.limits.bytes:,} are read")


def _walk(
    torch: Any, entries: Mapping[Any, Any], container: str, left_out: list[str], budget: Budget, depth: int = 0
) -> Iterator[tuple[str, str, Any]]:
    """Yields (container, name, tensor) of a dictionary and of those in it; adds what holds no weights to `left_out`."""
    budget.depth(depth)
    for key, value in entries.items():
        budget.entry()
        path = f"{container}.{key}" if container else str(key)
        is_weights = False
        if isinstance(key, str) and isinstance(value, torch.Tensor):
            is_weights = True
            yield container, key, value
        elif isinstance(key, str) and isinstance(value, Mapping) and not OPTIMIZER.search(key):
            inner: list[str] = []
            for found in _walk(torch, value, path, inner, budget, depth + 1):
                is_weights = True
                yield found
            left_out += inner if is_weights else []
        if not is_weights:
            left_out.append(path[:MAX_NAME])


def _as_array(torch: Any, name: str, tensor: Any, budget: Budget) -> np.ndarray:
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta:
        raise Refused(f"{name!r} is not a dense tensor with values")
    # With a stride of 0, one stored value can have any shape.
    budget.tensor(name, tensor.shape, tensor.element_size(), tensor.untyped_storage().nbytes())
    tensor = tensor.detach()
    if tensor.dtype is torch.bfloat16:  # NumPy has none of its own
        return tensor.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()
