"""Convolutions and max pools in the forms that XLA's CPU backend runs fast; see `ops` for what each wins."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from inception_jax.ops import cpu_native, xla
from inception_jax.ops.xla import Borders, Geometry

FEW_CHANNELS = 8  # fewer make matmuls too thin


def conv(
    maps: jax.Array, kernel: jax.Array, bias: jax.Array | None = None, *, geometry: Geometry, relu: bool = False
) -> jax.Array:
    if cpu_native.fits(geometry, maps, kernel):
        return cpu_native.conv(maps, kernel, geometry, bias, relu)
    return xla.finish(_convolve(maps, kernel, geometry), bias, relu)


def _convolve(maps: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    if _is_empty(maps, kernel):
        return xla.conv(maps, kernel, geometry=geometry)
    if _is_pointwise(kernel.shape, geometry):
        return _matmul(maps[:, :: geometry.stride, :: geometry.stride], kernel[0, 0])
    if not _is_depthwise(kernel.shape, geometry):
        return xla.conv(maps, kernel, geometry=geometry)
    multiplier = kernel.shape[-1] // maps.shape[-1]
    repeated = jnp.repeat(maps, multiplier, -1) if multiplier > 1 else maps
    return _depthwise(repeated, kernel, geometry).astype(maps.dtype)


def maps_gradient(grads: jax.Array, kernel: jax.Array, shape: tuple[int, ...], geometry: Geometry) -> jax.Array:
    depthwise = _is_depthwise(kernel.shape, geometry)
    fits = cpu_native.fits(geometry, grads, kernel)
    if not fits and (_is_empty(grads, kernel) or 0 in shape):
        return xla.maps_gradient(grads, kernel, shape, geometry)
    if _is_pointwise(kernel.shape, geometry) and not fits:
        rest = [(0, 0, 0)] + [
            (0, size - (count - 1) * geometry.stride - 1, geometry.stride - 1)
            for size, count in zip(shape[1:3], grads.shape[1:3], strict=True)
        ]
        return lax.pad(_matmul(grads, kernel[0, 0].T), jnp.zeros((), grads.dtype), [*rest, (0, 0, 0)])
    if geometry.groups > 1 and not depthwise:
        return xla.maps_gradient(grads, kernel, shape, geometry)

    def gradient(rows: _Phase, columns: _Phase) -> jax.Array:
        part = kernel[rows.places[-1] :: geometry.stride, columns.places[-1] :: geometry.stride][::-1, ::-1]
        one = Geometry(1, (rows.borders, columns.borders), 1, geometry.native)
        if not depthwise:
            return conv(grads, part.swapaxes(2, 3), geometry=one)
        products = _depthwise(grads, part, one)
        return products.reshape(*products.shape[:3], shape[-1], -1).sum(-1).astype(grads.dtype)

    return _by_phases(gradient, grads, kernel.shape[:2], shape, geometry)


def kernel_gradient(maps: jax.Array, grads: jax.Array, shape: tuple[int, ...], geometry: Geometry) -> jax.Array:
    wide = jnp.promote_types(maps.dtype, jnp.float32)
    if _is_empty(maps, grads) and not cpu_native.fits(geometry, maps, grads):
        return xla.kernel_gradient(maps, grads, shape, geometry)
    if _is_depthwise(shape, geometry):
        taps = _shifts(maps, shape[:2], geometry.strides, geometry.borders, fill=0)
        multiplier = shape[-1] // maps.shape[-1]
        grads = grads.astype(wide).reshape(*grads.shape[:3], -1, multiplier)
        return jnp.stack([(tap[..., None] * grads).sum((0, 1, 2)) for tap in taps]).reshape(shape).astype(maps.dtype)
    if cpu_native.fits(geometry, maps, grads):
        return cpu_native.kernel_gradient(maps, grads, shape, geometry)
    if geometry.groups > 1:
        return xla.kernel_gradient(maps, grads, shape, geometry)
    if maps.shape[-1] < FEW_CHANNELS:
        return _conv_over_batch(maps, grads, shape, geometry)
    flat = grads.reshape(-1, grads.shape[-1])
    products = [
        jnp.matmul(tap.reshape(-1, tap.shape[-1]).T, flat, preferred_element_type=wide)
        for tap in _shifts(maps, shape[:2], geometry.strides, geometry.borders, fill=0)
    ]
    return jnp.stack(products).reshape(shape).astype(maps.dtype)


def _conv_over_batch(maps: jax.Array, grads: jax.Array, shape: tuple[int, ...], geometry: Geometry) -> jax.Array:
    """Returns the kernel gradient as a convolution of [C, H, W, B] by the gradients [H', W', B, F]."""
    counts, stride = grads.shape[1:3], geometry.stride
    borders = [
        (low, (count - 1) * stride + k - size - low)  # windows end before the border where the stride leaves a rest
        for size, count, k, (low, _) in zip(maps.shape[1:3], counts, shape[:2], geometry.borders, strict=True)
    ]
    gradient = lax.conv_general_dilated(
        maps.transpose(3, 1, 2, 0),
        grads.transpose(1, 2, 0, 3),
        (1, 1),
        borders,
        rhs_dilation=(stride, stride),
        dimension_numbers=xla.DIMENSIONS,
    )
    return gradient.transpose(1, 2, 0, 3)


def max_pool(maps: jax.Array, window: int, geometry: Geometry) -> jax.Array:
    if cpu_native.fits(geometry, maps):
        return cpu_native.max_pool(maps, window, geometry)
    stride = geometry.stride
    vertical, horizontal = geometry.borders
    columns = _shifts(maps, (window, 1), (stride, 1), (vertical, (0, 0)), fill=-jnp.inf)
    maxima = lax.optimization_barrier(functools.reduce(jnp.maximum, columns))
    return functools.reduce(jnp.maximum, _shifts(maxima, (1, window), (1, stride), ((0, 0), horizontal), fill=-jnp.inf))


def winners(maps: jax.Array, window: int, geometry: Geometry) -> tuple[jax.Array, jax.Array]:
    """Returns the pooled maps, and the place of the first maximum in its window, row by row."""
    if cpu_native.fits(geometry, maps) and place_dtype(window) == jnp.int8:
        return cpu_native.winners(maps, window, geometry)
    first, *rest = _shifts(maps, (window, window), geometry.strides, geometry.borders, fill=-jnp.inf)
    pooled, winners = first, jnp.zeros(first.shape, place_dtype(window))
    for place, tap in enumerate(rest, start=1):
        wins = (tap > pooled) | jnp.isnan(tap)
        pooled, winners = jnp.where(wins, tap, pooled), jnp.where(wins, jnp.array(place, winners.dtype), winners)
    return pooled, winners


def max_pool_gradient(
    winners: jax.Array, grads: jax.Array, window: int, shape: tuple[int, ...], geometry: Geometry
) -> jax.Array:
    if cpu_native.fits(geometry, grads) and winners.dtype == jnp.int8:
        return cpu_native.max_pool_gradient(winners, grads, window, shape, geometry)

    def gradient(rows: _Phase, columns: _Phase) -> jax.Array:
        size, borders = (len(rows.places), len(columns.places)), (rows.borders, columns.borders)
        places = [row * window + column for row in rows.places for column in columns.places]
        won = _shifts(winners, size, (1, 1), borders, fill=-1)
        sent = _shifts(grads, size, (1, 1), borders, fill=0)
        return functools.reduce(
            jnp.add, (jnp.where(a == place, b, 0) for a, b, place in zip(won, sent, places, strict=True))
        )

    return _by_phases(gradient, grads, (window, window), shape, geometry)


def _is_empty(*arrays: jax.Array) -> bool:
    """Returns whether one has no elements: what a matmul or a shift of it is, does not follow from its size."""
    return any(array.size == 0 for array in arrays)


def _is_pointwise(shape: tuple[int, ...], geometry: Geometry) -> bool:
    return shape[:2] == (1, 1) and geometry.groups == 1 and not any(map(any, geometry.borders))


def _is_depthwise(shape: tuple[int, ...], geometry: Geometry) -> bool:
    return geometry.groups > 1 and shape[2] == 1


def _matmul(maps: jax.Array, matrix: jax.Array) -> jax.Array:
    return (maps.reshape(-1, maps.shape[-1]) @ matrix).reshape(*maps.shape[:3], -1)


def _depthwise(maps: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """Returns the sum of the shifted maps times their weights, in float32 or better."""
    maps = maps.astype(jnp.promote_types(maps.dtype, jnp.float32))
    taps = _shifts(maps, kernel.shape[:2], geometry.strides, geometry.borders, fill=0)
    weights = kernel.reshape(-1, 1, 1, 1, kernel.shape[-1])
    return functools.reduce(jnp.add, (tap * weight for tap, weight in zip(taps, weights, strict=True)))


def place_dtype(window: int) -> type:
    return jnp.int8 if window * window < 128 else jnp.int32


def _shifts(
    maps: jax.Array, size: Sequence[int], strides: tuple[int, int], borders: Borders, fill: float
) -> list[jax.Array]:
    """Returns what each place of the windows sees, [B, H', W', C] each, row by row; borders are `fill`."""
    edges = [(0, 0, 0), *((low, high, 0) for low, high in borders), (0, 0, 0)]
    if any(map(any, borders)):
        # The barrier keeps XLA from asking of each value of each shift whether it is in the border.
        maps = lax.optimization_barrier(lax.pad(maps, jnp.array(fill, maps.dtype), edges))
    counts = [(n - k) // stride + 1 for n, k, stride in zip(maps.shape[1:3], size, strides, strict=True)]
    spans = [
        [slice(i, i + max((count - 1) * stride + 1, 0), stride) for i in range(k)]
        for count, k, stride in zip(counts, size, strides, strict=True)
    ]
    return [maps[:, rows, columns] for rows in spans[0] for columns in spans[1]]


class _Phase(NamedTuple):
    """The pixels at first, first + stride, ... of one axis: which windows see them, and where.

    places   in the windows that see a pixel, of the first window to the last
    borders  around the outputs, for which the windows of pixel i are the outputs i, i + 1, ... (may be negative)
    """

    places: tuple[int, ...]
    borders: tuple[int, int]


def _phases(size: int, count: int, window: int, stride: int, low: int) -> Iterator[_Phase]:
    """Yields the phases of an axis of `size` pixels that `count` windows see."""
    pixels = -(-size // stride)
    for first in range(stride):
        skipped, place = divmod(low + first, stride)
        places = tuple(range(place, window, stride))[::-1]
        yield _Phase(places, (len(places) - 1 - skipped, pixels + skipped - count))


def _by_phases(
    gradient: Callable[[_Phase, _Phase], jax.Array],
    grads: jax.Array,
    window: Sequence[int],
    shape: tuple[int, ...],
    geometry: Geometry,
) -> jax.Array:
    """Returns gradients [B, H, W, C] put together from those of each phase of rows and columns."""
    stride = geometry.stride
    rows, columns = (
        list(_phases(size, count, k, stride, low))
        for size, count, k, (low, _) in zip(shape[1:3], grads.shape[1:3], window, geometry.borders, strict=True)
    )
    if stride == 1:
        return gradient(rows[0], columns[0])
    height, width = (-(-size // stride) for size in shape[1:3])
    unseen = jnp.zeros((shape[0], height, width, shape[3]), grads.dtype)
    parts = [[gradient(a, b) if a.places and b.places else unseen for b in columns] for a in rows]
    together = jnp.stack([jnp.stack(line, 3) for line in parts], 2)
    return together.reshape(shape[0], height * stride, width * stride, shape[3])[:, : shape[1], : shape[2]]
