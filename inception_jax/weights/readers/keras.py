"""Keras models: live ones, HDF5 files of Keras 1 and 2 (which Keras 3 still writes), .weights.h5 and .keras of Keras 3.

Reading does not need Keras. The name of a tensor is that of its layer and of its variable: "conv2d_1/kernel".
"""

from __future__ import annotations

import collections
import io
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from inception_jax.paths import open_regular
from inception_jax.weights.readers import archives
from inception_jax.weights.readers.budget import Budget
from inception_jax.weights.readers.formats import Items
from inception_jax.weights.readers.hdf5 import Hdf5
from inception_jax.weights.readers.keras_layers import layers_of, of_names, state
from inception_jax.weights.readers.refusal import Refused

Pairs = Iterator[tuple[str, np.ndarray]]
LayerKey = tuple[str, int]  # class of a layer in lower case, and its index among the layers of that class
CONFIG, WEIGHTS = archives.KERAS_CONFIG, "model.weights.h5"  # members of a .keras archive
LAYERS = ("layers", "_layer_checkpoint_dependencies")  # groups of Keras 3, and of .keras in 2.12 and 2.13
VARIABLES = {  # in the order in which Keras 3 numbers the variables that a layer has
    "conv2d": ("kernel", "bias"),
    "dense": ("kernel", "bias"),
    "separableconv2d": ("depthwise_kernel", "pointwise_kernel", "bias"),
    "batchnormalization": ("gamma", "beta", "moving_mean", "moving_variance"),
    "normalization": ("mean", "variance", "count"),
}
KERAS_1 = {"W": "kernel", "b": "bias", "running_mean": "moving_mean", "running_std": "moving_variance"}
"""Variables by their names in Keras 1; its running_std holds a variance."""


def read(path: Path, budget: Budget) -> Items:
    """Yields the tensors of a file, and the preprocessing that its layers state.

    Raises:
      Refused: the file is not of Keras, lacks the names of its layers, refers to other files, or exceeds the budget.
    """
    with open_regular(path) as file:
        is_archive = file.read(2) == b"PK"
    if is_archive:
        with archives.open_zip(path, budget) as archive:
            config = _parsed(archives.member(archive, CONFIG, budget, is_text=True))
            weights = io.BytesIO(archives.member(archive, WEIGHTS, budget))
        with h5py.File(weights, "r") as opened:
            pairs = _read_numbered(opened, config, Hdf5(opened, budget))
            yield from state(pairs, layers_of(config, budget), _left_out(opened))
        return
    with h5py.File(path, "r") as opened:
        yield from _read_hdf5(opened, Hdf5(opened, budget))


def _read_hdf5(file: h5py.File, hdf5: Hdf5) -> Items:
    text = hdf5.text(file, "model_config")
    layers = layers_of(_parsed(text), hdf5.budget) if text is not None else None
    if "layer_names" in file.attrs or "layer_names0" in file.attrs:
        group = file
    elif "model_weights" in file:
        group = hdf5.child(file, "model_weights")
    elif any(name in file for name in LAYERS):
        members = [name for container in LAYERS if container in file for name in hdf5.child(file, container)]
        found = of_names(members) if layers is None else layers
        yield from state(_read_numbered(file, {}, hdf5), found, _left_out(file))
        return
    else:
        raise Refused(f"it holds no layers, only {hdf5.names(file)[:4]}")
    found = of_names(hdf5.texts(group, "layer_names")) if layers is None else layers
    yield from state(_read_named(group, hdf5), found, _left_out(file))


def _left_out(file: h5py.File) -> tuple[str, ...]:
    """Returns the groups that hold the state of an optimizer."""
    return tuple(name for name in ("optimizer", "optimizer_weights") if name in file)


def _parsed(text: str | bytes) -> Mapping[str, Any]:
    config = json.loads(text)
    if not isinstance(config, dict):
        raise Refused("its config is no JSON object")
    return config


def read_model(model: Any, budget: Budget) -> Items:
    """Yields the tensors of a model in memory, of any version of Keras, and the preprocessing that its layers state."""
    text = model.to_json() if hasattr(model, "to_json") else None
    yield from state(_read_live(model), layers_of(_parsed(text), budget) if text is not None else ())


def _read_live(model: Any) -> Pairs:
    for layer in model.layers:
        if hasattr(layer, "layers"):
            yield from _read_live(layer)
            continue
        for variable, value in zip(layer.weights, layer.get_weights(), strict=True):
            yield f"{layer.name}/{_last(variable.name)}", value


# ---- Keras 1 and 2: groups and tensors by name ---------------------------------------------------------------------


def _read_named(group: h5py.Group, hdf5: Hdf5) -> Pairs:
    for layer in hdf5.texts(group, "layer_names"):
        tensors = hdf5.child(group, layer)
        names = hdf5.texts(tensors, "weight_names")
        # The name of the group is reliable: a second model in a session has "conv2d_1_1/kernel:0" in group "conv2d_1".
        # The exception is a model as a layer: its tensors name their own layers.
        parents = {name.rpartition("/")[0] for name in names}
        for name in names:
            owner = layer if len(parents) == 1 else name.split("/")[-2]
            yield f"{owner}/{_variable(owner, name)}", hdf5.array(hdf5.child(tensors, name))


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


def _read_numbered(group: h5py.Group, config: Mapping[str, Any], hdf5: Hdf5, depth: int = 0) -> Pairs:
    """Yields the tensors of a model: layers/conv2d_5/vars/0 is the first of the sixth Conv2D in `model.layers`.

    Keras names layers by order of creation, which is another order. Recent files hold the names, archives the config.
    """
    hdf5.budget.depth(depth)
    known = _configs(config)
    for container in [name for name in LAYERS if name in group]:
        layers = hdf5.child(group, container)
        for member in sorted(hdf5.names(layers), key=_layer_key):
            layer, found = hdf5.child(layers, member), known.get(_layer_key(member), {})
            if not isinstance(layer, h5py.Group):
                raise Refused(f"{layer.name!r} is no layer")
            yield from _read_numbered(layer, found, hdf5, depth + 1)
            if "vars" in layer:
                yield from _read_variables(member, hdf5.child(layer, "vars"), found.get("config", {}), hdf5)


def _configs(config: Mapping[str, Any]) -> dict[LayerKey, dict[str, Any]]:
    """Returns the configs of the layers of a model."""
    counts: collections.Counter[str] = collections.Counter()
    found = {}
    for layer in config.get("config", {}).get("layers", ()):
        kind = layer["class_name"].lower()
        found[kind, counts[kind]] = layer
        counts[kind] += 1
    return found


def _layer_key(member: str) -> LayerKey:
    stem, _, number = member.rpartition("_")
    if not (stem and number.isdecimal()):
        stem, number = member, "0"
    return stem.replace("_", ""), int(number)


def _read_variables(member: str, variables: h5py.Group, config: Mapping[str, Any], hdf5: Hdf5) -> Pairs:
    numbers = sorted(hdf5.names(variables), key=int)
    if not numbers:
        return
    names = {name for name in (hdf5.text(variables, "name"), config.get("name")) if name}
    if not names:
        raise Refused(
            "it lacks the names of its layers, as Keras wrote it then; load it in Keras, and save it as .keras or give "
            "the model itself"
        )
    if len(names) > 1:
        raise Refused(f"it names {member!r} twice, {' and '.join(sorted(map(repr, names)))}")
    layer = names.pop()
    called = _variables(_layer_key(member)[0], len(numbers), config)
    if len(called) != len(numbers):
        raise Refused(f"{layer!r} has {len(numbers)} variables, not {', '.join(called)}")
    for number, variable in zip(numbers, called, strict=True):
        yield f"{layer}/{variable}", hdf5.array(hdf5.child(variables, number))


def _variables(kind: str, count: int, config: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the names of the variables of a layer, in the order of their numbers."""
    if kind not in VARIABLES:
        return tuple(f"vars/{i}" for i in range(count))
    if kind != "batchnormalization":
        return VARIABLES[kind][:count]
    # Without a config, three variables mean a norm without scale (gamma): no published one lacks the bias (beta).
    scale = config.get("scale", True) if config else count == 4
    center = config.get("center", True) if config else count >= 3
    return tuple(name for name in VARIABLES[kind] if {"gamma": scale, "beta": center}.get(name, True))
