"""Convolutions and pools of NHWC maps."""

from __future__ import annotations

import jax

Borders = tuple[tuple[int, int], tuple[int, int]]


def conv(maps: jax.Array, kernel: jax.Array, stride: int, borders: Borders, groups: int = 1) -> jax.Array:
    """Convolution [B, H, W, C] -> [B, H', W', features]."""
    return jax.lax.conv_general_dilated(
        maps,
        kernel,
        (stride, stride),
        borders,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def conv_maps_gradient(grads, kernel, maps_shape, stride, borders, groups=1):
    shape = jax.ShapeDtypeStruct(maps_shape, grads.dtype)
    return jax.linear_transpose(lambda maps: conv(maps, kernel, stride, borders, groups), shape)(grads)[0]


def conv_kernel_gradient(maps, grads, kernel_shape, stride, borders, groups=1):
    shape = jax.ShapeDtypeStruct(kernel_shape, maps.dtype)
    return jax.linear_transpose(lambda kernel: conv(maps, kernel, stride, borders, groups), shape)(grads)[0]


def max_pool(maps, window, stride, borders):
    return jax.lax.reduce_window(
        maps, -float("inf"), jax.lax.max, (1, window, window, 1), (1, stride, stride, 1), ((0, 0), *borders, (0, 0))
    )
