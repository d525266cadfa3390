"""XLA's own convolution and max pool, and their gradients: the form for TPUs and GPUs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from inception_jax.ops.derivatives import described

Borders = Sequence[tuple[int, int]]
"""(top, bottom), (left, right)."""

DIMENSIONS = ("NHWC", "HWIO", "NHWC")


class Geometry(NamedTuple):
    """Of a convolution or a pool; groups are of channels; native: CPUs may use `native`."""

    stride: int
    borders: tuple[tuple[int, int], ...]
    groups: int
    native: bool = False

    @property
    def strides(self) -> tuple[int, int]:
        return self.stride, self.stride


def conv(
    maps: jax.Array, kernel: jax.Array, bias: jax.Array | None = None, *, geometry: Geometry, relu: bool = False
) -> jax.Array:
    """Returns `ops.conv`."""
    made = lax.conv_general_dilated(
        maps,
        kernel,
        (geometry.stride, geometry.stride),
        geometry.borders,
        dimension_numbers=DIMENSIONS,
        feature_group_count=geometry.groups,
    )
    return finish(made, bias, relu)


def finish(made: jax.Array, bias: jax.Array | None, relu: bool) -> jax.Array:
    """Returns what follows a convolution: its bias, and its ReLU."""
    made = made if bias is None else made + jnp.expand_dims(bias, (0, 1, 2))
    return jax.nn.relu(made) if relu else made


def maps_gradient(grads: jax.Array, kernel: jax.Array, shape: tuple[int, ...], geometry: Geometry) -> jax.Array:
    """Returns the gradient of `conv` by its maps, which have this shape."""
    maps = described(shape, grads.dtype, grads, kernel)
    (gradient,) = jax.linear_transpose(lambda maps: conv(maps, kernel, geometry=geometry), maps)(grads)
    return gradient


def kernel_gradient(maps: jax.Array, grads: jax.Array, shape: tuple[int, ...], geometry: Geometry) -> jax.Array:
    """Returns the gradient of `conv` by its kernel, which has this shape."""
    kernel = described(shape, maps.dtype, maps, grads)
    (gradient,) = jax.linear_transpose(lambda kernel: conv(maps, kernel, geometry=geometry), kernel)(grads)
    return gradient


def max_pool(maps: jax.Array, window: int, geometry: Geometry) -> jax.Array:
    """Returns `ops.max_pool`."""
    size, strides = (1, window, window, 1), (1, geometry.stride, geometry.stride, 1)
    return lax.reduce_window(maps, -jnp.inf, lax.max, size, strides, ((0, 0), *geometry.borders, (0, 0)))
