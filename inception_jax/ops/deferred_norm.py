"""Deferred normalisation: in training, batch norm and ReLU run where their result is read.

A convolution returns its raw output x with mean, scale and bias per channel, and the layer that reads x computes

    y = (x - mean) * scale + bias      scale = gamma / sqrt(var + epsilon), bias = beta
    y = max(y, 0)                      if a ReLU follows

while it loads x, forward and backward. On TPUs the compiler makes this a part of the reading convolution; on CPUs, in
float32, the native ops do. So y, which is as large as x, is neither written to memory nor kept for the backward pass.

A max pool need not wait for y. Where scale >= 0, x -> y is non-decreasing, so it commutes with taking a maximum: the
pool runs on x, and its output carries the same norm. Where gamma is negative, the convolution's kernel and bias are
multiplied by -1, and with them its mean, which makes scale positive (`BatchNorm.sign`). See docs/DEFERRED_NORM.md.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import flax.struct
import jax
import jax.numpy as jnp

from inception_jax.ops import convolution_and_pool, cpu_native, platforms
from inception_jax.ops.derivatives import Operation
from inception_jax.ops.implementation import Implementation
from inception_jax.ops.xla import Geometry, Padding


@flax.struct.dataclass
class DeferredNorm:
    """Activations x [B, H, W, C] whose batch norm, and ReLU if `relu`, have not been applied yet.

    Attributes:
      x: the raw output of a convolution, or a max pool of one.
      mean, scale, bias: [G, 1, 1, 1, C] for G groups of consecutive images, in float32 or better; scale >= 0.
      relu: whether a ReLU follows.
      is_slice: whether x is some channels of a larger array.
    """

    x: jax.Array
    mean: jax.Array
    scale: jax.Array
    bias: jax.Array
    relu: bool = flax.struct.field(pytree_node=False)
    is_slice: bool = flax.struct.field(pytree_node=False, default=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """Returns [B, H, W, C]."""
        return self.x.shape


@flax.struct.dataclass
class LazyConcatenation:
    """Activations [B, H, W, C] as arrays of one dtype that are yet to be concatenated along the channel axis."""

    arrays: tuple[jax.Array, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Returns [B, H, W, C]."""
        return *self.arrays[0].shape[:3], sum(each.shape[3] for each in self.arrays)


Activations: TypeAlias = jax.Array | DeferredNorm | LazyConcatenation


def apply_norm(x: Activations) -> jax.Array:
    """Returns activations [B, H, W, C] as one array, with their norm and ReLU applied, in their own dtype."""
    if isinstance(x, LazyConcatenation):
        return jnp.concatenate(x.arrays, axis=-1)
    if not isinstance(x, DeferredNorm):
        return x
    y = (_grouped(x.x, len(x.mean)) - x.mean) * x.scale + x.bias
    y = y.astype(x.x.dtype).reshape(x.shape)
    return jax.nn.relu(y) if x.relu else y


def take_channels(x: Activations, start: int, stop: int) -> Activations:
    """Returns the channels `start` ... `stop`; a norm stays deferred."""
    x = apply_norm(x) if isinstance(x, LazyConcatenation) else x
    return jax.tree.map(lambda leaf: leaf[..., start:stop], x)


def concatenate(branches: Sequence[Activations], train: bool) -> Activations:
    """Concatenates outputs of branches along the channel axis: in training now, in evaluation when they are read.

    In training a norm stays deferred if all branches defer the same kind of norm. In evaluation the Pallas kernel reads
    the branches one by one; for all other readers `apply_norm` concatenates them.
    """
    if not train:
        return LazyConcatenation(tuple(each for branch in branches for each in arrays_of(branch)))
    deferred = [branch for branch in branches if isinstance(branch, DeferredNorm)]
    if len(deferred) == len(branches) and len({(each.relu, len(each.mean)) for each in deferred}) == 1:
        whole = [dataclasses.replace(each, is_slice=False) for each in deferred]
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis=-1), *whole)
    return jnp.concatenate([apply_norm(branch) for branch in branches], axis=-1)


def arrays_of(x: Activations) -> tuple[jax.Array, ...]:
    """Returns arrays, with their norm applied, that are the activations when concatenated."""
    return x.arrays if isinstance(x, LazyConcatenation) else (apply_norm(x),)


def max_pool(
    x: Activations, window: int, stride: int, padding: Padding, implementation: Implementation = "auto"
) -> Activations:
    """Returns the max pool of activations; a norm stays deferred, because it commutes with the maximum."""
    if isinstance(x, DeferredNorm):
        pooled = convolution_and_pool.max_pool(x.x, window, stride, padding, implementation)
        return dataclasses.replace(x, x=pooled, is_slice=False)
    return convolution_and_pool.max_pool(apply_norm(x), window, stride, padding, implementation)


def conv_and_moments(
    geometry: Geometry,
    group_size: int,
    x: Activations,
    kernel: jax.Array,
    bias: jax.Array | None,
    origin: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns a convolution [B, H', W', F], and the mean and the variance [G, 1, 1, 1, F] of its groups of images.

    The variance is the mean of (output - origin)^2 less (mean - origin)^2, so the output is read once. Its relative
    error is about 1e-6 (1 + (mean - origin)^2 / var).

    Args:
      geometry: of the convolution.
      group_size: images that are normalised together.
      x: the input, in the dtype of the convolution; a deferred norm is applied while x is read.
      kernel, bias: float32.
      origin: [F], float32, near the means: the running mean. It has no gradient.
    """
    return _conv_and_moments((geometry, group_size), x, kernel, bias, origin)


def _fast(statics, x, kernel, bias, origin):
    geometry, group_size = statics
    features = _add_bias(_conv(x, kernel.astype(_dtype(x)), geometry), bias)
    return features, *mean_and_variance(features, origin, group_size, geometry)


def _plain(statics, x, kernel, bias, origin):
    geometry, group_size = statics
    features = _add_bias(convolution_and_pool.forward(apply_norm(x), kernel.astype(_dtype(x)), geometry), bias)
    return features, *plain_mean_and_variance(features, group_size)


def _forward(statics, x, kernel, bias, origin):
    outputs = _conv_and_moments(statics, x, kernel, bias, origin)
    return outputs, outputs


def _backward(statics, args, outputs, cotangents):
    (geometry, _), (x, kernel, bias, origin), (features, mean, var) = statics, args, outputs
    through = functools.partial(gradient_through_moments, features, cotangents[0])
    moments = mean, var, *cotangents[1:]
    grads = through(moments)
    kernel_grad = _kernel_gradient(x, grads, kernel.shape, geometry).astype(kernel.dtype)
    bias_grad = None if bias is None else grads.sum((0, 1, 2), dtype=bias.dtype)

    # On TPUs the gradient of the output is computed twice rather than kept, each time as a part of the convolution that
    # reads it. The barrier stands before the small arrays alone: a barrier on x makes the compiler copy slices of it.
    grads = platforms.pick(
        grads,
        moments,
        tpu=lambda _, moments: through(jax.lax.optimization_barrier(moments)),
        default=lambda grads, _: grads,
    )
    normed_grad = convolution_and_pool.input_gradient(grads, kernel.astype(_dtype(x)), x.shape, geometry)
    return (
        _norm_gradient(_with_norm_not_shared(x), normed_grad, geometry),
        kernel_grad,
        bias_grad,
        jnp.zeros_like(origin),
    )


_conv_and_moments = Operation(_fast, _plain, (True, False, False, False), _forward, _backward)


def _add_bias(features: jax.Array, bias: jax.Array | None) -> jax.Array:
    return features if bias is None else features + jnp.expand_dims(bias, (0, 1, 2)).astype(features.dtype)


# The operations that read a deferred norm: on CPUs native ops apply it on the way, elsewhere the compiler does.


def _conv(x: Activations, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    return _native_if_fits(_CONV, geometry, None, x, kernel)


def _conv_plain(statics, x, kernel):
    y = apply_norm(x)
    if isinstance(x, DeferredNorm) and x.is_slice and kernel.shape[:2] != (1, 1):
        y = _not_shared_on_tpu(apply_norm(_with_norm_not_shared(x)))  # TPUs are slow to read the windows of a slice
    return convolution_and_pool.forward(y, kernel, statics[0])


def _conv_on_cpu(statics, x, kernel):
    return cpu_native.conv(x.x, kernel, geometry=statics[0], norm=stacked_norm(x), relu_input=x.relu)


def _kernel_gradient(x: Activations, grads: jax.Array, shape: tuple[int, ...], geometry: Geometry) -> jax.Array:
    return _native_if_fits(_KERNEL_GRADIENT, geometry, shape, x, grads)


def _kernel_gradient_plain(statics, x, grads):
    geometry, shape = statics
    return convolution_and_pool.kernel_gradient(apply_norm(x), grads, shape, geometry)


def _kernel_gradient_on_cpu(statics, x, grads):
    geometry, shape = statics
    return cpu_native.kernel_gradient(
        x.x, grads, shape=shape, geometry=geometry, norm=stacked_norm(x), relu_input=x.relu
    )


def _norm_gradient(x: Activations, grads: jax.Array, geometry: Geometry) -> Activations:
    """Returns the gradient with respect to x and its deferred norm, given that of `apply_norm(x)`."""
    return _native_if_fits(_NORM_GRADIENT, geometry, None, x, grads)


def _norm_gradient_plain(_, x, grads):
    (gradient,) = jax.vjp(apply_norm, x)[1](grads)
    return gradient


def _norm_gradient_on_cpu(_, x, grads):
    gradient, (passed, distance) = cpu_native.deferred_norm_gradient(x.x, grads, stacked_norm(x), x.relu)
    passed, distance = (each.reshape(x.mean.shape) for each in (passed, distance))
    return dataclasses.replace(x, x=gradient, mean=-x.scale * passed, scale=distance, bias=passed)


def mean_and_variance(
    x: jax.Array, origin: jax.Array, group_size: int, geometry: Geometry
) -> tuple[jax.Array, jax.Array]:
    """Returns the mean and the variance of groups of images, [G, 1, 1, 1, C]; see `conv_and_moments`."""
    moments = _MOMENTS if cpu_native.takes(geometry, x, origin) else _MOMENTS.plain
    offset, square = moments(group_size, x, origin)
    return jnp.expand_dims(origin, (0, 1, 2, 3)) + offset, jnp.maximum(square - jnp.square(offset), 0)


def plain_mean_and_variance(x: jax.Array, group_size: int) -> tuple[jax.Array, jax.Array]:
    """Returns `mean_and_variance`, about the mean itself: its derivatives are exact wherever the origin is."""
    x = _grouped(x, x.shape[0] // group_size)
    mean = x.mean(_AXES, keepdims=True)
    return mean, jnp.square(x - mean).mean(_AXES, keepdims=True)


_AXES = (1, 2, 3)


def _moments_plain(group_size, x, origin):
    """Returns means of x - `origin` and of its square, [G, 1, 1, 1, C]."""
    distance = _grouped(x, x.shape[0] // group_size) - jnp.expand_dims(origin, (0, *_AXES))
    return distance.mean(_AXES, keepdims=True), jnp.square(distance).mean(_AXES, keepdims=True)


def _moments_on_cpu(group_size, x, origin):
    first, second = cpu_native.moments(x, origin, x.shape[0] // group_size)
    return jnp.expand_dims(first, _AXES), jnp.expand_dims(second, _AXES)


def _operation(plain: Callable, on_cpu: Callable, images: tuple[bool, ...] | None) -> Operation:
    def fast(statics, *args):
        return platforms.pick(*args, cpu=functools.partial(on_cpu, statics), default=functools.partial(plain, statics))

    return Operation(fast, plain, images)


_CONV = _operation(_conv_plain, _conv_on_cpu, (True, False))
_KERNEL_GRADIENT = _operation(_kernel_gradient_plain, _kernel_gradient_on_cpu, None)
_NORM_GRADIENT = _operation(_norm_gradient_plain, _norm_gradient_on_cpu, (True, True))
_MOMENTS = _operation(_moments_plain, _moments_on_cpu, (True, False))


def _native_if_fits(operation: Operation, geometry: Geometry, shape: Any, x: Activations, other: jax.Array) -> Any:
    fits = isinstance(x, DeferredNorm) and cpu_native.takes(geometry, other, *jax.tree.leaves(x))
    return (operation if fits else operation.plain)((geometry, shape), x, other)


def stacked_norm(x: DeferredNorm) -> jax.Array:
    """Returns mean, scale and bias [3, G, C], as native ops and Pallas kernels take them."""
    return jnp.stack([leaf.reshape(len(leaf), -1) for leaf in (x.mean, x.scale, x.bias)])


def gradient_through_moments(features, grads, moments):
    """Returns the gradient with respect to `features`, given those of `features`, of their mean and their variance.

    d_features = grads + mean_grad / n + 2 var_grad (features - mean) / n, for n pixels of a group.

    Args:
      features: [B, H, W, F].
      grads: [B, H, W, F], the gradient with respect to features where mean and variance are held fixed.
      moments: mean, variance and the gradients of both, [G, 1, 1, 1, F].
    """
    mean, var, mean_grad, var_grad = moments
    x, grads = _grouped(features, len(mean)), _grouped(grads, len(mean))
    count = x[0, ..., 0].size
    total = grads + mean_grad / count + jnp.where(var > 0, 2 * var_grad / count, 0) * (x - mean)
    return total.reshape(features.shape).astype(features.dtype)


def _with_norm_not_shared(x: Activations) -> Activations:
    """Returns activations whose norm TPUs apply once more, instead of keeping what they computed elsewhere."""
    if not isinstance(x, DeferredNorm):
        return x
    mean, scale, bias = _not_shared_on_tpu((x.mean, x.scale, x.bias))
    return dataclasses.replace(x, mean=mean, scale=scale, bias=bias)


def _not_shared_on_tpu(tree: Any) -> Any:
    """Returns the tree behind a barrier on TPUs, so that what is computed from it is not merged with its like.

    Other platforms run elementwise operations by themselves: there they are better run once.
    """
    return platforms.pick(tree, tpu=jax.lax.optimization_barrier, default=lambda same: same)


def _grouped(x: jax.Array, groups: int) -> jax.Array:
    """Returns x as [G, B / G, H, W, C] in float32 or better."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32)).reshape(groups, -1, *x.shape[1:])


def _dtype(x: Activations) -> Any:
    return jax.tree.leaves(x)[0].dtype  # of a deferred norm, the first is x
