"""A table as a list of operators, each with its padding at an image size. Plain Python, for comparison with graphs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from inception_jax.models import sizes, spec

Size = tuple[int, int]
"""Height and width in pixels."""


class Step(NamedTuple):
    """An operator of a table at an image size.

    Attributes:
      kind: conv, depthwise, max, avg, lrn, relu, add (of a residual) or scale (by a number).
      shape: of the kernel of a convolution, [outputs, inputs, height, width]; the window of a pool, (height, width).
      strides: of rows and columns.
      reads: the size of the input.
      first: the padding (top, left).
      makes: the size of the output.
      values: whether an average pool counts padding (0 or 1), if there is any; size, alpha, beta and k of an lrn; the
        factor of a scale.
    """

    kind: str
    shape: tuple[int, ...] = ()
    strides: Size = (1, 1)
    reads: Size = (0, 0)
    first: Size = (0, 0)
    makes: Size = (0, 0)
    values: tuple[float, ...] = ()

    def __str__(self) -> str:
        text = " ".join([self.kind, *("x".join(map(str, part)) for part in (self.shape, self.values) if part)])
        return (
            f"{text}/{self.strides[0]} from {self.reads} to {self.makes}, padding {self.first}" if self.shape else text
        )


def steps(table: spec.Table, numerics: spec.Numerics, channels: int, size: Size) -> Iterator[Step]:
    """Yields the operators of a table, up to global average pooling, for images of these channels and this size."""
    for row in table.values():
        yield from _row(row, channels, size, numerics)
        channels, size = sizes.out_channels(row, channels), out_size(row, size, numerics)


def out_size(row: spec.Row | spec.Block, size: Size, numerics: spec.Numerics) -> Size:
    """Returns the size of a row's output."""
    return sizes.out_size(row, size[0], numerics), sizes.out_size(row, size[1], numerics)


def _row(row: spec.Row | spec.Block, channels: int, size: Size, numerics: spec.Numerics) -> Iterator[Step]:
    match row:
        case spec.Conv():
            yield _windowed("conv", (row.features, channels, *row.kernel), row, size, numerics.conv_same)
            yield from [Step("relu")] * row.relu
        case spec.SeparableConv():
            deep = channels * row.multiplier
            depthwise = _windowed("depthwise", (deep, 1, *row.kernel), row, size, numerics.conv_same)
            yield depthwise
            yield Step("conv", (row.features, deep, 1, 1), reads=depthwise.makes, makes=depthwise.makes)
            yield from [Step("relu")] * row.relu
        case spec.Pool():
            step = _windowed(row.kind, 2 * (row.window,), row, size, numerics.pool_same)
            counts = row.kind == "avg" and step.first != (0, 0)
            yield step._replace(values=(float(numerics.count_padding),) if counts else ())
        case spec.LocalResponseNorm():
            yield Step("lrn", values=(row.size, row.alpha, row.beta, row.k))
        case spec.Relu():
            yield Step("relu")
        case spec.Residual():
            yield from _residual(row, channels, size, numerics)
        case spec.AdaptivePool() | spec.Channels():
            return
        case branches:
            for branch in spec.branches_of(branches):
                yield from _chain(branch, channels, size, numerics)


def _chain(rows: spec.Branch, channels: int, size: Size, numerics: spec.Numerics) -> Iterator[Step]:
    for row in rows:
        yield from _row(row, channels, size, numerics)
        channels, size = sizes.out_channels(row, channels), out_size(row, size, numerics)


def _residual(row: spec.Residual, channels: int, size: Size, numerics: spec.Numerics) -> Iterator[Step]:
    yield from _chain(row.rows, channels, size, numerics)
    if row.up:
        yield Step("conv", (channels, sizes.chain_channels(row.rows, channels), 1, 1), reads=size, makes=size)
    if row.scale != 1:
        yield Step("scale", values=(row.scale,))
    if row.shortcut:
        yield from _row(row.shortcut, channels, size, numerics)
    yield Step("add")
    yield from [Step("relu")] * row.relu


def _windowed(
    kind: str, shape: tuple[int, ...], row: spec.Conv | spec.SeparableConv | spec.Pool, size: Size, rule: str
) -> Step:
    pairs = list(zip(size, shape[-2:], strict=True))
    low = [sizes.explicit_padding(n, k, row.stride, row.padding, rule)[0] for n, k in pairs]
    out = [sizes.windows(n, k, row.stride, row.padding, rule) for n, k in pairs]
    return Step(kind, shape, (row.stride, row.stride), size, (low[0], low[1]), (out[0], out[1]))
