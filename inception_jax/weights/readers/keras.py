"""Keras models: live ones, HDF5 files of Keras 1 and 2 (which Keras 3 still writes), .weights.h5 and .keras of Keras 3.

None needs Keras. The tensors of a layer are named by it and by the variable: "conv2d_1/kernel".
"""

from __future__ import annotations

import collections
import io
import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import ml_dtypes
import numpy as np

from inception_jax.weights.readers.refusal import Refused

Pairs = Iterator[tuple[str, np.ndarray]]
Place = tuple[str, int]  # class of a layer in lower case, number among those of its class in `model.layers`
CONFIG, WEIGHTS = "config.json", "model.weights.h5"  # members of a .keras archive
LAYERS = ("layers", "_layer_checkpoint_dependencies")  # groups of Keras 3, and of .keras in 2.12 and 2.13
MAX_BYTES = 2**30  # of a tensor or a member; a few bytes of HDF5 or zip can claim any size
VARIABLES = {  # Keras 3 numbers the variables of a layer, those that it has
    "conv2d": ("kernel", "bias"),
    "dense": ("kernel", "bias"),
    "separableconv2d": ("depthwise_kernel", "pointwise_kernel", "bias"),
    "batchnormalization": ("gamma", "beta", "moving_mean", "moving_variance"),
}
KERAS_1 = {"W": "kernel", "b": "bias", "running_mean": "moving_mean", "running_std": "moving_variance"}
"""Variables by their names in Keras 1, whose running_std is a variance."""


def read(path: Path) -> Pairs:
    """Yields the tensors of a file.

    Raises:
      Refused: it is not of Keras, it lacks the names of its layers, or it refers to other files.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            config = json.loads(_member(archive, CONFIG))
            weights = io.BytesIO(_member(archive, WEIGHTS))
        with h5py.File(weights, "r") as file:
            yield from _read_numbered(file, config)
        return
    with h5py.File(path, "r") as file:
        members = list(file)
        if "layer_names" in file.attrs or "layer_names0" in file.attrs:
            yield from _read_named(file)
        elif "model_weights" in members:
            yield from _read_named(_child(file, "model_weights"))
        elif any(group in members for group in LAYERS):
            yield from _read_numbered(file, {})
        else:
            raise Refused(f"it holds no layers, only {members[:4]}")


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    if name not in archive.namelist():
        raise Refused(f"it has no {name}")
    size = archive.getinfo(name).file_size
    if size > MAX_BYTES:
        raise Refused(f"its {name} claims {size:,} bytes")
    return archive.read(name)


def read_model(model: Any) -> Pairs:
    """Yields the tensors of a model in memory, of any Keras."""
    for layer in model.layers:
        if hasattr(layer, "layers"):
            yield from read_model(layer)
            continue
        for variable, value in zip(layer.weights, layer.get_weights(), strict=True):
            yield f"{layer.name}/{_last(variable.name)}", value


# ---- Keras 1 and 2: groups and tensors by name ---------------------------------------------------------------------


def _read_named(group: h5py.Group) -> Pairs:
    for layer in _names(group, "layer_names"):
        tensors = _child(group, layer)
        names = _names(tensors, "weight_names")
        # The group names its layer best: a second model in a session has "conv2d_1_1/kernel:0" in the group "conv2d_1".
        # A model as a layer is the exception: its tensors name their own layers.
        parents = {name.rpartition("/")[0] for name in names}
        for name in names:
            owner = layer if len(parents) == 1 else name.split("/")[-2]
            yield f"{owner}/{_variable(owner, name)}", _array(_child(tensors, name))


def _names(group: h5py.Group, attribute: str) -> list[str]:
    """Returns a list of names; a long one is kept in parts."""
    parts = [attribute] if attribute in group.attrs else []
    while f"{attribute}{len(parts)}" in group.attrs:
        parts.append(f"{attribute}{len(parts)}")
    names = [name for part in parts for name in group.attrs[part]]
    return [name.decode() if isinstance(name, bytes) else str(name) for name in names]


def _variable(layer: str, name: str) -> str:
    """Returns "kernel" for "conv2d_1/kernel:0", and for "conv2d_1_W:0" of Keras 1."""
    last = _last(name)
    if not last.startswith(f"{layer}_"):
        return last
    old = re.sub(r"_\d+$", "", last.removeprefix(f"{layer}_"))
    return KERAS_1.get(old, old)


def _last(name: str) -> str:
    return name.rpartition("/")[2].removesuffix(":0")


# ---- Keras 3: layers by class and number, variables by number ------------------------------------------------------


def _read_numbered(group: h5py.Group, config: Mapping[str, Any]) -> Pairs:
    """Yields the tensors of a model: layers/conv2d_5/vars/0 is the first of the sixth Conv2D in `model.layers`.

    That is not the order of creation, by which Keras names layers; recent files hold the names, archives the config.
    """
    known = _configs(config)
    for container in [name for name in LAYERS if name in list(group)]:
        layers = _child(group, container)
        for member in sorted(layers, key=_place):
            layer, found = _child(layers, member), known.get(_place(member), {})
            yield from _read_numbered(layer, found)
            if "vars" in list(layer):
                yield from _read_variables(member, _child(layer, "vars"), found.get("config", {}))


def _configs(config: Mapping[str, Any]) -> dict[Place, dict[str, Any]]:
    """Returns the configs of the layers of a model by their places."""
    counts: collections.Counter[str] = collections.Counter()
    found = {}
    for layer in config.get("config", {}).get("layers", ()):
        kind = layer["class_name"].lower()
        found[kind, counts[kind]] = layer
        counts[kind] += 1
    return found


def _place(member: str) -> Place:
    stem, _, number = member.rpartition("_")
    if not (stem and number.isdecimal()):
        stem, number = member, "0"
    return stem.replace("_", ""), int(number)


def _read_variables(member: str, variables: h5py.Group, config: Mapping[str, Any]) -> Pairs:
    numbers = sorted(variables, key=int)
    if not numbers:
        return
    names = {name for name in (variables.attrs.get("name"), config.get("name")) if name}
    if not names:
        raise Refused(
            "it lacks the names of its layers, as Keras wrote it then; load it in Keras, and save it as .keras or give "
            "the model itself"
        )
    if len(names) > 1:
        raise Refused(f"it names {member} twice, {' and '.join(sorted(names))}")
    layer = names.pop()
    called = _variables(_place(member)[0], len(numbers), config)
    if len(called) != len(numbers):
        raise Refused(f"{layer} has {len(numbers)} variables, not {', '.join(called)}")
    for number, variable in zip(numbers, called, strict=True):
        yield f"{layer}/{variable}", _array(_child(variables, number))


def _variables(kind: str, count: int, config: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the names of a layer's variables in their order."""
    if kind not in VARIABLES:
        return tuple(f"vars/{i}" for i in range(count))
    if kind != "batchnormalization":
        return VARIABLES[kind][:count]
    # Where no config says it, three variables are those of a norm without gains: none is published without offsets.
    scale = config.get("scale", True) if config else count == 4
    center = config.get("center", True) if config else count >= 3
    return tuple(name for name in VARIABLES[kind] if {"gamma": scale, "beta": center}.get(name, True))


# ---- HDF5 ----------------------------------------------------------------------------------------------------------


def _child(group: h5py.Group, path: str) -> Any:
    """Returns a member of the group; no link is followed, since it may lead to another file."""
    for part in path.strip("/").split("/"):
        link = group.get(part, getlink=True)
        if link is None:
            raise Refused(f"it lacks {group.name}/{part}")
        if not isinstance(link, h5py.HardLink):
            raise Refused(f"{group.name}/{part} is a link")
        group = group[part]
    return group


def _array(dataset: Any) -> np.ndarray:
    if not isinstance(dataset, h5py.Dataset) or dataset.external or dataset.is_virtual:
        raise Refused(f"{dataset.name} is no tensor in this file")
    if dataset.nbytes > MAX_BYTES:
        raise Refused(f"{dataset.name} claims the shape {dataset.shape}")
    array = np.asarray(dataset[()])
    if dataset.attrs.get("dtype") == "bfloat16" and array.dtype.itemsize == 2:
        return array.view(ml_dtypes.bfloat16)  # HDF5 knows its bytes only
    return array
