"""1x1 convolutions of 3x3 max pools of stride 1, by the kernels of `tpu`: what a unit of the family needs of them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from inception_jax.models import ops, pending, tpu
from inception_jax.models.pending import Pending

POOL = 3, 1, ((1, 1), (1, 1))  # window, stride, borders


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def conv(relu: bool, parts: Sequence[jax.Array], kernel: jax.Array, bias: jax.Array | None) -> jax.Array:
    """Returns the convolution of the pool of maps. Its gradients are XLA's.

    Args:
      relu: whether a ReLU ends it.
      parts: the maps, some channels each; they fit the kernels.
      kernel, bias: of their dtype.
    """
    return tpu.conv(parts, kernel, bias, relu=relu)


def _conv_forward(relu, parts, kernel, bias):
    return conv(relu, parts, kernel, bias), (parts, kernel, bias)


def _conv_backward(relu, saved, grads):
    def plain(parts, kernel, bias):
        pool = ops.max_pool(jnp.concatenate(parts, axis=-1), *POOL)
        return ops.conv(pool, kernel, 1, ops.NO_BORDERS, bias=bias, relu=relu)

    return jax.vjp(plain, *saved)[1](grads)


conv.defvjp(_conv_forward, _conv_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
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
    features = tpu.conv([maps.maps], kernel.astype(maps.maps.dtype), bias, pending.norm(maps))
    groups = len(features) // group_size
    return maps, (features, *pending.mean_and_variance(features, origin, groups, ops.geometry(1, ops.NO_BORDERS)))


def _moments_forward(group_size, maps, kernel, bias, origin):
    maps, made = conv_moments(group_size, maps, kernel, bias, origin)
    return (maps, made), (maps, kernel, bias, origin, made)


def _moments_backward(group_size, saved, cotangents):
    maps, kernel, bias, origin, (features, *moments) = saved
    others, (grads, *moments_grads) = cotangents
    grads = pending.through_moments(features, grads, (*moments, *moments_grads))
    bias_grad = None if bias is None else grads.sum((0, 1, 2), dtype=bias.dtype)
    kernel_in_dtype = kernel.astype(maps.maps.dtype)
    by_maps, by_kernel, by_norm = tpu.gradients(maps.maps, kernel_in_dtype, pending.norm(maps), grads, others.maps)
    by_mean, by_scale, by_bias = (
        other + own.reshape(other.shape).astype(other.dtype)
        for other, own in zip((others.mean, others.scale, others.bias), by_norm, strict=True)
    )
    by_pending = dataclasses.replace(others, maps=by_maps, mean=by_mean, scale=by_scale, bias=by_bias)
    return by_pending, by_kernel.astype(kernel.dtype), bias_grad, jnp.zeros_like(origin)


conv_moments.defvjp(_moments_forward, _moments_backward)
