"""Weights as this package keeps them: variables, what they are, and one safetensors file that holds both."""

from __future__ import annotations

import dataclasses
import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pydantic
import safetensors
import safetensors.numpy
from flax import traverse_util

from inception_jax.errors import UserError
from inception_jax.models import spec, zoo
from inception_jax.models.network import InceptionNet
from inception_jax.paths import write_bytes
from inception_jax.weights.lineages import variable_shapes

FORMAT = "inception_jax"
FORMAT_VERSION = 1


@dataclasses.dataclass(frozen=True)
class Info:
    """What a set of weights is.

    Attributes:
      model, num_classes, aux, width, numerics: the arguments of `create_model`; 0 classes: no classifier.
      preprocess: how an image becomes their input.
      label_offset: class 0 is this class of the source, which counts its background as a class.
      source: a card, a file or a run that they come from.
      sha256: of that file.
      class_names: one for each class; empty where they are not known.
      filled: gains that the source does not have; they are one, and stay out of optimizers.
    """

    model: str
    num_classes: int
    aux: bool
    preprocess: zoo.Preprocess
    numerics: spec.Numerics
    width: float = 1.0
    label_offset: int = 0
    source: str = ""
    sha256: str = ""
    class_names: tuple[str, ...] = ()
    filled: tuple[str, ...] = ()

    def create_model(self, dtype: Any = jnp.float32, **overrides: Any) -> InceptionNet:
        """Returns the network that reads these weights; `overrides` as for `ij.create_model`."""
        settings: dict[str, Any] = {"aux": self.aux, "width": self.width, "numerics": self.numerics} | overrides
        return zoo.create_model(self.model, self.num_classes, dtype, **settings)


_INFO = pydantic.TypeAdapter(Info)


@dataclasses.dataclass(frozen=True)
class Report:
    """What became of every tensor, by name: ours, but for the dropped ones, which the source names."""

    loaded: tuple[str, ...] = ()
    reinitialised: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    filled: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"loaded {len(self.loaded)} tensors", *self.notes]
        for what, listed in (
            ("re-initialised", self.reinitialised),
            ("dropped", self.dropped),
            ("filled with ones", self.filled),
        ):
            if listed:
                rest = f" and {len(listed) - 4} more" if len(listed) > 4 else ""
                lines.append(f"{what} {len(listed)}: {', '.join(listed[:4])}{rest}")
        return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class Weights:
    """Variables of a model ({"params", "batch_stats"}, NumPy float32), what they are, and how they were loaded."""

    info: Info
    variables: dict[str, Any]
    report: Report = Report()

    @classmethod
    def of(cls, info: Info, flat: Mapping[tuple[str, ...], np.ndarray], report: Report | None = None) -> Weights:
        """Returns weights of arrays by path: ("params", "inception_3a", "branch1_0", "conv", "kernel")."""
        return cls(info, traverse_util.unflatten_dict(flat), report or Report())

    def create_model(self, dtype: Any = jnp.float32, **overrides: Any) -> InceptionNet:
        """Returns the network that reads them: see `Info.create_model`."""
        return self.info.create_model(dtype, **overrides)

    def flat(self) -> dict[str, np.ndarray]:
        """Returns the variables by path: "params/inception_3a/branch1_0/conv/kernel"."""
        return {"/".join(path): leaf for path, leaf in traverse_util.flatten_dict(self.variables).items()}


def save(path: str | Path, weights: Weights) -> None:
    """Writes a safetensors file: arrays as "params/..." and "batch_stats/...", and all of `weights.info` as metadata.

    The file appears complete or not at all, and reads back bit for bit.

    Raises:
      UserError: the name does not end in .safetensors, or it cannot be written.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise UserError(f"{path}: weights are written as .safetensors files.")
    arrays = {name: np.ascontiguousarray(array) for name, array in weights.flat().items()}
    metadata = {"format": FORMAT, "format_version": str(FORMAT_VERSION), "layout": "NHWC, HWIO"}
    write_bytes(path, safetensors.numpy.save(arrays, metadata | {"info": to_json(weights.info)}))


def save_tensors(path: str | Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes the tensors of `export` as PyTorch reads them: .safetensors, or .pth (which needs PyTorch to write).

    Raises:
      UserError: another suffix, no PyTorch, or it cannot be written.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        return write_bytes(path, safetensors.numpy.save(dict(tensors), {"format": "pt"}))
    if path.suffix != ".pth":
        raise UserError(f"{path}: tensors for others are written as .safetensors or .pth files.")
    try:
        import torch
    except ImportError as error:
        raise UserError(f"{path}: writing .pth files needs PyTorch; .safetensors files do not.") from error
    buffer = io.BytesIO()
    torch.save({name: torch.from_numpy(tensor) for name, tensor in tensors.items()}, buffer)
    write_bytes(path, buffer.getvalue())


def is_ours(path: Path) -> bool:
    """Returns whether `path` is a safetensors file that says it is ours, or has parameters under our names."""
    try:
        with safetensors.safe_open(path, framework="np") as file:
            names = list(file.keys())
            return (file.metadata() or {}).get("format") == FORMAT or any(n.startswith("params/") for n in names)
    except (OSError, safetensors.SafetensorError):
        return False


def read(path: str | Path) -> Weights:
    """Returns the weights in a file that `save` wrote.

    Raises:
      UserError: no such file, not whole, without our metadata, of another format, or not the arrays of its model.
    """
    path = Path(path)
    metadata, arrays = _open(path)
    if metadata.get("format") != FORMAT:
        raise UserError(
            f"{path} does not say what it is (no metadata of {FORMAT}): write it with inception_jax.weights.save, "
            "which needs the model that the arrays belong to."
        )
    if metadata.get("format_version") != str(FORMAT_VERSION):
        raise UserError(f"{path} has format {metadata.get('format_version')!r}; this version reads {FORMAT_VERSION}.")
    try:
        info = from_json(metadata.get("info", ""))
        model = info.create_model()
    except ValueError as error:
        raise UserError(f"{path} has metadata that this version cannot read: {error}.") from error
    shapes = {"/".join(key): shape for key, shape in variable_shapes(model, info.preprocess.size).items()}
    found = {name: array.shape for name, array in arrays.items()}
    unlike = sorted(name for name in shapes.keys() | found.keys() if shapes.get(name) != found.get(name))
    if unlike:
        name = unlike[0]
        raise UserError(
            f"{path} does not hold the arrays of {info.model}: {len(unlike)} differ, the first is {name}: "
            f"{found.get(name)}, not {shapes.get(name)}."
        )
    unknown = [name for name in info.filled if f"params/{name}" not in arrays]
    if unknown:
        raise UserError(
            f"{path} has metadata that this version cannot read: filled names {unknown[0]}, which is not there."
        )
    others = [f"{name} is {array.dtype}" for name, array in arrays.items() if array.dtype != np.float32]
    if others:
        raise UserError(f"{path}: {others[0]}; weights are float32.")
    flat = {tuple(name.split("/")): array for name, array in arrays.items()}
    return Weights.of(info, flat, Report(loaded=tuple(arrays), filled=info.filled))


def _open(path: Path) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """Returns the metadata and the arrays of a safetensors file."""
    try:
        with safetensors.safe_open(path, framework="np") as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, no dict
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"{path} cannot be read: {error}.") from error


def to_json(info: Info) -> str:
    """Returns an `Info` as JSON; `Numerics` by name, so that a later version can read it if they have grown."""
    numerics = info.numerics._asdict()
    numerics |= {
        "norm": numerics["norm"] and numerics["norm"]._asdict(),
        "kernel_init": numerics["kernel_init"]._asdict(),
    }
    return json.dumps(dataclasses.asdict(info) | {"numerics": numerics})


def from_json(text: str) -> Info:
    """Returns the `Info` that `to_json` wrote.

    Raises:
      UserError: it is not that, or a value is of another type or out of range.
    """
    try:
        info = _INFO.validate_json(text, strict=True)
    except (pydantic.ValidationError, RecursionError) as error:
        raise UserError(_first_fault(error)) from error
    preprocess, norm = info.preprocess, info.numerics.norm
    sound = {
        f"num_classes {info.num_classes}": 0 <= info.num_classes <= 10**6,
        f"width {info.width}": 0 < info.width <= 100,
        f"label_offset {info.label_offset}": 0 <= info.label_offset <= 10**6,
        f"preprocess.size {preprocess.size}": 1 <= preprocess.size <= 4096,
        f"preprocess.std {preprocess.std}": all(0 < value < math.inf for value in preprocess.std),
        f"preprocess.mean {preprocess.mean}": all(map(math.isfinite, preprocess.mean)),
        f"preprocess.crop_fraction {preprocess.crop_fraction}": 0 < preprocess.crop_fraction <= 1,
        f"numerics.norm {norm}": norm is None or (0 <= norm.epsilon < math.inf and 0 <= norm.decay <= 1),
    }
    if not all(sound.values()):
        raise UserError(f"{next(what for what, is_sound in sound.items() if not is_sound)} is out of range")
    return info


def _first_fault(error: pydantic.ValidationError | RecursionError) -> str:
    if isinstance(error, RecursionError):
        return "it is nested without end"
    fault = error.errors()[0]
    return f"{'.'.join(map(str, fault['loc'])) or 'it'}: {fault['msg'][:200]}"
