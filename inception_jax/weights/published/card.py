"""The card of a published file of weights."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from inception_jax.models.inputs import Preprocess


@dataclasses.dataclass(frozen=True)
class WeightCard:
    """The facts about a published file; None: unknown, or not stated by the publisher.

    Attributes:
      id: lineage/name, with the publisher's name of the set.
      model: the network of the zoo that computes the same function.
      lineage: the origin whose naming and layout the parameters have.
      url: the publisher's address of the file.
      mirrors: other addresses of the same file, the best first.
      preprocess: the preprocessing of the input, in RGB.
      outputs: outputs of the classifier; None: the file has no classifier that the model can hold.
      label_offset: 1 if output 0 is a background class, else 0.
      channels: the order of channels that the first convolution of the file reads.
      hashes: "algorithm:digits" of the file; a SHA-256 may be cut short, as in file names.
      size: of the file, in bytes.
      megabytes: the size as the publisher rounds it, in units of 10^6 or 2^20 bytes.
      top1, top5: single-crop accuracy on the validation images of ILSVRC 2012 in percent, as `origin` reports it.
      licence: of the weights, not of the code published with them.
      notes: other facts.
    """

    id: str
    model: str
    lineage: str
    url: str
    preprocess: Preprocess
    outputs: int | None = 1000
    label_offset: int = 0
    channels: Literal["RGB", "BGR"] = "RGB"
    mirrors: tuple[str, ...] = ()
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

    @property
    def urls(self) -> tuple[str, ...]:
        """All addresses of the file: the encrypted ones first, that of the publisher before its mirrors."""
        return tuple(sorted((self.url, *self.mirrors), key=lambda url: not url.startswith("https:")))

    def to_json(self) -> dict[str, Any]:
        """Returns everything as JSON types."""
        return dataclasses.asdict(self) | {"file": self.file}
