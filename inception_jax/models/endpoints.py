"""Where features can be read: the endpoints of a table, with their strides and channels. Plain Python."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from inception_jax.models import sizes, spec
from inception_jax.suggestions import hint


class Endpoint(NamedTuple):
    """The activations after a row of a table.

    stride    pixels of the image from one pixel of the activations to the next; None behind an adaptive pool, whose
              output has one size whatever the image's
    channels  of the activations
    """

    name: str
    stride: int | None
    channels: int


def trace(table: spec.Table) -> tuple[Endpoint, ...]:
    """Returns every endpoint of a table that reads RGB images, in its order."""
    found = []
    stride: int | None = 1
    channels = 3
    for name, row in table.items():
        step = sizes.stride(row)
        stride = None if stride is None or step is None else stride * step
        channels = sizes.out_channels(row, channels)
        found.append(Endpoint(name, stride, channels))
    return tuple(found)


def pyramid(table: spec.Table) -> tuple[str, ...]:
    """Returns the name of the last endpoint of each stride, as feature pyramids and segmentation decoders read them."""
    return tuple({end.stride: end.name for end in trace(table) if end.stride is not None}.values())


def cut(
    model: str, table: spec.Table, features_only: bool | str | Collection[str]
) -> tuple[spec.Table, tuple[str, ...]]:
    """Returns the table up to the last endpoint that is asked for, and the names asked for in the table's order.

    Args:
      model: its name, for the error.
      table: of the whole network.
      features_only: names of endpoints, or True for the pyramid.

    Raises:
      ValueError: an unknown name, or none.
    """
    asked = {features_only} if isinstance(features_only, str) else features_only
    asked = pyramid(table) if isinstance(asked, bool) else asked
    names = list(table)
    for name in asked:
        if name not in table:
            raise ValueError(f"{model} has no endpoint {name!r}.{hint(name, names)} All: {', '.join(names)}.")
    if not asked:
        raise ValueError(f"features_only names no endpoint. {model} has: {', '.join(names)}.")
    last = max(map(names.index, asked))
    return {name: table[name] for name in names[: last + 1]}, tuple(name for name in names if name in asked)
