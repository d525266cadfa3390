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

from inception_jax.ops import cpu_native, cpu_xla, platforms, xla
from inception_jax.ops.derivatives import Operation
from inception_jax.ops.xla import Borders as Borders
from inception_jax.ops.xla import Geometry as Geometry

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
    return _conv((geometry(stride, borders, groups), relu), maps, kernel, bias)


def max_pool(maps: jax.Array, window: int, stride: int, borders: Borders) -> jax.Array:
    """Takes maxima of windows, [B, H, W, C] -> [B, H', W', C]; borders never win.

    The gradient goes to the first maximum of a window, row by row.
    """
    return _max_pool((window, geometry(stride, borders)), maps)


def geometry(stride: int, borders: Borders, groups: int = 1) -> Geometry:
    """Returns what the forms of an operation are told of it."""
    (top, bottom), (left, right) = borders
    return Geometry(stride, ((top, bottom), (left, right)), groups, cpu_native.is_wanted())


def _by_platform(on_cpu: Callable, elsewhere: Callable, *arrays: jax.Array | None, **facts: Any) -> jax.Array:
    return platforms.pick(
        *arrays, cpu=functools.partial(on_cpu, **facts), default=functools.partial(elsewhere, **facts)
    )


# Convolution. Statics are (geometry, relu), or a geometry and the shape of a gradient without its images.


def _conv_forward(statics, maps, kernel, bias):
    made = _conv(statics, maps, kernel, bias)
    return made, made if statics[1] else None


def _conv_backward(statics, args, made, grads):
    (geometry, relu), (maps, kernel, bias) = statics, args
    grads = jnp.where(made > 0, grads, 0) if relu else grads
    return (
        maps_gradient(grads, kernel, maps.shape, geometry),
        kernel_gradient(maps, grads, kernel.shape, geometry),
        None if bias is None else grads.sum((0, 1, 2)),
    )


_conv = Operation(
    fast=lambda statics, *arrays: _by_platform(cpu_xla.conv, xla.conv, *arrays, geometry=statics[0], relu=statics[1]),
    plain=lambda statics, *arrays: xla.conv(*arrays, geometry=statics[0], relu=statics[1]),
    images=(True, False, False),
    forward=_conv_forward,
    backward=_conv_backward,
)


def forward(maps: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """Returns `conv` of a geometry."""
    return _conv((geometry, False), maps, kernel, None)


def maps_gradient(grads: jax.Array, kernel: jax.Array, shape: tuple[int, ...], geometry: Geometry) -> jax.Array:
    """Returns the gradient of a convolution by its maps, which have this shape, from that by its output."""
    return _maps_gradient((geometry, shape[1:]), grads, kernel)


_maps_gradient = Operation(
    fast=lambda statics, grads, kernel: _by_platform(
        cpu_xla.maps_gradient,
        xla.maps_gradient,
        grads,
        kernel,
        shape=(grads.shape[0], *statics[1]),
        geometry=statics[0],
    ),
    plain=lambda statics, grads, kernel: xla.maps_gradient(grads, kernel, (grads.shape[0], *statics[1]), statics[0]),
    images=(True, False),
)


def kernel_gradient(maps: jax.Array, grads: jax.Array, shape: tuple[int, ...], geometry: Geometry) -> jax.Array:
    """Returns the gradient of a convolution by its kernel, which has this shape, in the dtype of the maps."""
    return _kernel_gradient((geometry, shape), maps, grads)


_kernel_gradient = Operation(
    fast=lambda statics, maps, grads: _by_platform(
        cpu_xla.kernel_gradient, xla.kernel_gradient, maps, grads, shape=statics[1], geometry=statics[0]
    ),
    plain=lambda statics, maps, grads: xla.kernel_gradient(maps, grads, statics[1], statics[0]),
)


# Max pool. Statics are (window, geometry).


def _with_winners(statics, maps):
    """Returns the pool and, on CPUs, its argmax indices; elsewhere zeros, which nothing reads."""
    window, geometry = statics

    def by_xla(maps):
        pooled = xla.max_pool(maps, window, geometry)
        return pooled, jnp.zeros_like(pooled, cpu_xla.place_dtype(window))

    on_cpu = functools.partial(cpu_xla.winners, window=window, geometry=geometry)
    return platforms.pick(maps, cpu=on_cpu, default=by_xla)


def _pool_forward(statics, maps):
    """Saves the maps for XLA and the argmax indices for CPUs; what a platform does not read, its compiler drops."""
    return _winners(statics, maps)


def _pool_backward(statics, args, winners, grads):
    return (_pool_gradient(statics, *args, winners, grads),)


def _winners_plain(statics, maps):
    """Has a derivative that CPUs run faster than that of XLA's max pool."""
    return _with_winners((statics[0], statics[1]._replace(native=False)), maps)


def _pool_plain(statics, maps):
    return _winners_plain(statics, maps)[0]


def _winners_forward(statics, maps):
    pooled, winners = _winners(statics, maps)
    return (pooled, winners), winners


def _winners_backward(statics, args, winners, grads):
    return _pool_backward(statics, args, winners, grads[0])


def _pool_gradient_fast(statics, maps, winners, grads):
    window, geometry = statics

    def by_xla(maps, winners, grads):
        (gradient,) = jax.vjp(lambda maps: xla.max_pool(maps, window, geometry), maps)[1](grads)
        return gradient

    def on_cpu(maps, winners, grads):
        return cpu_xla.max_pool_gradient(winners, grads, window, maps.shape, geometry)

    return platforms.pick(maps, winners, grads, cpu=on_cpu, default=by_xla)


def _pool_gradient_plain(statics, maps, winners, grads):
    (gradient,) = jax.vjp(functools.partial(_pool_plain, statics), maps)[1](grads)
    return gradient


_max_pool = Operation(
    fast=lambda statics, maps: _by_platform(
        cpu_xla.max_pool, xla.max_pool, maps, window=statics[0], geometry=statics[1]
    ),
    plain=_pool_plain,
    images=(True,),
    forward=_pool_forward,
    backward=_pool_backward,
)
_winners = Operation(_with_winners, _winners_plain, (True,), _winners_forward, _winners_backward)
_pool_gradient = Operation(_pool_gradient_fast, _pool_gradient_plain, (True, True, True))
