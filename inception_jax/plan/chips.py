"""TPU chips as Google Cloud documents them, and the slices that they come in. Plain Python."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from inception_jax.errors import UserError

FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
CUBES = (
    *("1x1x1", "2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8"),
    *("8x8x8", "8x8x16", "8x16x16", "16x16x16"),
)


@dataclasses.dataclass(frozen=True)
class Chip:
    """A generation of TPU chips.

    Attributes:
      name: in `--topology`, and as libtpu has it.
      flops: peak of one chip in bfloat16, floating-point operations a second.
      hbm: memory of one chip in bytes.
      usable: of it, what libtpu leaves to programs, as its error for a program that is too large says (0.0.42.1).
      hbm_bandwidth: of one chip, bytes a second.
      ici_bandwidth: of one chip, all links in both directions, bytes a second; None where the page states none.
      devices: how many JAX sees in one chip.
      shapes: of its slices, in chips; one chip alone serves as the base line of a table of scaling.
      source: the page that states the figures.
      options: what libtpu needs to be told besides the name.
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
        # Megacore: JAX sees the two cores of a chip as one device, as on Cloud; libtpu would make them two here.
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
    """Chips of one generation, connected in a shape such as "2x4"."""

    chip: Chip
    shape: str

    @property
    def name(self) -> str:
        """As `parse_slice` reads it."""
        return f"{self.chip.name}:{self.shape}"

    @property
    def chips(self) -> int:
        """How many it has."""
        return math.prod(int(size) for size in self.shape.split("x"))

    @property
    def devices(self) -> int:
        """How many JAX sees."""
        return self.chips * self.chip.devices


def parse_slice(topology: str) -> Slice:
    """Returns the slice that "v5e:2x4" names.

    Raises:
      UserError: there is no such chip, or it has no slice of this shape.
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
