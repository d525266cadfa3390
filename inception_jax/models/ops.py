"""Convolutions and max pools with their gradients, in the form that the platform runs fastest.

TPUs and GPUs get the operations of XLA. XLA's CPU backend runs some of those slowly, so there float32 gets the kernels
of `native`, and other dtypes, exported programs and installations without a C++ compiler get

  1x1 convolutions  one matmul, and so are their gradients
  k x k             XLA's, which sums of matmuls, or im2col and one matmul, do not beat
    kernel gradient   k * k matmuls of shifted maps, with a shifted copy of the maps for each; of a few channels
                      (images) it is a convolution over the batch
    maps gradient     one convolution for each phase of the stride
  depthwise         sums of products of shifted maps, and so are their gradients (in float32, too)
  max pools         maxima along columns, then rows; the gradient reads back which place of each window won

`inception-jax bench ops` times them. The platform is that of the lowering: a program that is lowered for one holds
nothing of the other form. Maps are NHWC, kernels HWIO, borders ((top, bottom), (left, right)).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from inception_jax.models import cpu, native, platforms, xla
from inception_jax.models.xla import Borders as Borders
from inception_jax.models.xla import Geometry as Geometry

NO_BORDERS: Borders = ((0, 0), (0, 0))


def conv(
    maps: jax.Array,
    kernel: jax.Array,
    stride: int,
    borders: Borders,
    groups: int = 1,
    bias: jax.Array | None = None,
    relu: bool = False,
) -> jax.Array:
    """Convolves [B, H, W, C] by [h, w, C / groups, F] -> [B, H', W', F], adds a bias [F], ends in a ReLU if asked to.

    Maps, kernel and bias have the same dtype.
    """
    return _conv(geometry(stride, borders, groups), relu, maps, kernel, bias)


def max_pool(maps: jax.Array, window: int, stride: int, borders: Borders) -> jax.Array:
    """Takes maxima of windows, [B, H, W, C] -> [B, H', W', C]; borders never win.

    The gradient goes to the first maximum of a window, row by row.
    """
    return _max_pool(maps, window, geometry(stride, borders))


def geometry(stride: int, borders: Borders, groups: int = 1) -> Geometry:
    """Returns what the forms of an operation are told of it."""
    (top, bottom), (left, right) = borders
    return Geometry(stride, ((top, bottom), (left, right)), groups, native.is_wanted())


def _by_platform(on_cpu: Callable, elsewhere: Callable, *arrays: jax.Array | None, **facts: Any) -> jax.Array:
    return platforms.pick(
        *arrays, cpu=functools.partial(on_cpu, **facts), default=functools.partial(elsewhere, **facts)
    )


# Convolution.


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _conv(geometry: Geometry, relu: bool, maps: jax.Array, kernel: jax.Array, bias: jax.Array | None) -> jax.Array:
    return forward(maps, kernel, geometry, bias, relu)


def _conv_forward(geometry, relu, maps, kernel, bias):
    made = _conv(geometry, relu, maps, kernel, bias)
    return made, (maps, kernel, bias, made if relu else None)


def _conv_backward(geometry, relu, saved, grads):
    maps, kernel, bias, made = saved
    grads = jnp.where(made > 0, grads, 0) if relu else grads
    return (
        maps_gradient(grads, kernel, maps.shape, geometry),
        kernel_gradient(maps, grads, kernel.shape, geometry),
        None if bias is None else grads.sum((0, 1, 2)),
    )


_conv.defvjp(_conv_forward, _conv_backward)


def forward(
    maps: jax.Array, kernel: jax.Array, geometry: Geometry, bias: jax.Array | None = None, relu: bool = False
) -> jax.Array:
    """Returns `conv`; it has no gradient."""
    return _by_platform(cpu.conv, xla.conv, maps, kernel, bias, geometry=geometry, relu=relu)


def maps_gradient(grads: jax.Array, kernel: jax.Array, shape: tuple[int, ...], geometry: Geometry) -> jax.Array:
    """Returns the gradient of a convolution by its maps, which have this shape, from that by its output."""
    return _by_platform(cpu.maps_gradient, xla.maps_gradient, grads, kernel, shape=shape, geometry=geometry)


def kernel_gradient(maps: jax.Array, grads: jax.Array, shape: tuple[int, ...], geometry: Geometry) -> jax.Array:
    """Returns the gradient of a convolution by its kernel, which has this shape, in the dtype of the maps."""
    return _by_platform(cpu.kernel_gradient, xla.kernel_gradient, maps, grads, shape=shape, geometry=geometry)


# Max pool.


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _max_pool(maps: jax.Array, window: int, geometry: Geometry) -> jax.Array:
    return _by_platform(cpu.max_pool, xla.max_pool, maps, window=window, geometry=geometry)


def _max_pool_forward(maps: jax.Array, window: int, geometry: Geometry) -> tuple[jax.Array, tuple]:
    """Saves the maps for XLA and the winners for CPUs; what a platform does not read, its compiler drops."""

    def by_xla(maps: jax.Array) -> tuple[jax.Array, jax.Array]:
        pooled = xla.max_pool(maps, window, geometry)
        return pooled, jnp.zeros_like(pooled, cpu.place_dtype(window))

    on_cpu = functools.partial(cpu.winners, window=window, geometry=geometry)
    pooled, winners = platforms.pick(maps, cpu=on_cpu, default=by_xla)
    return pooled, (maps, winners)


def _max_pool_backward(window: int, geometry: Geometry, saved: tuple, grads: jax.Array) -> tuple[jax.Array]:
    def by_xla(maps: jax.Array, winners: jax.Array, grads: jax.Array) -> jax.Array:
        (gradient,) = jax.vjp(lambda maps: xla.max_pool(maps, window, geometry), maps)[1](grads)
        return gradient

    def on_cpu(maps: jax.Array, winners: jax.Array, grads: jax.Array) -> jax.Array:
        return cpu.max_pool_gradient(winners, grads, window, maps.shape, geometry)

    return (platforms.pick(*saved, grads, cpu=on_cpu, default=by_xla),)


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)
