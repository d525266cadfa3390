"""Sizes and channels of what the rows of a table make, computed from the table. Plain Python."""

from __future__ import annotations

import math
from collections.abc import Mapping

from inception_jax.models import spec


def explicit_padding(size: int, window: int, stride: int, padding: spec.Padding, rule: str) -> tuple[int, int]:
    """Returns the (low, high) padding of one axis of `size` pixels under a `same` rule of `Numerics`."""
    if padding == spec.VALID:
        return 0, 0
    if rule == "tf":
        total = max((-(-size // stride) - 1) * stride + window - size, 0)
        return total // 2, total - total // 2
    if rule == "floor" and stride > 1:
        return 0, 0
    if rule == "ceil" and stride > 1:
        return 0, (window - size) % stride
    return (window - 1) // 2, (window - 1) // 2


def out_size(row: spec.Row | spec.Block, size: int, numerics: spec.Numerics) -> int:
    """Returns the height (= width) of a row's output, for an input of `size` pixels.

    0 or less: the input is too small, or the branches of a block, or a residual and its shortcut, differ in size.
    """
    match row:
        case spec.LocalResponseNorm() | spec.Relu() | spec.Channels():
            return size
        case spec.AdaptivePool():
            return row.output if size >= 1 else 0
        case spec.Residual():
            shortcut = size if row.shortcut is None else out_size(row.shortcut, size, numerics)
            return _common(_chain(row.rows, size, numerics), shortcut)
        case spec.Conv() | spec.SeparableConv():
            return min(windows(size, k, row.stride, row.padding, numerics.conv_same) for k in row.kernel)
        case spec.Pool():
            return windows(size, row.window, row.stride, row.padding, numerics.pool_same)
        case branches:
            return _common(*(_chain(branch, size, numerics) for branch in spec.branches_of(branches)))


def out_channels(row: spec.Row | spec.Block, channels: int) -> int:
    """Returns the channels of a row's output, for an input of so many channels."""
    match row:
        case spec.Conv() | spec.SeparableConv():
            return row.features
        case spec.Channels():
            return row.stop - row.start
        case spec.Residual():
            return row.shortcut.features if row.shortcut else channels
        case spec.Pool() | spec.AdaptivePool() | spec.LocalResponseNorm() | spec.Relu():
            return channels
        case branches:
            return sum(chain_channels(branch, channels) for branch in spec.branches_of(branches))


def chain_channels(rows: spec.Branch, channels: int) -> int:
    """Returns the channels of the output of a chain of rows, for an input of so many channels."""
    for row in rows:
        channels = out_channels(row, channels)
    return channels


def stride(row: spec.Row | spec.Block) -> int | None:
    """Returns the pixels of a row's input from one pixel of its output to the next; None behind an adaptive pool."""
    match row:
        case spec.Conv() | spec.SeparableConv() | spec.Pool():
            return row.stride
        case spec.AdaptivePool():
            return None
        case spec.Residual():
            return _chain_stride(row.rows)
        case spec.LocalResponseNorm() | spec.Relu() | spec.Channels():
            return 1
        case branches:
            return _chain_stride(spec.branches_of(branches)[0])


def minimum_input(table: spec.Table, numerics: spec.Numerics, aux: Mapping[str, spec.AuxHead] | None = None) -> int:
    """Returns the smallest square image, in pixels, that every row of the table (and every aux head) can read."""
    size = 1
    while not fits(table, numerics, aux or {}, size):
        size += 1
    return size


def fits(table: spec.Table, numerics: spec.Numerics, aux: Mapping[str, spec.AuxHead], size: int) -> bool:
    """Returns whether every row of the table, and every head, can read an image of `size` pixels."""
    for name, row in table.items():
        size = out_size(row, size, numerics)
        if size < 1 or (name in aux and _chain(aux[name].rows, size, numerics) < 1):
            return False
    return True


def windows(size: int, window: int, stride: int, padding: spec.Padding, rule: str) -> int:
    """Returns how many windows fit into one axis of `size` pixels and its padding under a `same` rule of `Numerics`."""
    return (size + sum(explicit_padding(size, window, stride, padding, rule)) - window) // stride + 1


def _chain(rows: spec.Branch, size: int, numerics: spec.Numerics) -> int:
    for row in rows:
        size = out_size(row, size, numerics) if size >= 1 else size
    return size


def _chain_stride(rows: spec.Branch) -> int | None:
    strides = [stride(row) for row in rows]
    return None if None in strides else math.prod(each for each in strides if each is not None)


def _common(*sizes: int) -> int:
    return sizes[0] if len(set(sizes)) == 1 else 0
