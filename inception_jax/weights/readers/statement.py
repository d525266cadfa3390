"""The preprocessing that layers in a file state, and what prevents its conversion."""

from __future__ import annotations

import dataclasses
import math

Channels = tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class Statement:
    """The combined effect of the layers before the first convolution.

    Attributes:
      scale, offset: a pixel p in 0 ... 255 becomes scale * p + offset, by channel (RGB).
      layers: the names of the layers that do this; (): the file states no preprocessing.
      obstacle: the reason why the layers cannot be converted, for a message; "": they can.
      notes: layers that were ignored.
    """

    scale: tuple[float, ...] = (1.0, 1.0, 1.0)
    offset: tuple[float, ...] = (0.0, 0.0, 0.0)
    layers: tuple[str, ...] = ()
    obstacle: str = ""
    notes: tuple[str, ...] = ()

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
