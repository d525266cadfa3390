"""The layers in the config of a Keras model: what they read, what they do to the input, and what follows.

Before the first convolution, layers that scale pixels become a `Statement` of the preprocessing; any other layer that
changes the input is an obstacle to the conversion. From it on, the statement lists the layers.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from inception_jax.weights.readers import statement
from inception_jax.weights.readers.budget import Budget
from inception_jax.weights.readers.formats import Items
from inception_jax.weights.readers.statement import Statement


class Layer(NamedTuple):
    """A layer of a model's config: its class, name and config, the nodes that record its calls, and what it reads."""

    kind: str
    name: str
    config: Mapping[str, Any]
    nodes: Any = ()
    is_operation: bool = False
    inputs: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"its layer {self.name!r} ({self.kind!r})"


MODELS = ("Functional", "Model", "Sequential")
CONVOLUTIONS = ("Conv2D", "SeparableConv2D", "Convolution2D", "SeparableConvolution2D", "DepthwiseConv2D")
IDLE = ("InputLayer", "Dropout", "SpatialDropout2D", "GaussianNoise", "GaussianDropout", "ActivityRegularization")
"""Layers without effect in inference."""
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


def layers_of(model: Mapping[str, Any], budget: Budget) -> tuple[Layer, ...]:
    """Returns the layers in the config of a model; a model as a layer is replaced by its layers."""
    found: list[Layer] = []
    _walk(model, (), found, budget, 0)
    return tuple(found)


def _walk(
    model: Mapping[str, Any], reads: tuple[str, ...], found: list[Layer], budget: Budget, depth: int
) -> tuple[str, ...]:
    """Adds the layers of a model that is called with the outputs of `reads`; returns the layers that it returns."""
    budget.depth(depth)
    config = model.get("config", {})
    is_list = isinstance(config, list) or model.get("class_name") == "Sequential"  # each layer reads the one before
    sources: dict[str, tuple[str, ...]] = {}  # of the output of a layer
    last = reads
    for layer in config if isinstance(config, list) else config.get("layers", ()):
        budget.entry()
        kind, its = str(layer["class_name"]).rpartition(">")[2], layer.get("config", {})
        name = str(layer.get("name") or (its.get("name", "") if isinstance(its, Mapping) else ""))
        nodes = layer.get("inbound_nodes", ())
        inputs = last if is_list else _resolved(nodes, sources)
        if kind in MODELS:
            last = _walk(layer, inputs, found, budget, depth + 1)
        else:
            found.append(Layer(kind, name, its, nodes, ".ops." in str(layer.get("module")), inputs))
            last = _returned(kind, name, inputs, reads, depth)
        sources[name] = last
    outputs = () if isinstance(config, list) else _resolved(config.get("output_layers"), sources)
    return outputs or last


def _returned(kind: str, name: str, inputs: tuple[str, ...], reads: tuple[str, ...], depth: int) -> tuple[str, ...]:
    """Returns the layers that stand for a layer among the inputs of others: what it reads, if it has no effect."""
    if kind == "InputLayer":
        return reads if depth else (name,)
    return inputs if kind in IDLE else (name,)


def _resolved(nodes: Any, sources: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Returns the layers whose outputs the nodes of a layer read; of models and idle layers, those that they return."""
    names = dict.fromkeys(_layers_in(nodes))
    return tuple(dict.fromkeys(each for name in names for each in sources.get(name, (name,))))


def _layers_in(nodes: Any) -> Iterator[str]:
    if isinstance(nodes, Mapping):  # Keras 3: {"keras_history": [layer, node, tensor]} at some depth
        history = nodes.get("keras_history")
        if isinstance(history, list) and history:
            yield str(history[0])
            return
        nodes = list(nodes.values())
    if isinstance(nodes, list):
        if (
            len(nodes) >= 3 and isinstance(nodes[0], str) and isinstance(nodes[1], int)
        ):  # Keras 2: [layer, node, tensor]
            yield nodes[0]
            nodes = nodes[3:]
        for each in nodes:
            yield from _layers_in(each)


def of_names(names: Iterable[str]) -> tuple[Layer, ...]:
    """Returns the layers that change the input, for weights without a config: only their names are known."""
    return tuple(Layer("?", name, {}) for name in names if CHANGES_INPUT.fullmatch(name))


def state(pairs: Iterable[tuple[str, np.ndarray]], layers: tuple[Layer, ...], left_out: tuple[str, ...] = ()) -> Items:
    """Yields the tensors without those of preprocessing layers, and then what the layers state."""
    kinds = [layer.kind for layer in layers]
    first = next((i for i, kind in enumerate(kinds) if kind in CONVOLUTIONS), len(layers))
    normalising = {layer.name for layer in layers[:first] if layer.kind in ("Normalization", "?")}
    constants: dict[str, np.ndarray] = {}
    for name, array in pairs:
        layer_name, _, variable = name.rpartition("/")
        if layer_name in normalising and variable in ("mean", "variance", "count"):
            constants[name] = array
        else:
            yield name, array
    stated = _statement(layers[:first], constants)
    after = tuple(_stated(layer) for layer in layers[first:] if layer.kind not in IDLE)
    size = () if stated.obstacle else _size(layers[: first + 1])
    yield dataclasses.replace(stated, after=after, input_size=size, left_out=left_out)


def _stated(layer: Layer) -> statement.Layer:
    """Returns what a statement says of a layer."""
    config = layer.config if isinstance(layer.config, Mapping) else {}
    activation = config.get("activation") or "linear"
    if layer.kind == "ReLU":
        limited = any(config.get(key) for key in ("max_value", "negative_slope", "threshold"))
        activation = "relu with limits" if limited else "relu"
    elif layer.kind == "Softmax":
        activation = "softmax"
    kind = f"operation {layer.kind}" if layer.is_operation else layer.kind
    epsilon = config.get("epsilon")
    epsilon = float(epsilon) if isinstance(epsilon, int | float) else 1e-3
    return statement.Layer(kind, layer.name, layer.inputs, str(activation), epsilon)


def _size(layers: Iterable[Layer]) -> tuple[int, ...]:
    """Returns height and width of the first layer that states the shape of images; () if none does."""
    for layer in layers:
        config = layer.config if isinstance(layer.config, Mapping) else {}
        shape = config.get("batch_shape") or config.get("batch_input_shape")
        if isinstance(shape, list) and len(shape) == 4:
            size = tuple(shape[1:3])
            return size if all(isinstance(each, int) and each > 0 for each in size) else ()
    return ()


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
