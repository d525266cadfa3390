"""TPU chips and their slices, from the documentation of Google Cloud. Plain Python."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from inception_jax.errors import UserError

FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
CUBES = (
    "1x1x1", "2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8",
    "8x8x8", "8x8x16", "8x16x16", "16x16x16",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Chip:
    """A generation of TPU chips.

    Attributes:
      name: in `--topology` and in libtpu.
      flops: peak FLOP/s of one chip in bfloat16.
      hbm: memory of one chip in bytes.
      usable: bytes of it that programs may use, from the error of libtpu 0.0.42.1 for a program that is too large.
      hbm_bandwidth: bytes per second of one chip.
      ici_bandwidth: interconnect, bytes per second over all links of a chip, both directions; None if not documented.
      devices: JAX devices per chip.
      shapes: of its slices, in chips. A single chip is the baseline of scaling tables.
      source: the page with the figures.
      options: further options of libtpu's topology.
    """

    name: str
    flops: float
    hbm: int
    usable: int
    hbm_bandwidth: float
    ici_bandwidth: float | None
    devices: int
    shapes: tuple[str, ...]
    source: str
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


CHIPS = {
    chip.name: chip
    for chip in (
        # Megacore: on Cloud TPU, JAX sees the two cores of a chip as one device; without the option libtpu makes two.
        Chip(
            name="v4",
            flops=275e12,
            hbm=32 * 2**30,
            usable=int(30.75 * 2**30),
            hbm_bandwidth=1200e9,
            ici_bandwidth=None,
            devices=1,
            shapes=CUBES,
            source="docs.cloud.google.com/tpu/docs/v4",
            options={"chip_config_name": "megacore"},
        ),
        Chip(
            name="v5e",
            flops=197e12,
            hbm=16 * 2**30,
            usable=int(15.75 * 2**30),
            hbm_bandwidth=819e9,
            ici_bandwidth=400e9,
            devices=1,
            shapes=FLAT,
            source="docs.cloud.google.com/tpu/docs/v5e",
        ),
        Chip(
            name="v5p",
            flops=459e12,
            hbm=95 * 2**30,
            usable=int(95.74 * 2**30),
            hbm_bandwidth=2765e9,
            ici_bandwidth=1200e9,
            devices=1,
            shapes=CUBES,
            source="docs.cloud.google.com/tpu/docs/v5p",
        ),
        Chip(
            name="v6e",
            flops=918e12,
            hbm=32 * 2**30,
            usable=int(31.25 * 2**30),
            hbm_bandwidth=1638e9,
            ici_bandwidth=800e9,
            devices=1,
            shapes=FLAT,
            source="docs.cloud.google.com/tpu/docs/v6e",
        ),
        Chip(
            name="tpu7x",
            flops=2307e12,
            hbm=192 * 2**30,
            usable=int(2 * 94.75 * 2**30),
            hbm_bandwidth=7380e9,
            ici_bandwidth=1200e9,
            devices=2,
            shapes=CUBES,
            source="docs.cloud.google.com/tpu/docs/tpu7x",
        ),
    )
}


class Slice(NamedTuple):
    """Connected chips of one generation, in a shape such as "2x4"."""

    chip: Chip
    shape: str

    @property
    def name(self) -> str:
        """The slice as `parse_slice` reads it, such as "v5e:2x4"."""
        return f"{self.chip.name}:{self.shape}"

    @property
    def chips(self) -> int:
        """Number of chips."""
        return math.prod(int(size) for size in self.shape.split("x"))

    @property
    def devices(self) -> int:
        """Number of JAX devices."""
        return self.chips * self.chip.devices


def parse_slice(topology: str) -> Slice:
    """Returns the slice for a topology such as "v5e:2x4".

    Raises:
      UserError: there is no such chip, or no slice of it has this shape.
    """
    name, _, shape = topology.partition(":")
    if name not in CHIPS:
        raise UserError(f"topology {topology!r}: no chip is called {name!r}; it must be one of {', '.join(CHIPS)}.")
    chip = CHIPS[name]
    if shape not in chip.shapes:
        example = f"{name}:{chip.shapes[1]}"
        raise UserError(
            f"topology {topology!r}: {name} has no slice {shape!r}; it has {', '.join(chip.shapes)}: write {example!r}."
        )
    return Slice(chip, shape)
