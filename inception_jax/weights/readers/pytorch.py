"""PyTorch checkpoints: a state dict, or a dictionary of a training script that holds one."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from inception_jax.errors import printable
from inception_jax.weights.readers import archives, pickles
from inception_jax.weights.readers.budget import Budget
from inception_jax.weights.readers.formats import Items
from inception_jax.weights.readers.refusal import MissingPackage, Refused

KEYS = ("state_dict", "model", "state_dict_ema", "model_ema")
"""Keys of the state dict in checkpoints of training scripts; a file with two of them is ambiguous."""
Value = TypeVar("Value")


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
    """Yields the tensors of a checkpoint by name.

    Raises:
      MissingPackage: PyTorch.
      Refused: the pickle needs more than tensors and plain containers, there is not exactly one state dict, or a tensor
        states a size that exceeds the file or the budget.
    """
    torch = prepare()
    if zipfile.is_zipfile(path):
        _check_members(path, budget)
    try:
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
    for name, tensor in without_module(_state_dict(torch, checkpoint)).items():
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta:
            raise Refused(f"{name!r} is not a dense tensor with values")
        # With a stride of 0, one stored value can have any shape.
        budget.tensor(name, tensor.shape, tensor.element_size(), tensor.untyped_storage().nbytes())
        if tensor.dtype in (torch.bfloat16, torch.float16):  # NumPy has no bfloat16
            tensor = tensor.float()
        yield name, tensor.detach().numpy()


def _check_members(path: Path, budget: Budget) -> None:
    """Checks the size of what PyTorch loads before it returns anything: all members, and the pickle."""
    with archives.open_zip(path, budget) as archive:
        for info in archive.infolist():
            if info.filename.endswith(".pkl"):
                budget.text(info.file_size, f"its {info.filename!r}")
        packed = sum(info.file_size for info in archive.infolist())
    if packed > budget.limits.bytes:
        raise Refused(f"its members claim {packed:,} bytes; at most {budget.limits.bytes:,} are read")


def without_module(tensors: Mapping[str, Value]) -> Mapping[str, Value]:
    """Returns the tensors without the prefix "module." that DataParallel adds to all names."""
    if not all(name.startswith("module.") for name in tensors):
        return tensors
    return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}


def _state_dict(torch: Any, checkpoint: Any) -> Mapping[str, Any]:
    if not isinstance(checkpoint, Mapping):
        raise Refused(f"it holds a {type(checkpoint).__name__}, not a state dict")
    found = [key for key in KEYS if isinstance(checkpoint.get(key), Mapping)]
    if len(found) > 1:
        raise Refused(f"it holds several state dicts, {', '.join(found)}; save the one that is meant")
    tensors = checkpoint[found[0]] if found else checkpoint
    others = {name: type(value).__name__ for name, value in tensors.items() if not isinstance(value, torch.Tensor)}
    if others or not all(isinstance(name, str) for name in tensors):
        name, kind = next(iter(others.items()), ("a name", "no text"))
        raise Refused(
            f"it is no state dict, nor has it one under {' or '.join(KEYS[:2])}: "
            f"{len(others)} of its entries are no tensors, {printable(name)} is {kind}"
        )
    return tensors
