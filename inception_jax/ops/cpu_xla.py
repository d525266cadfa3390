"""Convolutions and max pools made of XLA's operations that its CPU backend runs fast; see `convolution_and_pool`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from inception_jax.ops import xla
from inception_jax.ops.xla import Geometry, Padding, index_dtype

FEW_CHANNELS = 8  # fewer make matmuls too thin


def conv(
    x: jax.Array, kernel: jax.Array, bias: jax.Array | None = None, *, geometry: Geometry, relu: bool = False
) -> jax.Array:
    """Returns `ops.conv`."""
    return xla.add_bias_and_relu(_convolve(x, kernel, geometry), bias, relu)


def _convolve(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    if _is_empty(x, kernel):
        return xla.conv(x, kernel, geometry=geometry)
    if _is_pointwise(kernel.shape, geometry):
        return _matmul(x[:, :: geometry.stride, :: geometry.stride], kernel[0, 0])
    if not _is_depthwise(kernel.shape, geometry):
        return xla.conv(x, kernel, geometry=geometry)
    multiplier = kernel.shape[-1] // x.shape[-1]
    repeated = jnp.repeat(x, multiplier, -1) if multiplier > 1 else x
    return _depthwise(repeated, kernel, geometry).astype(x.dtype)


def input_gradient(grads: jax.Array, kernel: jax.Array, *, shape: tuple[int, ...], geometry: Geometry) -> jax.Array:
    """Returns the gradient of `conv` with respect to its input, which has this shape."""
    if _is_empty(grads, kernel) or 0 in shape or (geometry.groups > 1 and not _is_depthwise(kernel.shape, geometry)):
        return xla.input_gradient(grads, kernel, shape=shape, geometry=geometry)
    if not _is_pointwise(kernel.shape, geometry):
        return input_gradient_by_phases(conv, grads, kernel, shape=shape, geometry=geometry)
    strided = [
        (0, size - (count - 1) * geometry.stride - 1, geometry.stride - 1)
        for size, count in zip(shape[1:3], grads.shape[1:3], strict=True)
    ]
    return lax.pad(_matmul(grads, kernel[0, 0].T), jnp.zeros((), grads.dtype), [(0, 0, 0), *strided, (0, 0, 0)])


def input_gradient_by_phases(
    conv: Callable[..., jax.Array],
    grads: jax.Array,
    kernel: jax.Array,
    *,
    shape: tuple[int, ...],
    geometry: Geometry,
) -> jax.Array:
    """Returns `input_gradient`, made of one convolution of stride 1, by `conv`, for each phase of the stride.

    The pixels first, first + stride, ... of an axis are read by the same rows, or columns, of the kernel: those are
    the kernel of the phase, turned around.
    """
    depthwise = _is_depthwise(kernel.shape, geometry)

    def gradient(rows: _Phase, columns: _Phase) -> jax.Array:
        own = kernel[rows.offsets[-1] :: geometry.stride, columns.offsets[-1] :: geometry.stride][::-1, ::-1]
        stride_1 = Geometry(1, (rows.padding, columns.padding), 1, geometry.native)
        if not depthwise:
            return conv(grads, own.swapaxes(2, 3), geometry=stride_1)
        products = _depthwise(grads, own, stride_1)
        return products.reshape(*products.shape[:3], shape[-1], -1).sum(-1).astype(grads.dtype)

    return _by_phases(gradient, grads, kernel.shape[:2], shape, geometry)


def kernel_gradient(x: jax.Array, grads: jax.Array, *, shape: tuple[int, ...], geometry: Geometry) -> jax.Array:
    """Returns the gradient of `conv` with respect to its kernel, which has this shape."""
    depthwise = _is_depthwise(shape, geometry)
    if _is_empty(x, grads) or (geometry.groups > 1 and not depthwise):
        return xla.kernel_gradient(x, grads, shape=shape, geometry=geometry)
    if x.shape[-1] < FEW_CHANNELS and not depthwise:
        return _conv_over_batch(x, grads, shape, geometry)
    wide = jnp.promote_types(x.dtype, jnp.float32)
    taps = _shifts(x, shape[:2], geometry.strides, geometry.padding, fill=0)
    if depthwise:
        multiplier = shape[-1] // x.shape[-1]
        grads = grads.astype(wide).reshape(*grads.shape[:3], -1, multiplier)
        return jnp.stack([(tap[..., None] * grads).sum((0, 1, 2)) for tap in taps]).reshape(shape).astype(x.dtype)
    flat = grads.reshape(-1, grads.shape[-1])
    products = [jnp.matmul(tap.reshape(-1, tap.shape[-1]).T, flat, preferred_element_type=wide) for tap in taps]
    return jnp.stack(products).reshape(shape).astype(x.dtype)


def _conv_over_batch(x: jax.Array, grads: jax.Array, shape: tuple[int, ...], geometry: Geometry) -> jax.Array:
    """Returns the kernel gradient as a convolution of [C, H, W, B] with the gradients [H', W', B, F]."""
    counts, stride = grads.shape[1:3], geometry.stride
    padding = [
        (low, (count - 1) * stride + k - size - low)  # the last window may end before the padding does
        for size, count, k, (low, _) in zip(x.shape[1:3], counts, shape[:2], geometry.padding, strict=True)
    ]
    gradient = lax.conv_general_dilated(
        x.transpose(3, 1, 2, 0),
        grads.transpose(1, 2, 0, 3),
        (1, 1),
        padding,
        rhs_dilation=(stride, stride),
        dimension_numbers=xla.DIMENSIONS,
    )
    return gradient.transpose(1, 2, 0, 3)


def max_pool(x: jax.Array, *, window: int, geometry: Geometry) -> jax.Array:
    """Returns `ops.max_pool`."""
    stride = geometry.stride
    vertical, horizontal = geometry.padding
    columns = _shifts(x, (window, 1), (stride, 1), (vertical, (0, 0)), fill=-jnp.inf)
    maxima = lax.optimization_barrier(functools.reduce(jnp.maximum, columns))
    return functools.reduce(jnp.maximum, _shifts(maxima, (1, window), (1, stride), ((0, 0), horizontal), fill=-jnp.inf))


def max_pool_with_argmax(x: jax.Array, *, window: int, geometry: Geometry) -> tuple[jax.Array, jax.Array]:
    """Returns the pool, and the index in its window, row by row, of the first maximum."""
    first, *others = _shifts(x, (window, window), geometry.strides, geometry.padding, fill=-jnp.inf)
    pooled, argmax = first, jnp.zeros(first.shape, index_dtype(window))
    for index, tap in enumerate(others, start=1):
        wins = (tap > pooled) | jnp.isnan(tap)
        pooled, argmax = jnp.where(wins, tap, pooled), jnp.where(wins, jnp.array(index, argmax.dtype), argmax)
    return pooled, argmax


def max_pool_gradient(
    x: jax.Array, argmax: jax.Array, grads: jax.Array, *, window: int, geometry: Geometry
) -> jax.Array:
    """Returns the gradient of `max_pool` with respect to x, of which it needs the shape alone."""

    def gradient(rows: _Phase, columns: _Phase) -> jax.Array:
        size, padding = (len(rows.offsets), len(columns.offsets)), (rows.padding, columns.padding)
        indices = [row * window + column for row in rows.offsets for column in columns.offsets]
        chosen = _shifts(argmax, size, (1, 1), padding, fill=-1)
        sent = _shifts(grads, size, (1, 1), padding, fill=0)
        return functools.reduce(
            jnp.add, (jnp.where(a == index, b, 0) for a, b, index in zip(chosen, sent, indices, strict=True))
        )

    return _by_phases(gradient, grads, (window, window), x.shape, geometry)


def _is_empty(*arrays: jax.Array) -> bool:
    """Returns whether an array has no elements: the matmuls and shifts here are not for those."""
    return any(array.size == 0 for array in arrays)


def _is_pointwise(shape: tuple[int, ...], geometry: Geometry) -> bool:
    return shape[:2] == (1, 1) and geometry.groups == 1 and not any(map(any, geometry.padding))


def _is_depthwise(shape: tuple[int, ...], geometry: Geometry) -> bool:
    return geometry.groups > 1 and shape[2] == 1


def _matmul(x: jax.Array, matrix: jax.Array) -> jax.Array:
    return (x.reshape(-1, x.shape[-1]) @ matrix).reshape(*x.shape[:3], -1)


def _depthwise(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """Returns the sum of the shifted inputs times their weights, in float32 or better."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    taps = _shifts(x, kernel.shape[:2], geometry.strides, geometry.padding, fill=0)
    weights = kernel.reshape(-1, 1, 1, 1, kernel.shape[-1])
    return functools.reduce(jnp.add, (tap * weight for tap, weight in zip(taps, weights, strict=True)))


def _shifts(
    x: jax.Array, size: Sequence[int], strides: tuple[int, int], padding: Padding, fill: float
) -> list[jax.Array]:
    """Returns, for each offset in a window, row by row, the pixels there of all windows, [B, H', W', C] each.

    Padding is filled with `fill`.
    """
    edges = [(0, 0, 0), *((low, high, 0) for low, high in padding), (0, 0, 0)]
    if any(map(any, padding)):
        # Without the barrier XLA asks, for each value of each shift, whether it is padding.
        x = lax.optimization_barrier(lax.pad(x, jnp.array(fill, x.dtype), edges))
    counts = [(n - k) // stride + 1 for n, k, stride in zip(x.shape[1:3], size, strides, strict=True)]
    spans = [
        [slice(i, i + max((count - 1) * stride + 1, 0), stride) for i in range(k)]
        for count, k, stride in zip(counts, size, strides, strict=True)
    ]
    return [x[:, rows, columns] for rows in spans[0] for columns in spans[1]]


class _Phase(NamedTuple):
    """The pixels first, first + stride, ... of one axis: which windows read them, and at which offset.

    offsets  of such a pixel in the windows that read it, from the first window to the last
    padding  of the outputs, such that outputs i, i + 1, ... are the windows that read pixel i (may be negative)
    """

    offsets: tuple[int, ...]
    padding: tuple[int, int]


def _phases(size: int, count: int, window: int, stride: int, low: int) -> Iterator[_Phase]:
    """Yields the phases of an axis of `size` pixels that `count` windows read; `low` is the padding before it."""
    pixels = -(-size // stride)
    for first in range(stride):
        skipped, offset = divmod(low + first, stride)
        offsets = tuple(range(offset, window, stride))[::-1]
        yield _Phase(offsets, (len(offsets) - 1 - skipped, pixels + skipped - count))


def _by_phases(
    gradient: Callable[[_Phase, _Phase], jax.Array],
    grads: jax.Array,
    window: Sequence[int],
    shape: tuple[int, ...],
    geometry: Geometry,
) -> jax.Array:
    """Returns the gradient [B, H, W, C], interleaved from those of each phase of rows and of columns."""
    stride = geometry.stride
    rows, columns = (
        list(_phases(size, count, k, stride, low))
        for size, count, k, (low, _) in zip(shape[1:3], grads.shape[1:3], window, geometry.padding, strict=True)
    )
    if stride == 1:
        return gradient(rows[0], columns[0])
    height, width = (-(-size // stride) for size in shape[1:3])
    not_read = jnp.zeros((shape[0], height, width, shape[3]), grads.dtype)
    phases = [[gradient(a, b) if a.offsets and b.offsets else not_read for b in columns] for a in rows]
    together = jnp.stack([jnp.stack(line, 3) for line in phases], 2)
    return together.reshape(shape[0], height * stride, width * stride, shape[3])[:, : shape[1], : shape[2]]
