"""The package's own weights: variables and their metadata, in memory and in one safetensors file."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pydantic
import safetensors.numpy
from flax import traverse_util

from inception_jax.errors import UserError, first_line, printable
from inception_jax.models import spec, zoo
from inception_jax.models.inputs import MAX_CHANNELS
from inception_jax.models.network import InceptionNet
from inception_jax.paths import check_regular, user_path, write_bytes
from inception_jax.weights.naming.lineages import variable_shapes
from inception_jax.weights.readers import safe
from inception_jax.weights.readers.budget import Budget, Limits

FORMAT = "inception_jax"
FORMAT_VERSION = 1
LAYOUT = "NHWC, HWIO"
CHECKSUM = "sha256"  # the only metadata key that files of earlier versions lack


@dataclasses.dataclass(frozen=True)
class WeightsInfo:
    """The metadata of a set of weights: all that is needed to run them.

    Attributes:
      model, num_classes, aux, width, numerics: the arguments of `create_model`; 0 classes: no classifier.
      preprocess: how an image becomes their input.
      label_offset: class 0 is output `label_offset` of the source, which has a background class in front.
      source: the card, file or run that they come from.
      sha256: of that file.
      class_names: one for each class; empty if unknown.
      head: what stands before the classifier.
      filled: names of batch-norm scales (gamma) that the source does not have; they are one, and are not trained.
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
    head: spec.Head = spec.NO_HEAD

    @property
    def in_channels(self) -> int:
        """The channels of the images."""
        return len(self.preprocess.mean)

    def create_model(self, dtype: Any = jnp.float32, **overrides: Any) -> InceptionNet:
        """Returns the network for these weights; `overrides` are arguments of `ij.create_model`."""
        settings: dict[str, Any] = {"aux": self.aux, "width": self.width, "numerics": self.numerics}
        settings |= {"head": self.head, "in_channels": self.in_channels} | overrides
        return zoo.create_model(self.model, self.num_classes, dtype, **settings)


_INFO = pydantic.TypeAdapter(WeightsInfo)


@dataclasses.dataclass(frozen=True)
class Report:
    """What happened to every tensor, by name: names of ours, except for `dropped`, whose names are the source's."""

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
        return "\n".join(map(printable, lines))


@dataclasses.dataclass(frozen=True)
class Weights:
    """Variables of a model ({"params", "batch_stats"}, NumPy float32), their metadata, and a report of the loading."""

    info: WeightsInfo
    variables: dict[str, Any]
    report: Report = Report()

    @classmethod
    def of(cls, info: WeightsInfo, flat: Mapping[tuple[str, ...], np.ndarray], report: Report | None = None) -> Weights:
        """Returns weights from arrays by path, such as ("params", "inception_3a", "branch1_0", "conv", "kernel")."""
        return cls(info, traverse_util.unflatten_dict(flat), report or Report())

    def create_model(self, dtype: Any = jnp.float32, **overrides: Any) -> InceptionNet:
        """Returns the network for these weights: see `WeightsInfo.create_model`."""
        return self.info.create_model(dtype, **overrides)

    def flat(self) -> dict[str, np.ndarray]:
        """Returns the variables by path, such as "params/inception_3a/branch1_0/conv/kernel"."""
        return {"/".join(path): leaf for path, leaf in traverse_util.flatten_dict(self.variables).items()}


def save(path: str | Path, weights: Weights) -> None:
    """Writes a safetensors file: arrays as "params/..." and "batch_stats/...", and all of `weights.info` as metadata.

    The file appears complete or not at all, and reads back bit for bit. The metadata include a checksum of arrays and
    metadata.

    Raises:
      UserError: the name does not end in .safetensors, or the file cannot be written.
    """
    path = user_path(path)
    if path.suffix != ".safetensors":
        raise UserError(f"{printable(path)}: weights are written as .safetensors files.")
    arrays = {name: np.ascontiguousarray(array) for name, array in weights.flat().items()}
    metadata = {"format": FORMAT, "format_version": str(FORMAT_VERSION), "layout": LAYOUT}
    metadata["info"] = to_json(weights.info)
    write_bytes(path, safetensors.numpy.save(arrays, metadata | {CHECKSUM: checksum(metadata, arrays)}))


def checksum(metadata: Mapping[str, str], arrays: Mapping[str, np.ndarray]) -> str:
    """Returns the SHA-256, as hexadecimal digits, of metadata and arrays in the order of their names."""
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name, array in sorted(arrays.items()):
        digest.update(json.dumps([name, array.dtype.str, array.shape]).encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def save_tensors(path: str | Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes the tensors of `export` for PyTorch, as .safetensors or .pth; the latter needs PyTorch.

    Raises:
      UserError: another suffix, PyTorch is not installed, or the file cannot be written.
    """
    path = user_path(path)
    if path.suffix == ".safetensors":
        return write_bytes(path, safetensors.numpy.save(dict(tensors), {"format": "pt"}))
    if path.suffix != ".pth":
        raise UserError(f"{printable(path)}: exported tensors are written as .safetensors or .pth files.")
    try:
        import torch
    except ImportError as error:
        raise UserError(f"{printable(path)}: writing .pth files needs PyTorch; .safetensors files do not.") from error
    buffer = io.BytesIO()
    torch.save({name: torch.from_numpy(tensor) for name, tensor in tensors.items()}, buffer)
    write_bytes(path, buffer.getvalue())


def is_ours(path: Path) -> bool:
    """Returns whether `path` is a safetensors file with our metadata, or with parameters under our names.

    Raises:
      UserError: it is not a regular file.
    """
    if not path.exists():
        return False
    try:
        metadata, names = safe.read_outline(path, Budget(Limits.of(path.stat().st_size)))
        return metadata.get("format") == FORMAT or any(name.startswith("params/") for name in names)
    except UserError:
        raise
    except Exception:  # not a readable file of ours; the readers of other formats report what is wrong
        return False


def read(path: str | Path) -> Weights:
    """Returns the weights in a file that `save` wrote.

    Raises:
      UserError: the file does not exist, is damaged, has no metadata of ours or another format version, does not match
        its checksum, or does not hold the arrays of its model.
    """
    path = user_path(path)
    metadata, arrays = _open(path)
    shown = printable(path)
    if metadata.get("format") != FORMAT:
        raise UserError(
            f"{shown} has no metadata of {FORMAT}, so its model is unknown: write it with inception_jax.weights.save."
        )
    if metadata.get("format_version") != str(FORMAT_VERSION):
        raise UserError(f"{shown} has format {metadata.get('format_version')!r}; this version reads {FORMAT_VERSION}.")
    notes = _verify(shown, metadata, arrays)
    try:
        info = from_json(metadata.get("info", ""))
        model = info.create_model()
    except ValueError as error:
        raise UserError(f"{shown} has metadata that this version cannot read: {printable(error)}.") from error
    _check_arrays(
        shown,
        info,
        arrays,
        {"/".join(key): shape for key, shape in variable_shapes(model, info.preprocess.size).items()},
    )
    flat = {tuple(name.split("/")): array for name, array in arrays.items()}
    return Weights.of(info, flat, Report(loaded=tuple(arrays), filled=info.filled, notes=notes))


def _verify(shown: str, metadata: Mapping[str, str], arrays: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """Checks the content of a file against its checksum; returns a note if it has none.

    Raises:
      UserError: the content has changed since it was written.
    """
    stated = dict(metadata)
    digest = stated.pop(CHECKSUM, None)
    # Otherwise a file whose checksum key is damaged would pass for one without a checksum.
    unknown = sorted(stated.keys() - {"format", "format_version", "layout", "info"})
    if unknown or stated.get("layout") != LAYOUT:
        what = f"its metadata have the key {unknown[0]!r}" if unknown else f"its layout is {stated.get('layout')!r}"
        raise UserError(f"{shown} is damaged: {what}, which no version of this package writes.")
    if digest is None:
        return ("not verified: it was written before files had checksums",)
    if checksum(stated, arrays) != digest:
        raise UserError(f"{shown} is damaged: its checksum is {digest[:80]!r}, which does not match its content.")
    return ()


def _check_arrays(
    shown: str, info: WeightsInfo, arrays: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """Raises a `UserError` unless the arrays are those of the model, in float32."""
    found = {name: array.shape for name, array in arrays.items()}
    unlike = sorted(name for name in shapes.keys() | found.keys() if shapes.get(name) != found.get(name))
    if unlike:
        name = unlike[0]
        raise UserError(
            f"{shown} does not hold the arrays of {info.model}: {len(unlike)} differ, the first is {printable(name)}: "
            f"{found.get(name)}, not {shapes.get(name)}."
        )
    unknown = [name for name in info.filled if f"params/{name}" not in arrays]
    if unknown:
        raise UserError(
            f"{shown} has metadata that this version cannot read: filled lists {printable(unknown[0])}, which the "
            "file does not hold."
        )
    others = [f"{name} is {array.dtype}" for name, array in arrays.items() if array.dtype != np.float32]
    if others:
        raise UserError(f"{shown}: {others[0]}; weights are float32.")


def _open(path: Path) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """Returns the metadata and the arrays of a safetensors file."""
    check_regular(path)
    try:
        content = safe.read_all(path, Budget(Limits.of(path.stat().st_size)))
    except UserError:
        raise
    except Exception as error:  # the library's, on damaged files
        raise UserError(f"{printable(path)} cannot be read: {first_line(error)}.") from error
    return content.metadata, content.arrays


def to_json(info: WeightsInfo) -> str:
    """Returns a `WeightsInfo` as JSON. `Numerics` become an object by field, which tolerates fields added later."""
    numerics = info.numerics._asdict()
    numerics |= {
        "norm": numerics["norm"] and numerics["norm"]._asdict(),
        "kernel_init": numerics["kernel_init"]._asdict(),
    }
    fields = dataclasses.asdict(info) | {"numerics": numerics}
    if info.head == spec.NO_HEAD:
        del fields["head"]  # so that versions without heads read the file
    else:
        fields["head"] = {"rows": [row._asdict() for row in info.head.rows], "embedding": info.head.embedding}
    return json.dumps(fields)


def from_json(text: str) -> WeightsInfo:
    """Returns the `WeightsInfo` that `to_json` wrote.

    Raises:
      UserError: the text is malformed, or a value has a wrong type or is out of range.
    """
    try:
        info = _INFO.validate_json(text, strict=True)
    except (pydantic.ValidationError, RecursionError) as error:
        raise UserError(_first_fault(error)) from error
    preprocess, norm, head = info.preprocess, info.numerics.norm, info.head
    in_range = {
        f"num_classes {info.num_classes}": 0 <= info.num_classes <= 10**6,
        f"width {info.width}": 0 < info.width <= 100,
        f"label_offset {info.label_offset}": 0 <= info.label_offset <= 10**6,
        f"preprocess.size {preprocess.size}": 1 <= preprocess.size <= 4096,
        f"preprocess.std {preprocess.std}": all(0 < value < math.inf for value in preprocess.std),
        f"preprocess.mean {preprocess.mean}": all(map(math.isfinite, preprocess.mean)),
        f"preprocess.crop_fraction {preprocess.crop_fraction}": 0 < preprocess.crop_fraction <= 1,
        f"preprocess with {info.in_channels} means and {len(preprocess.std)} stds": (
            1 <= info.in_channels == len(preprocess.std) <= MAX_CHANNELS
        ),
        f"head {head.rows[:1]}": len(head.rows) <= 100 and all(1 <= row.features <= 10**6 for row in head.rows),
        f"numerics.norm {norm}": norm is None or (0 <= norm.epsilon < math.inf and 0 <= norm.decay <= 1),
    }
    if not all(in_range.values()):
        raise UserError(f"{next(what for what, is_in_range in in_range.items() if not is_in_range)} is out of range")
    return info


def _first_fault(error: pydantic.ValidationError | RecursionError) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    fault = error.errors()[0]
    return f"{'.'.join(map(str, fault['loc'])) or 'it'}: {fault['msg'][:200]}"
