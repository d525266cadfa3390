"""What a file says beside its tensors: preprocessing, the layers of a Keras model, and what was left out."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

Channels = tuple[float, float, float]


class Layer(NamedTuple):
    """A layer of a Keras model behind its first convolution.

    Attributes:
      kind: its class; "operation Multiply" for an operation on tensors.
      name: of the layer.
      inputs: the names of the layers that it reads; layers without effect in inference, such as Dropout, are passed
        over. Empty if the file does not say.
      activation: "linear", "relu", ...
      epsilon: of a batch norm.
    """

    kind: str
    name: str
    inputs: tuple[str, ...] = ()
    activation: str = "linear"
    epsilon: float = 1e-3

    def __str__(self) -> str:
        return f"its layer {self.name!r} ({self.kind!r})"


@dataclasses.dataclass(frozen=True)
class Statement:
    """The combined effect of the layers before the first convolution, and what else a file says.

    Attributes:
      scale, offset: a pixel p in 0 ... 255 becomes scale * p + offset, by channel (RGB).
      layers: the names of the layers that do this; (): the file states no preprocessing.
      obstacle: the reason why the layers cannot be converted, for a message; "": they can.
      notes: layers that were ignored, and numbers that were rounded.
      input_size: height and width in pixels of the input; (): any, or not stated.
      after: the layers from the first convolution on, in the order of the file; (): the file does not list them.
      containers: the keys of a checkpoint under which tensors lie, such as "state_dict" or "ema.model".
      left_out: the keys of a checkpoint that hold no weights, such as "epoch" and "optimizer".
    """

    scale: tuple[float, ...] = (1.0, 1.0, 1.0)
    offset: tuple[float, ...] = (0.0, 0.0, 0.0)
    layers: tuple[str, ...] = ()
    obstacle: str = ""
    notes: tuple[str, ...] = ()
    input_size: tuple[int, ...] = ()
    after: tuple[Layer, ...] = ()
    containers: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    @classmethod
    def of_json(cls, fields: Mapping[str, Any]) -> Statement:
        """Returns the statement with these fields of JSON, in which tuples are lists."""
        given = {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
        after = tuple(
            Layer(kind, name, tuple(inputs), *rest) for kind, name, inputs, *rest in given.pop("after", ())
        )
        return cls(**given, after=after)

    def pixel_constants(self) -> tuple[Channels, Channels]:
        """Returns (mean, std) by channel such that scale * p + offset = (p - mean) / std.

        Raises:
          ValueError: a scale is not positive, or a number is not finite.
        """
        if not all(math.isfinite(value) for value in (*self.scale, *self.offset)) or min(self.scale) <= 0:
            raise ValueError(f"scale {self.scale} and offset {self.offset} do not have the form (p - mean) / std")
        # Twelve digits: 1 / (1 / 127.5) need not be 127.5.
        mean = [float(f"{-b / a:.12g}") + 0.0 for a, b in zip(self.scale, self.offset, strict=True)]
        std = [float(f"{1 / a:.12g}") for a in self.scale]
        return (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])
