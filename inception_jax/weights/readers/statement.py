"""What a file says of the network besides its tensors: how its input is made, and what cannot be taken over."""

from __future__ import annotations

import dataclasses
import math

Channels = tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class Statement:
    """What the layers in front of the first convolution do.

    Attributes:
      scale, offset: they turn a pixel p in 0 ... 255 into scale * p + offset, by channel (RGB).
      layers: the names of those that do; none: the file says nothing of it, and scale and offset mean nothing.
      obstacle: what is in the way of taking the input over, to go on after "PATH"; "": nothing.
      notes: what was passed over.
    """

    scale: tuple[float, ...] = (1.0, 1.0, 1.0)
    offset: tuple[float, ...] = (0.0, 0.0, 0.0)
    layers: tuple[str, ...] = ()
    obstacle: str = ""
    notes: tuple[str, ...] = ()

    def pixel_constants(self) -> tuple[Channels, Channels]:
        """Returns (mean, std), by channel, of the same function as (p - mean) / std.

        Raises:
          ValueError: it is no such function: a scale is not positive, or a number not finite.
        """
        if not all(math.isfinite(value) for value in (*self.scale, *self.offset)) or min(self.scale) <= 0:
            raise ValueError(f"scale {self.scale} and offset {self.offset} are no (p - mean) / std")
        # Twelve digits: 1 / (1 / 127.5) need not be 127.5.
        mean = [float(f"{-b / a:.12g}") + 0.0 for a, b in zip(self.scale, self.offset, strict=True)]
        std = [float(f"{1 / a:.12g}") for a in self.scale]
        return (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])
