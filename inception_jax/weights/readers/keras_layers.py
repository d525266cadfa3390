"""Layers of a Keras model that our networks do not have: converted, ignored with a note, or refused.

Before the first convolution, layers that scale pixels become a `Statement` of the preprocessing; any other layer that
changes the input is an obstacle to the conversion. After it, only the layers of these networks are allowed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from inception_jax.weights.readers.budget import Budget
from inception_jax.weights.readers.formats import Items
from inception_jax.weights.readers.refusal import Refused
from inception_jax.weights.readers.statement import Statement


class Layer(NamedTuple):
    """A layer of a model's config: its class, name and config, and the nodes that record its calls."""

    kind: str
    name: str
    config: Mapping[str, Any]
    nodes: Any = ()
    is_operation: bool = False

    def __str__(self) -> str:
        return f"its layer {self.name!r} ({self.kind!r})"


MODELS = ("Functional", "Model", "Sequential")
CONVOLUTIONS = ("Conv2D", "SeparableConv2D", "Convolution2D", "SeparableConvolution2D", "DepthwiseConv2D")
IDLE = ("InputLayer", "Dropout", "SpatialDropout2D", "GaussianNoise", "GaussianDropout", "ActivityRegularization")
"""Layers without effect in inference."""
# fmt: off
KNOWN = (
    *CONVOLUTIONS,
    "BatchNormalization", "Activation", "ReLU", "Softmax", "Dense", "Flatten", "ZeroPadding2D",
    "MaxPooling2D", "AveragePooling2D", "GlobalAveragePooling2D", "Concatenate", "Add", "Merge", "CustomScaleLayer",
)
# fmt: on
"""The layers of these networks. The conversion checks their number and shapes."""
SCALES_A_RESIDUAL = re.compile(r"(block35|block17|block8)_\d+|mixed_\w+")
"""The names of the lambdas in Keras 2's Inception-ResNet-v2."""
AFFINE = {  # by operation: (scale, offset) of `x OP number`
    "TrueDivide": lambda n: (1 / n, 0.0),
    "Divide": lambda n: (1 / n, 0.0),
    "Multiply": lambda n: (n, 0.0),
    "Add": lambda n: (1.0, n),
    "Subtract": lambda n: (1.0, -n),
}
OLD_AFFINE = {  # their names in Keras 2
    "math.truediv": "TrueDivide",
    "math.divide": "TrueDivide",
    "math.multiply": "Multiply",
    "math.add": "Add",
    "__operators__.add": "Add",
    "math.subtract": "Subtract",
}
CHANGES_INPUT = re.compile(
    r"(rescaling|normalization|resizing|center_crop|lambda|tf\.\w.*|true_divide|subtract|get_item)(_\d+)?"
)
"""Names that Keras gives to layers whose numbers are not in a file of weights alone."""


def layers_of(model: Mapping[str, Any], budget: Budget, depth: int = 0) -> tuple[Layer, ...]:
    """Returns the layers in the config of a model; a model as a layer is replaced by its layers."""
    return tuple(_walk(model, budget, depth))


def _walk(model: Mapping[str, Any], budget: Budget, depth: int) -> Iterator[Layer]:
    budget.depth(depth)
    config = model.get("config", {})
    for layer in config if isinstance(config, list) else config.get("layers", ()):
        budget.entry()
        kind, its = str(layer["class_name"]).rpartition(">")[2], layer.get("config", {})
        if kind in MODELS:
            yield from _walk(layer, budget, depth + 1)
            continue
        operation = ".ops." in str(layer.get("module"))
        name = str(layer.get("name") or its.get("name", ""))
        yield Layer(kind, name, its, layer.get("inbound_nodes", ()), operation)


def of_names(names: Iterable[str]) -> tuple[Layer, ...]:
    """Returns the layers that change the input, for weights without a config: only their names are known."""
    return tuple(Layer("?", name, {}) for name in names if CHANGES_INPUT.fullmatch(name))


def state(pairs: Iterable[tuple[str, np.ndarray]], layers: tuple[Layer, ...]) -> Items:
    """Yields the tensors without those of preprocessing layers, and then the preprocessing that these state.

    Raises:
      Refused: a layer after the first convolution is none of `KNOWN`.
    """
    kinds = [layer.kind for layer in layers]
    first = next((i for i, kind in enumerate(kinds) if kind in CONVOLUTIONS), len(layers))
    for layer in layers[first:]:
        _check_known(layer)
    normalising = {layer.name for layer in layers[:first] if layer.kind in ("Normalization", "?")}
    constants: dict[str, np.ndarray] = {}
    for name, array in pairs:
        layer_name, _, variable = name.rpartition("/")
        if layer_name in normalising and variable in ("mean", "variance", "count"):
            constants[name] = array
        else:
            yield name, array
    yield _statement(layers[:first], constants)


def _check_known(layer: Layer) -> None:
    if layer.kind == "Lambda" and SCALES_A_RESIDUAL.fullmatch(layer.name):
        return
    if layer.is_operation or layer.kind not in (*KNOWN, *IDLE):
        raise Refused(f"{layer} changes what the network computes, and these networks do not have it")
    activation = layer.config.get("activation", "linear")
    if activation not in ("linear", "relu", "softmax", None):
        raise Refused(f"{layer} has the activation {activation!r}; these networks have relu, and softmax at the end")
    if layer.kind == "ReLU" and any(layer.config.get(key) for key in ("max_value", "negative_slope", "threshold")):
        raise Refused(f"{layer} is no plain relu")


def _statement(layers: tuple[Layer, ...], constants: Mapping[str, np.ndarray]) -> Statement:
    """Returns the combined effect of the layers before the first convolution."""
    scale, offset = np.ones(3), np.zeros(3)
    converted, notes, obstacles = [], [], []
    for layer in layers:
        if layer.kind in IDLE:
            continue
        if layer.kind.startswith("Random"):
            notes.append(f"{layer} is ignored: it augments images in training")
            continue
        try:
            a, b = _affine(layer, constants)
            scale, offset = scale * a, offset * a + b
        except (TypeError, ValueError, ZeroDivisionError) as error:
            obstacles.append(f"{layer} {error}" if type(error) is ValueError else f"{layer} has no plain numbers")
            continue
        converted.append(layer.name)
    if not obstacles and converted and not (np.isfinite([scale, offset]).all() and (scale > 0).all()):
        obstacles.append(f"its layers {', '.join(map(repr, converted))} scale pixels by {scale.tolist()}")
    return Statement(
        scale=tuple(scale.tolist()),
        offset=tuple(offset.tolist()),
        layers=tuple(converted),
        obstacle="; ".join(obstacles[:2]),
        notes=tuple(notes),
    )


def _affine(layer: Layer, constants: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Returns (scale, offset) by channel of a layer that computes scale * x + offset; raises ValueError otherwise."""
    if layer.kind == "Rescaling":
        return _channels(layer.config.get("scale")), _channels(layer.config.get("offset", 0.0))
    if layer.kind == "Normalization":
        return _normalization(layer, constants)
    operation = OLD_AFFINE.get(str(layer.config.get("function")), "") if layer.kind == "TFOpLambda" else layer.kind
    if operation in AFFINE and (layer.is_operation or layer.kind == "TFOpLambda"):
        a, b = AFFINE[operation](_number(layer.nodes))
        return _channels(a), _channels(b)
    lost = "comes before the network, and its numbers are not in this file"
    raise ValueError(lost if layer.kind == "?" else "changes the input in a way that cannot be converted")


def _normalization(layer: Layer, constants: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    if layer.config.get("invert") or layer.config.get("axis") not in (-1, 3, [-1], [3], None, []):
        raise ValueError("normalises in a way that cannot be converted")
    mean, variance = layer.config.get("mean"), layer.config.get("variance")
    if mean is None or variance is None:
        mean, variance = (constants.get(f"{layer.name}/{which}") for which in ("mean", "variance"))
    deviation = np.maximum(np.sqrt(_channels(variance)), 1e-7)
    return 1 / deviation, -_channels(mean) / deviation


def _channels(values: Any) -> np.ndarray:
    """Returns the value for each channel, of one number or three numbers in any shape."""
    array = np.asarray(() if values is None else values, np.float64).ravel()
    if array.size not in (1, 3):
        raise ValueError(f"has {array.size} numbers; it must have one, or one for each channel")
    return np.broadcast_to(array, (3,))


def _number(nodes: Any) -> float:
    """Returns the number that an operation is called with, after the tensor, its first argument."""
    (node,) = nodes
    if isinstance(node, Mapping):  # Keras 3
        tensor, number = node["args"]
        if not isinstance(tensor, Mapping) or node.get("kwargs"):
            raise ValueError("is called in a way that cannot be converted")
    else:  # Keras 2: [[name, node, tensor, {"y": number, "name": None}]]
        found = node[0] if isinstance(node[0], list) else node
        number = found[3]["y"]
    if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
        raise ValueError("is called with something other than a number")
    return float(number)
