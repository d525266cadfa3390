"""Maps that wait for their normalisation: in training, batch norm and ReLU run where the maps are read.

A convolution hands on what it computed, and per channel what is still to be done to it. The next convolution does it
while it reads, forward and backward: on TPU the compiler makes it a part of the convolution, and the normalised maps,
which are as large, are neither written nor kept. A max pool comes first and leaves the rest to whoever reads the pool:
what is pending never turns the order of two values around.
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


@flax.struct.dataclass
class Pending:
    """Maps [B, H, W, C], and the mean, the scale (never below 0) and the bias by which they are to be normalised.

    The three are [G, 1, 1, 1, C] for G groups of consecutive images, in float32 or better. `part` says that the maps
    are some channels of larger ones.
    """

    maps: jax.Array
    mean: jax.Array
    scale: jax.Array
    bias: jax.Array
    relu: bool = flax.struct.field(pytree_node=False)
    part: bool = flax.struct.field(pytree_node=False, default=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """Returns [B, H, W, C]."""
        return self.maps.shape


@flax.struct.dataclass
class Parts:
    """Maps [B, H, W, C], as the parts that are to be put side by side along the channel axis, all of one dtype."""

    parts: tuple[jax.Array, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Returns [B, H, W, C]."""
        return *self.parts[0].shape[:3], sum(part.shape[3] for part in self.parts)


Maps: TypeAlias = jax.Array | Pending | Parts


def settle(maps: Maps) -> jax.Array:
    """Returns maps with nothing pending, in their own dtype."""
    if isinstance(maps, Parts):
        return jnp.concatenate(maps.parts, axis=-1)
    if not isinstance(maps, Pending):
        return maps
    x = _grouped(maps.maps, len(maps.mean))
    y = ((x - maps.mean) * maps.scale + maps.bias).astype(maps.maps.dtype).reshape(maps.shape)
    return jax.nn.relu(y) if maps.relu else y


def channels(maps: Maps, start: int, stop: int) -> Maps:
    """Returns some channels."""
    maps = settle(maps) if isinstance(maps, Parts) else maps
    return jax.tree.map(lambda leaf: leaf[..., start:stop], maps)


def concatenate(ends: Sequence[Maps]) -> jax.Array | Pending:
    """Returns maps side by side along the channel axis; pending if all are, and in the same way."""
    waiting = [end for end in ends if isinstance(end, Pending)]
    if len(waiting) == len(ends) and len({(end.relu, len(end.mean)) for end in waiting}) == 1:
        whole = [dataclasses.replace(end, part=False) for end in waiting]
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis=-1), *whole)
    return jnp.concatenate([settle(end) for end in ends], axis=-1)


def parts(maps: Maps) -> tuple[jax.Array, ...]:
    """Returns maps with nothing pending, which side by side are the maps."""
    return maps.parts if isinstance(maps, Parts) else (settle(maps),)


def max_pool(maps: Maps, window: int, stride: int, borders: convolution_and_pool.Borders) -> Maps:
    """Returns the max pool; what is pending stays so."""
    if isinstance(maps, Pending):
        return dataclasses.replace(
            maps, maps=convolution_and_pool.max_pool(maps.maps, window, stride, borders), part=False
        )
    return convolution_and_pool.max_pool(settle(maps), window, stride, borders)


def conv_moments(
    geometry: convolution_and_pool.Geometry,
    group_size: int,
    maps: Maps,
    kernel: jax.Array,
    bias: jax.Array | None,
    origin: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns a convolution, and mean and variance [G, 1, 1, 1, features] of its groups of images.

    The variance is the mean square about `origin`, less the square of the distance d from there to the mean: maps are
    read once, and it is exact to about 1e-6 (1 + d^2 / var).

    Args:
      geometry: of the convolution.
      group_size: images that are normalised together.
      maps: of the dtype of the convolution, pending ones too.
      kernel, bias, origin: float32; origin, near the means [features], has no gradient.
    """
    return _conv_moments((geometry, group_size), maps, kernel, bias, origin)


def _fast(statics, maps, kernel, bias, origin):
    geometry, group_size = statics
    features = _add_bias(_conv(maps, kernel.astype(_dtype(maps)), geometry), bias)
    return features, *mean_and_variance(features, origin, group_size, geometry)


def _plain(statics, maps, kernel, bias, origin):
    geometry, group_size = statics
    features = _add_bias(convolution_and_pool.forward(settle(maps), kernel.astype(_dtype(maps)), geometry), bias)
    return features, *plain_mean_and_variance(features, group_size)


def _forward(statics, maps, kernel, bias, origin):
    made = _conv_moments(statics, maps, kernel, bias, origin)
    return made, made


def _backward(statics, args, made, cotangents):
    (geometry, _), (maps, kernel, bias, origin), (features, mean, var) = statics, args, made
    through = functools.partial(through_moments, features, cotangents[0])
    of_moments = mean, var, *cotangents[1:]
    grads = through(of_moments)
    kernel_grad = _kernel_gradient(maps, grads, kernel.shape, geometry).astype(kernel.dtype)
    bias_grad = None if bias is None else grads.sum((0, 1, 2), dtype=bias.dtype)

    # TPUs compute it again rather than keep it, each for the one convolution that it then becomes a part of. The
    # barrier stands before the small arrays alone: one before maps would have slices of them written out.
    grads = platforms.pick(
        grads,
        of_moments,
        tpu=lambda _, of_moments: through(jax.lax.optimization_barrier(of_moments)),
        default=lambda grads, _: grads,
    )
    settled_grad = convolution_and_pool.maps_gradient(grads, kernel.astype(_dtype(maps)), maps.shape, geometry)
    return _unsettle(_settled_anew(maps), settled_grad, geometry), kernel_grad, bias_grad, jnp.zeros_like(origin)


_conv_moments = Operation(_fast, _plain, (True, False, False, False), _forward, _backward)


def _add_bias(features: jax.Array, bias: jax.Array | None) -> jax.Array:
    return features if bias is None else features + jnp.expand_dims(bias, (0, 1, 2)).astype(features.dtype)


# What reads pending maps: on CPUs `native` normalises them on the way, elsewhere the compiler is left to do so.


def _conv(maps: Maps, kernel: jax.Array, geometry: convolution_and_pool.Geometry) -> jax.Array:
    return _by_platform(_CONV, geometry, None, maps, kernel)


def _conv_plain(statics, maps, kernel):
    settled = settle(maps)
    if isinstance(maps, Pending) and maps.part and kernel.shape[:2] != (1, 1):
        settled = _anew(settle(_settled_anew(maps)))  # TPUs are slow to read windows of a slice
    return convolution_and_pool.forward(settled, kernel, statics[0])


def _conv_on_cpu(statics, maps, kernel):
    return cpu_native.conv(maps.maps, kernel, statics[0], norm=norm(maps), relu_maps=maps.relu)


def _kernel_gradient(
    maps: Maps, grads: jax.Array, shape: tuple[int, ...], geometry: convolution_and_pool.Geometry
) -> jax.Array:
    return _by_platform(_KERNEL_GRADIENT, geometry, shape, maps, grads)


def _kernel_gradient_plain(statics, maps, grads):
    geometry, shape = statics
    return convolution_and_pool.kernel_gradient(settle(maps), grads, shape, geometry)


def _kernel_gradient_on_cpu(statics, maps, grads):
    geometry, shape = statics
    return cpu_native.kernel_gradient(maps.maps, grads, shape, geometry, norm(maps), maps.relu)


def _unsettle(maps: Maps, grads: jax.Array, geometry: convolution_and_pool.Geometry) -> Maps:
    """Returns the gradient by pending maps and their norm, from that by the settled maps."""
    return _by_platform(_UNSETTLE, geometry, None, maps, grads)


def _unsettle_plain(_, maps, grads):
    (gradient,) = jax.vjp(settle, maps)[1](grads)
    return gradient


def _unsettle_on_cpu(_, maps, grads):
    gradient, (passed, distance) = cpu_native.pending_gradient(maps.maps, grads, norm(maps), maps.relu)
    passed, distance = (each.reshape(maps.mean.shape) for each in (passed, distance))
    return dataclasses.replace(maps, maps=gradient, mean=-maps.scale * passed, scale=distance, bias=passed)


def mean_and_variance(
    maps: jax.Array, origin: jax.Array, group_size: int, geometry: convolution_and_pool.Geometry
) -> tuple[jax.Array, jax.Array]:
    """Returns the mean and the variance of groups of images, [G, 1, 1, 1, C]; see `conv_moments`."""
    moments = _MOMENTS if cpu_native.fits(geometry, maps, origin) else _MOMENTS.plain
    offset, square = moments(group_size, maps, origin)
    return jnp.expand_dims(origin, (0, 1, 2, 3)) + offset, jnp.maximum(square - jnp.square(offset), 0)


def plain_mean_and_variance(maps: jax.Array, group_size: int) -> tuple[jax.Array, jax.Array]:
    """Returns `mean_and_variance`, about the mean itself: its derivatives are exact wherever the origin is."""
    x = _grouped(maps, maps.shape[0] // group_size)
    mean = x.mean(_AXES, keepdims=True)
    return mean, jnp.square(x - mean).mean(_AXES, keepdims=True)


_AXES = (1, 2, 3)


def _moments_plain(group_size, maps, origin):
    """Returns means of the distance from `origin` and of its square, [G, 1, 1, 1, C]."""
    distance = _grouped(maps, maps.shape[0] // group_size) - jnp.expand_dims(origin, (0, *_AXES))
    return distance.mean(_AXES, keepdims=True), jnp.square(distance).mean(_AXES, keepdims=True)


def _moments_on_cpu(group_size, maps, origin):
    first, second = cpu_native.moments(maps, origin, maps.shape[0] // group_size)
    return jnp.expand_dims(first, _AXES), jnp.expand_dims(second, _AXES)


def _operation(plain: Callable, on_cpu: Callable, images: tuple[bool, ...] | None) -> Operation:
    def fast(statics, *args):
        return platforms.pick(*args, cpu=functools.partial(on_cpu, statics), default=functools.partial(plain, statics))

    return Operation(fast, plain, images)


_CONV = _operation(_conv_plain, _conv_on_cpu, (True, False))
_KERNEL_GRADIENT = _operation(_kernel_gradient_plain, _kernel_gradient_on_cpu, None)
_UNSETTLE = _operation(_unsettle_plain, _unsettle_on_cpu, (True, True))
_MOMENTS = _operation(_moments_plain, _moments_on_cpu, (True, False))


def _by_platform(
    operation: Operation, geometry: convolution_and_pool.Geometry, shape: Any, maps: Maps, other: jax.Array
) -> Any:
    fits = isinstance(maps, Pending) and cpu_native.fits(geometry, other, *jax.tree.leaves(maps))
    return (operation if fits else operation.plain)((geometry, shape), maps, other)


def norm(maps: Pending) -> jax.Array:
    """Returns mean, scale and bias [3, G, C]."""
    return jnp.stack([leaf.reshape(len(leaf), -1) for leaf in (maps.mean, maps.scale, maps.bias)])


def through_moments(features, grads, moments):
    """Returns the gradient of `features` from those of themselves, of their mean and of their variance."""
    mean, var, mean_grad, var_grad = moments
    x, grads = _grouped(features, len(mean)), _grouped(grads, len(mean))
    count = x[0, ..., 0].size
    total = grads + mean_grad / count + jnp.where(var > 0, 2 * var_grad / count, 0) * (x - mean)
    return total.reshape(features.shape).astype(features.dtype)


def _settled_anew(maps: Maps) -> Maps:
    """Returns maps whose settling is, on TPU, not the same computation as elsewhere."""
    if not isinstance(maps, Pending):
        return maps
    mean, scale, bias = _anew((maps.mean, maps.scale, maps.bias))
    return dataclasses.replace(maps, mean=mean, scale=scale, bias=bias)


def _anew(tree: Any) -> Any:
    """Returns the tree such that, on TPU, what is computed from it is not the same computation as elsewhere.

    Other platforms run elementwise steps on their own: there they are better run once.
    """
    return platforms.pick(tree, tpu=jax.lax.optimization_barrier, default=lambda same: same)


def _grouped(maps: jax.Array, groups: int) -> jax.Array:
    """Returns maps [G, B / G, H, W, C] in float32 or better."""
    return maps.astype(_statistics_dtype(maps)).reshape(groups, -1, *maps.shape[1:])


def _statistics_dtype(maps: jax.Array) -> Any:
    return jnp.promote_types(maps.dtype, jnp.float32)


def _dtype(maps: Maps) -> Any:
    return jax.tree.leaves(maps)[0].dtype  # of pending ones, maps come first
