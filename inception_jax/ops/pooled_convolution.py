"""1x1 convolutions of 3x3 max pools of stride 1, by the kernels of `tpu`: what a unit of the family needs of them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from inception_jax.ops import convolution_and_pool, deferred_norm, tpu_pallas
from inception_jax.ops.deferred_norm import Pending
from inception_jax.ops.derivatives import Operation

POOL = 3, 1, ((1, 1), (1, 1))  # window, stride, borders


def conv(relu: bool, parts: Sequence[jax.Array], kernel: jax.Array, bias: jax.Array | None) -> jax.Array:
    """Returns the convolution of the pool of maps. Its gradients are XLA's.

    Args:
      relu: whether a ReLU ends it.
      parts: the maps, some channels each; they fit the kernels.
      kernel, bias: of their dtype.
    """
    return _conv(relu, parts, kernel, bias)


def _conv_plain(relu, parts, kernel, bias):
    pool = convolution_and_pool.max_pool(jnp.concatenate(parts, axis=-1), *POOL)
    return convolution_and_pool.conv(pool, kernel, 1, convolution_and_pool.NO_BORDERS, bias=bias, relu=relu)


def _conv_forward(relu, *args):
    return _conv(relu, *args), None


def _conv_backward(relu, args, _, grads):
    return jax.vjp(functools.partial(_conv_plain, relu), *args)[1](grads)


_conv = Operation(
    fast=lambda relu, parts, kernel, bias: tpu_pallas.conv(parts, kernel, bias, relu=relu),
    plain=_conv_plain,
    images=(True, False, False),
    forward=_conv_forward,
    backward=_conv_backward,
)


def conv_moments(
    group_size: int, maps: Pending, kernel: jax.Array, bias: jax.Array | None, origin: jax.Array
) -> tuple[Pending, tuple[jax.Array, jax.Array, jax.Array]]:
    """Returns the maps, and `pending.conv_moments` of their pool.

    Whoever else reads the maps is to read those returned: then all gradients by them are added up where the pool's is
    made.

    Args:
      group_size, kernel, bias, origin: see there.
      maps: that wait for a ReLU, too, and fit the kernels.
    """
    return _conv_moments(group_size, maps, kernel, bias, origin)


def _moments_fast(group_size, maps, kernel, bias, origin):
    features = tpu_pallas.conv([maps.maps], kernel.astype(maps.maps.dtype), bias, deferred_norm.norm(maps))
    geometry = convolution_and_pool.geometry(1, convolution_and_pool.NO_BORDERS)
    return maps, (features, *deferred_norm.mean_and_variance(features, origin, group_size, geometry))


def _moments_plain(group_size, maps, kernel, bias, origin):
    features = _features_plain(maps, kernel, bias)
    return maps, (features, *deferred_norm.plain_mean_and_variance(features, group_size))


def _features_plain(maps, kernel, bias):
    pool = deferred_norm.settle(deferred_norm.max_pool(maps, *POOL))
    features = convolution_and_pool.conv(pool, kernel.astype(pool.dtype), 1, convolution_and_pool.NO_BORDERS)
    return features if bias is None else features + jnp.expand_dims(bias, (0, 1, 2)).astype(features.dtype)


def _moments_forward(group_size, *args):
    maps, made = _conv_moments(group_size, *args)
    return (maps, made), made


def _moments_backward(group_size, args, made, cotangents):
    (maps, kernel, bias, origin), (features, *moments) = args, made
    others, (grads, *moments_grads) = cotangents
    grads = deferred_norm.through_moments(features, grads, (*moments, *moments_grads))
    bias_grad = None if bias is None else grads.sum((0, 1, 2), dtype=bias.dtype)
    by_pending, by_kernel = _gradients(None, maps, kernel, grads, others)
    return by_pending, by_kernel, bias_grad, jnp.zeros_like(origin)


_conv_moments = Operation(
    _moments_fast, _moments_plain, (True, False, False, False), _moments_forward, _moments_backward
)


def _gradients_fast(_, maps, kernel, grads, others):
    """Returns the gradients by maps, what others sent back added, and by the kernel."""
    kernel_in_dtype = kernel.astype(maps.maps.dtype)
    by_maps, by_kernel, by_norm = tpu_pallas.gradients(
        maps.maps, kernel_in_dtype, deferred_norm.norm(maps), grads, others.maps
    )
    by_mean, by_scale, by_bias = (
        other + own.reshape(other.shape).astype(other.dtype)
        for other, own in zip((others.mean, others.scale, others.bias), by_norm, strict=True)
    )
    by_pending = dataclasses.replace(others, maps=by_maps, mean=by_mean, scale=by_scale, bias=by_bias)
    return by_pending, by_kernel.astype(kernel.dtype)


def _gradients_plain(_, maps, kernel, grads, others):
    by_pending, by_kernel = jax.vjp(lambda maps, kernel: _features_plain(maps, kernel, None), maps, kernel)[1](grads)
    return jax.tree.map(jnp.add, by_pending, others), by_kernel


_gradients = Operation(_gradients_fast, _gradients_plain)
