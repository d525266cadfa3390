"""What a file states beside its tensors: preprocessing, operators, and what prevents its conversion."""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple


def without_noise(value: float) -> float:
    """Returns a number without the digits that float32 added: 0.001 is stored as 0.0010000000475."""
    return float(f"{value:.7g}")


Channels = tuple[float, float, float]


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
      notes: layers that were ignored.
      epsilon: of all batch norms; None: the file states none.
      operators: of a graph, in the order in which a table lists them; (): the file holds no graph.
      input_size: height and width in pixels of the input of a graph; (): any.
      embedding: whether the last linear layer of a graph is an embedding, whose length is made 1.
      info: `WeightsInfo` as JSON in an ONNX file of ours; "": it is none.
    """

    scale: tuple[float, ...] = (1.0, 1.0, 1.0)
    offset: tuple[float, ...] = (0.0, 0.0, 0.0)
    layers: tuple[str, ...] = ()
    obstacle: str = ""
    notes: tuple[str, ...] = ()
    epsilon: float | None = None
    operators: tuple[Operator, ...] = ()
    input_size: tuple[int, ...] = ()
    embedding: bool = False
    info: str = ""

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
