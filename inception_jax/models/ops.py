"""Convolutions and max pools with their gradients, in the form that the platform runs fastest.

TPUs and GPUs get the operations of XLA. XLA's CPU backend runs some of those slowly, so on CPUs

  1x1 convolutions  are one matmul, and so are their gradients
  k x k             stay XLA's, which sums of matmuls, or im2col and one matmul, do not beat
    kernel gradient   is k * k matmuls of shifted maps, with a shifted copy of the maps for each; of a few channels
                      (images) it is a convolution over the batch
    maps gradient     is one convolution for each phase of the stride
  depthwise         are sums of products of shifted maps, and so are their gradients
  max pools         are maxima along columns, then rows; the gradient reads back which place of each window won

`inception-jax bench ops` times them. The platform is that of the lowering: a program that is lowered for one holds
nothing of the other form. Maps are NHWC, kernels HWIO, borders ((top, bottom), (left, right)).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from inception_jax.models import cpu, xla
from inception_jax.models.xla import Borders as Borders
from inception_jax.models.xla import Geometry


def conv(maps: jax.Array, kernel: jax.Array, stride: int, borders: Borders, groups: int = 1) -> jax.Array:
    """Convolves [B, H, W, C] by [h, w, C / groups, F] -> [B, H', W', F]; both have the same dtype."""
    return _conv(maps, kernel, _geometry(stride, borders, groups))


def conv_maps_gradient(
    grads: jax.Array, kernel: jax.Array, maps_shape: Sequence[int], stride: int, borders: Borders, groups: int = 1
) -> jax.Array:
    """Returns the gradient of `conv` by its maps, from the gradient by its output."""
    shape, geometry = tuple(maps_shape), _geometry(stride, borders, groups)
    return lax.platform_dependent(
        grads,
        kernel,
        cpu=functools.partial(cpu.maps_gradient, shape=shape, geometry=geometry),
        default=functools.partial(xla.maps_gradient, shape=shape, geometry=geometry),
    )


def conv_kernel_gradient(
    maps: jax.Array, grads: jax.Array, kernel_shape: Sequence[int], stride: int, borders: Borders, groups: int = 1
) -> jax.Array:
    """Returns the gradient of `conv` by its kernel, in the dtype of the maps."""
    shape, geometry = tuple(kernel_shape), _geometry(stride, borders, groups)
    return lax.platform_dependent(
        maps,
        grads,
        cpu=functools.partial(cpu.kernel_gradient, shape=shape, geometry=geometry),
        default=functools.partial(xla.kernel_gradient, shape=shape, geometry=geometry),
    )


def max_pool(maps: jax.Array, window: int, stride: int, borders: Borders) -> jax.Array:
    """Takes maxima of windows, [B, H, W, C] -> [B, H', W', C]; borders never win.

    The gradient goes to the first maximum of a window, row by row.
    """
    return _max_pool(maps, window, _geometry(stride, borders))


def _geometry(stride: int, borders: Borders, groups: int = 1) -> Geometry:
    (top, bottom), (left, right) = borders
    return Geometry(stride, ((top, bottom), (left, right)), groups)


# Convolution.


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv(maps: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    return lax.platform_dependent(
        maps,
        kernel,
        cpu=functools.partial(cpu.conv, geometry=geometry),
        default=functools.partial(xla.conv, geometry=geometry),
    )


def _conv_forward(maps: jax.Array, kernel: jax.Array, geometry: Geometry) -> tuple[jax.Array, tuple]:
    return _conv(maps, kernel, geometry), (maps, kernel)


def _conv_backward(geometry: Geometry, saved: tuple, grads: jax.Array) -> tuple[jax.Array, jax.Array]:
    maps, kernel = saved
    return (
        conv_maps_gradient(grads, kernel, maps.shape, *geometry),
        conv_kernel_gradient(maps, grads, kernel.shape, *geometry),
    )


_conv.defvjp(_conv_forward, _conv_backward)


# Max pool.


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _max_pool(maps: jax.Array, window: int, geometry: Geometry) -> jax.Array:
    return lax.platform_dependent(
        maps,
        cpu=functools.partial(cpu.max_pool, window=window, geometry=geometry),
        default=functools.partial(xla.max_pool, window=window, geometry=geometry),
    )


def _max_pool_forward(maps: jax.Array, window: int, geometry: Geometry) -> tuple[jax.Array, tuple]:
    """Saves the maps for XLA and the winners for CPUs; what a platform does not read, its compiler drops."""

    def by_xla(maps: jax.Array) -> tuple[jax.Array, jax.Array]:
        pooled = xla.max_pool(maps, window, geometry)
        return pooled, jnp.zeros_like(pooled, cpu.place_dtype(window))

    on_cpu = functools.partial(cpu.winners, window=window, geometry=geometry)
    pooled, winners = lax.platform_dependent(maps, cpu=on_cpu, default=by_xla)
    return pooled, (maps, winners)


def _max_pool_backward(window: int, geometry: Geometry, saved: tuple, grads: jax.Array) -> tuple[jax.Array]:
    def by_xla(maps: jax.Array, winners: jax.Array, grads: jax.Array) -> jax.Array:
        (gradient,) = jax.vjp(lambda maps: xla.max_pool(maps, window, geometry), maps)[1](grads)
        return gradient

    def on_cpu(maps: jax.Array, winners: jax.Array, grads: jax.Array) -> jax.Array:
        return cpu.max_pool_gradient(winners, grads, window, maps.shape, geometry)

    return (lax.platform_dependent(*saved, grads, cpu=on_cpu, default=by_xla),)


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)
