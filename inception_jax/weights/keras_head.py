"""The layers of a Keras model behind its first convolution: those of the body, and the chain that is its head."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from inception_jax.errors import UserError, printable
from inception_jax.weights.head_layers import Element, Linear, Module, Norm, Untaken
from inception_jax.weights.readers.keras_layers import CONVOLUTIONS
from inception_jax.weights.readers.statement import Layer

CLOSING = ("BatchNormalization", "Activation", "ReLU", "Concatenate", "Add", "Merge", "Lambda", "CustomScaleLayer")
"""Layers that may follow the last convolution of a body, and belong to it."""
KNOWN = (*CONVOLUTIONS, *CLOSING, "ZeroPadding2D", "MaxPooling2D", "AveragePooling2D")
"""The layers of these bodies. The conversion checks their number and shapes."""
SCALES_A_RESIDUAL = re.compile(r"(block35|block17|block8)_\d+|mixed_\w+")
"""The names of the lambdas in Keras 2's Inception-ResNet-v2."""


def split(layers: Sequence[Layer], convolutions: int) -> tuple[Sequence[Layer], Sequence[Layer]]:
    """Returns the layers of a body of so many convolutions, and those behind it; batch norms at its end belong to it.

    Args:
      layers: from the first convolution on, in the order of the model.
      convolutions: of the body.
    """
    places = [i for i, layer in enumerate(layers) if layer.kind in CONVOLUTIONS]
    last = places[min(convolutions, len(places)) - 1] if places else -1
    end = next((i for i in range(last + 1, len(layers)) if layers[i].kind not in CLOSING), len(layers))
    return layers[:end], layers[end:]


def check_body(layers: Sequence[Layer], shown: str) -> None:
    """Checks that a body has no layer that ours lack.

    Raises:
      UserError: it has.
    """
    for layer in layers:
        if layer.kind == "Lambda" and SCALES_A_RESIDUAL.fullmatch(layer.name):
            continue
        if layer.kind not in KNOWN or layer.kind == "Lambda":
            raise UserError(
                f"{shown}: {printable(layer)} changes what the network computes, and these networks do not have it."
            )
        if layer.activation not in ("linear", "relu"):
            raise UserError(
                f"{shown}: {printable(layer)} has the activation {printable(layer.activation)!r}, where these networks "
                "have relu."
            )


def chain(body: Sequence[Layer], layers: Sequence[Layer], modules: Mapping[str, Module]) -> list[Element]:
    """Returns the linear layers, batch norms and activations of a head in their order; [] if there are none.

    Args:
      body, layers: as `split` returns them.
      modules: by the name of their layer; a batch norm of none of `layers` stands at the end of the body.

    Raises:
      Untaken: a layer is none that our heads have, or the layers are no chain.
    """
    names = {layer.name for layer in layers}
    before = [each for name, each in modules.items() if name not in names]
    elements: list[Element] = [each for each in before if isinstance(each, Norm)]
    at_end = (
        not layers
        or not layers[0].inputs
        or any(layer.kind == "BatchNormalization" and layers[0].inputs == (layer.name,) for layer in body)
    )
    if before and (len(before) > 1 or not elements or not at_end):
        raise Untaken(f"{', '.join(map(str, before))} belongs to none of its layers")
    pooled, previous = False, ""
    for layer in layers:
        if len(layer.inputs) > 1 or (previous and layer.inputs not in ((), (previous,))):
            raise Untaken(f"{printable(layer)} reads {printable(', '.join(layer.inputs))}: it is no chain")
        previous = layer.name
        if layer.kind == "GlobalAveragePooling2D" and not pooled:
            pooled = True
        elif not pooled:
            raise Untaken(f"{printable(layer)} stands where ours have global average pooling")
        elif layer.kind in ("Dense", "BatchNormalization"):
            elements.append(_module(layer, modules))
        elif layer.kind not in ("Activation", "ReLU", "Softmax", "Flatten"):
            raise Untaken(f"{printable(layer)} is none that our heads have")
        elements += [layer.activation] if layer.activation != "linear" else []
    return elements


def _module(layer: Layer, modules: Mapping[str, Module]) -> Linear | Norm:
    found = modules.get(layer.name)
    if isinstance(found, Norm):
        return found._replace(epsilon=layer.epsilon)
    if isinstance(found, Linear):
        return found
    raise Untaken(f"{printable(layer)} has no tensors of its kind in the file")
