"""A 1x1 convolution of a 3x3 max pool of stride 1, as one Pallas kernel on TPUs: a block's pool branch."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from inception_jax.ops import convolution_and_pool, deferred_norm, tpu_pallas
from inception_jax.ops.convolution_and_pool import NO_PADDING
from inception_jax.ops.deferred_norm import Activations, DeferredNorm
from inception_jax.ops.derivatives import Operation
from inception_jax.ops.implementation import Implementation, pallas_device

POOL = 3, 1, ((1, 1), (1, 1))  # window, stride, padding


def runs_fused(x: Activations, features: int, dtype: Any, train: bool, implementation: Implementation) -> bool:
    """Returns whether a Pallas kernel runs the pool and the convolution.

    Args:
      x: what the pool reads; in training its norm and ReLU are deferred, in evaluation there is none.
      features, dtype: of the convolution.
      train: whether batch norm follows the convolution.
      implementation: see `ops.implementation`.
    """
    device = pallas_device(implementation)
    if device is None or isinstance(x, DeferredNorm) != train:
        return False
    if isinstance(x, DeferredNorm):
        return x.relu and tpu_pallas.fits(device, x.shape, features, dtype, groups=len(x.mean))
    slices = [each.shape[3] for each in deferred_norm.arrays_of(x)]
    return tpu_pallas.fits(device, x.shape, features, dtype, slices=slices)


def pool_and_conv(relu: bool, x: Activations, kernel: jax.Array, bias: jax.Array | None) -> jax.Array:
    """Returns the convolution of the max pool of x. Its gradients are XLA's.

    Args:
      relu: whether a ReLU follows.
      x: without deferred norm; `runs_fused`.
      kernel, bias: [1, 1, C, F] and [F], of the dtype of x.
    """
    return _conv(relu, deferred_norm.arrays_of(x), kernel, bias)


def _conv_plain(relu, slices, kernel, bias):
    pool = convolution_and_pool.max_pool(jnp.concatenate(slices, axis=-1), *POOL)
    return convolution_and_pool.conv(pool, kernel, 1, NO_PADDING, bias=bias, relu=relu)


def _conv_forward(relu, *args):
    return _conv(relu, *args), None


def _conv_backward(relu, args, _, grads):
    return jax.vjp(functools.partial(_conv_plain, relu), *args)[1](grads)


_conv = Operation(
    fast=lambda relu, slices, kernel, bias: tpu_pallas.conv(slices, kernel, bias, relu=relu),
    plain=_conv_plain,
    images=(True, False, False),
    forward=_conv_forward,
    backward=_conv_backward,
)


def pool_and_conv_and_moments(
    group_size: int, x: DeferredNorm, kernel: jax.Array, bias: jax.Array | None, origin: jax.Array
) -> tuple[DeferredNorm, tuple[jax.Array, jax.Array, jax.Array]]:
    """Returns x, and `deferred_norm.conv_and_moments` of the max pool of x.

    All other readers of x are to read the one that is returned: then the gradients that they send back are added up in
    the kernel that makes the gradient of the pool.

    Args:
      group_size, kernel, bias, origin: see there.
      x: with a deferred ReLU, too; `runs_fused`.
    """
    return _conv_and_moments(group_size, x, kernel, bias, origin)


def _fast(group_size, x, kernel, bias, origin):
    features = tpu_pallas.conv([x.x], kernel.astype(x.x.dtype), bias, deferred_norm.stacked_norm(x))
    geometry = convolution_and_pool.geometry(1, NO_PADDING, implementation="xla")
    return x, (features, *deferred_norm.mean_and_variance(features, origin, group_size, geometry))


def _plain(group_size, x, kernel, bias, origin):
    features = _features_plain(x, kernel, bias)
    return x, (features, *deferred_norm.plain_mean_and_variance(features, group_size))


def _features_plain(x, kernel, bias):
    pool = deferred_norm.apply_norm(deferred_norm.max_pool(x, *POOL))
    features = convolution_and_pool.conv(pool, kernel.astype(pool.dtype), 1, NO_PADDING)
    return features if bias is None else features + jnp.expand_dims(bias, (0, 1, 2)).astype(features.dtype)


def _forward(group_size, *args):
    x, outputs = _conv_and_moments(group_size, *args)
    return (x, outputs), outputs


def _backward(group_size, args, outputs, cotangents):
    (x, kernel, bias, origin), (features, *moments) = args, outputs
    others, (grads, *moments_grads) = cotangents
    grads = deferred_norm.gradient_through_moments(features, grads, (*moments, *moments_grads))
    bias_grad = None if bias is None else grads.sum((0, 1, 2), dtype=bias.dtype)
    x_grad, kernel_grad = _gradients(None, x, kernel, grads, others)
    return x_grad, kernel_grad, bias_grad, jnp.zeros_like(origin)


_conv_and_moments = Operation(_fast, _plain, (True, False, False, False), _forward, _backward)


def _gradients_fast(_, x, kernel, grads, others):
    """Returns the gradient with respect to x, that of its other readers added, and with respect to the kernel."""
    x_grad, kernel_grad, norm_grad = tpu_pallas.gradients(
        x.x, kernel.astype(x.x.dtype), deferred_norm.stacked_norm(x), grads, others.x
    )
    mean, scale, bias = (
        other + own.reshape(other.shape).astype(other.dtype)
        for other, own in zip((others.mean, others.scale, others.bias), norm_grad, strict=True)
    )
    return dataclasses.replace(others, x=x_grad, mean=mean, scale=scale, bias=bias), kernel_grad.astype(kernel.dtype)


def _gradients_plain(_, x, kernel, grads, others):
    x_grad, kernel_grad = jax.vjp(lambda x, kernel: _features_plain(x, kernel, None), x, kernel)[1](grads)
    return jax.tree.map(jnp.add, x_grad, others), kernel_grad


_gradients = Operation(_gradients_fast, _gradients_plain)
