"""What a file states beside its tensors: preprocessing, layers, operators, and what was left out."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple


def without_noise(value: float) -> float:
    """Returns a number without the digits that float32 added: 0.001 is stored as 0.0010000000475."""
    return float(f"{value:.7g}")


Channels = tuple[float, float, float]


class Layer(NamedTuple):
    """A layer of a Keras model.

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


class Operator(NamedTuple):
    """One operator of a graph, between its input and global average pooling.

    Attributes:
      kind: conv, depthwise, max, avg, lrn, relu, add (of a residual) or scale (by a number).
      shape: of the kernel of a convolution, [outputs, inputs, height, width]; the window of a pool, (height, width).
      strides: of rows and columns.
      pads: the padding: top, left, bottom, right.
      rounding: of the number of windows: floor, ceil, or tf (as many as TensorFlow's SAME, which sets `pads`, too).
      values: whether an average pool counts padding (0 or 1); size, alpha, beta and bias of an lrn; the factor of a
        scale.
    """

    kind: str
    shape: tuple[int, ...] = ()
    strides: tuple[int, ...] = (1, 1)
    pads: tuple[int, ...] = (0, 0, 0, 0)
    rounding: str = "floor"
    values: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True)
class Statement:
    """What a file states. The first three fields are the combined effect of the layers before the first convolution.

    Attributes:
      scale, offset: a pixel p in 0 ... 255 becomes scale * p + offset, by channel (RGB).
      layers: the names of the layers that do this; (): the file states no preprocessing.
      obstacle: the reason why the layers cannot be converted, for a message; "": they can.
      notes: layers that were ignored, and numbers that are no float32.
      epsilon: of all batch norms; None: the file states none.
      after: the layers of a Keras model from the first convolution on, in its order; (): the file does not list them.
      operators: of a graph, in the order in which a table lists them; (): the file holds no graph.
      input_size: height and width in pixels of the input of a graph or of a Keras model; (): any, or not stated.
      embedding: whether the last linear layer of a graph is an embedding, whose length is made 1.
      info: `WeightsInfo` as JSON in an ONNX file of ours; "": it is none.
      containers: the keys of a checkpoint under which tensors lie, such as "state_dict" or "ema.model".
      left_out: the keys of a file that hold no weights, such as "epoch" and "optimizer".
    """

    scale: tuple[float, ...] = (1.0, 1.0, 1.0)
    offset: tuple[float, ...] = (0.0, 0.0, 0.0)
    layers: tuple[str, ...] = ()
    obstacle: str = ""
    notes: tuple[str, ...] = ()
    epsilon: float | None = None
    after: tuple[Layer, ...] = ()
    operators: tuple[Operator, ...] = ()
    input_size: tuple[int, ...] = ()
    embedding: bool = False
    info: str = ""
    containers: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    @classmethod
    def of_json(cls, fields: Mapping[str, Any]) -> Statement:
        """Returns the statement with these fields of JSON, in which tuples are lists."""
        given = {key: _tuples(value) for key, value in fields.items()}
        given["operators"] = tuple(Operator(*each) for each in given["operators"])
        given["after"] = tuple(Layer(*each) for each in given["after"])
        return cls(**given)

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


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
