"""What is known of a published file of weights."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from inception_jax.models.inputs import Preprocess


@dataclasses.dataclass(frozen=True)
class WeightCard:
    """A published file of weights; None where it is not known, or the publisher states nothing.

    Attributes:
      id: the lineage, and the publisher's name of the set.
      model: the network of the zoo that computes what the publisher's does.
      lineage: whose names and orders the parameters have.
      url: where the publisher keeps the file.
      preprocess: how their input is made, in RGB.
      outputs: of the classifier; None: the file has none that the model could hold.
      label_offset: 1 where output 0 is a background class, else 0.
      channels: the order that the first convolution of the file reads.
      hashes: "algorithm:digits" of the file; a SHA-256 may be cut short, as it is in file names.
      size: of the file, in bytes.
      megabytes: the same as the publisher rounds it, in units of 10^6 or 2^20 bytes.
      top1, top5: accuracy on the validation images of ILSVRC 2012 in percent, single crop, as `origin` reports it.
      licence: of the weights, not of the code beside them.
      notes: what else to know.
    """

    id: str
    model: str
    lineage: str
    url: str
    preprocess: Preprocess
    outputs: int | None = 1000
    label_offset: int = 0
    channels: Literal["RGB", "BGR"] = "RGB"
    hashes: tuple[str, ...] = ()
    size: int | None = None
    megabytes: float | None = None
    top1: float | None = None
    top5: float | None = None
    origin: str | None = None
    licence: str | None = None
    notes: str = ""

    @property
    def file(self) -> str:
        """The name of the file."""
        return self.url.rsplit("/", 1)[-1]

    def to_json(self) -> dict[str, Any]:
        """Returns everything as JSON types."""
        return dataclasses.asdict(self) | {"file": self.file}
