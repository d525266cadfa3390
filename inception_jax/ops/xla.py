"""XLA's own convolution and max pool, and their gradients: the reference, and the implementation on GPUs and TPUs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from inception_jax.ops.derivatives import described

Padding = Sequence[tuple[int, int]]
"""(top, bottom), (left, right)."""

DIMENSIONS = ("NHWC", "HWIO", "NHWC")


class Geometry(NamedTuple):
    """Stride, padding and groups of a convolution or a pool, and whether CPUs may run it by a native op."""

    stride: int
    padding: tuple[tuple[int, int], ...]
    groups: int  # of channels
    native: bool = False

    @property
    def strides(self) -> tuple[int, int]:
        return self.stride, self.stride

    def out_size(self, size: int, window: int, axis: int) -> int:
        """Returns how many windows fit into `size` pixels and their padding; axis 0 is the height, 1 the width."""
        return max((size + sum(self.padding[axis]) - window) // self.stride + 1, 0)


def conv(
    x: jax.Array, kernel: jax.Array, bias: jax.Array | None = None, *, geometry: Geometry, relu: bool = False
) -> jax.Array:
    """Returns `ops.conv`."""
    output = lax.conv_general_dilated(
        x,
        kernel,
        geometry.strides,
        geometry.padding,
        dimension_numbers=DIMENSIONS,
        feature_group_count=geometry.groups,
    )
    return add_bias_and_relu(output, bias, relu)


def add_bias_and_relu(x: jax.Array, bias: jax.Array | None, relu: bool) -> jax.Array:
    """Returns x plus a bias, if there is one, through a ReLU if asked to."""
    x = x if bias is None else x + jnp.expand_dims(bias, (0, 1, 2))
    return jax.nn.relu(x) if relu else x


def input_gradient(grads: jax.Array, kernel: jax.Array, *, shape: tuple[int, ...], geometry: Geometry) -> jax.Array:
    """Returns the gradient of `conv` with respect to its input, which has this shape."""
    x = described(shape, grads.dtype, grads, kernel)
    (gradient,) = jax.linear_transpose(lambda x: conv(x, kernel, geometry=geometry), x)(grads)
    return gradient


def kernel_gradient(x: jax.Array, grads: jax.Array, *, shape: tuple[int, ...], geometry: Geometry) -> jax.Array:
    """Returns the gradient of `conv` with respect to its kernel, which has this shape."""
    kernel = described(shape, x.dtype, x, grads)
    (gradient,) = jax.linear_transpose(lambda kernel: conv(x, kernel, geometry=geometry), kernel)(grads)
    return gradient


def max_pool(x: jax.Array, *, window: int, geometry: Geometry) -> jax.Array:
    """Returns `ops.max_pool`."""
    size, strides = (1, window, window, 1), (1, geometry.stride, geometry.stride, 1)
    return lax.reduce_window(x, -jnp.inf, lax.max, size, strides, ((0, 0), *geometry.padding, (0, 0)))


def max_pool_with_argmax(x: jax.Array, *, window: int, geometry: Geometry) -> tuple[jax.Array, jax.Array]:
    """Returns the pool, and zeros in place of the argmax indices, which `max_pool_gradient` does not read."""
    pooled = max_pool(x, window=window, geometry=geometry)
    return pooled, jnp.zeros_like(pooled, index_dtype(window))


def max_pool_gradient(
    x: jax.Array, argmax: jax.Array, grads: jax.Array, *, window: int, geometry: Geometry
) -> jax.Array:
    """Returns the gradient of `max_pool` with respect to x."""
    (gradient,) = jax.vjp(lambda x: max_pool(x, window=window, geometry=geometry), x)[1](grads)
    return gradient


def index_dtype(window: int) -> type:
    """Returns the smallest dtype that counts the pixels of a window: that of argmax indices."""
    return jnp.int8 if window * window < 128 else jnp.int32
