"""The unit of the family: a convolution, its batch norm and its ReLU."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from inception_jax import ops
from inception_jax.models import sizes, spec
from inception_jax.models.arguments import TRAINING
from inception_jax.ops.deferred_norm import Activations, DeferredNorm, apply_norm, conv_and_moments

TRUNCATED_STD = 0.87962566103423978  # standard deviation of a normal distribution truncated at two of them


class BatchNorm(nn.Module):
    """Batch normalisation (arXiv 1502.03167) of [B, H, W, features], computed in float32 or better."""

    constants: spec.BatchNorm
    features: int

    def setup(self):
        shape = (self.features,)
        if not self.is_initializing() and not self.has_variable("batch_stats", "mean"):
            raise ValueError(
                f"The variables hold no batch_stats of {'/'.join(self.path)}: pass what `init` returned, "
                "{'params': ..., 'batch_stats': ...}."
            )
        self.mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        self.var = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        self.gamma = self.param("scale", nn.initializers.ones, shape) if self.constants.scale else jnp.ones(shape)
        self.beta = self.param("bias", nn.initializers.zeros, shape)

    def sign(self) -> jax.Array:
        """Returns the sign of gamma, 1 or -1 for each channel: multiplying by it makes the normalisation increasing."""
        return jnp.where(self.gamma < 0, -1.0, 1.0)

    def by_running_statistics(self, x: jax.Array) -> jax.Array:
        """Returns x, normalised by the running statistics."""
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        scale = jax.lax.rsqrt(self.var.value + self.constants.epsilon) * self.gamma
        mean, scale, bias = (jnp.expand_dims(leaf, (0, 1, 2)) for leaf in (self.mean.value, scale, self.beta))
        return ((wide - mean) * scale + bias).astype(x.dtype)

    def deferred(self, x: jax.Array, mean: jax.Array, var: jax.Array, relu: bool, is_slice: bool) -> DeferredNorm:
        """Returns x with its norm deferred, and updates the running statistics.

        Args:
          x: [B, H, W, features], multiplied by `sign`.
          mean, var: of x, [G, 1, 1, 1, features] for G groups of images; the running statistics average the groups.
          relu: whether a ReLU follows.
          is_slice: whether x is some channels of a larger array.
        """
        sign = self.sign()
        if not self.is_initializing():
            if not self.is_mutable_collection("batch_stats"):
                raise ValueError(f"train=True updates the running statistics, so it needs mutable: {TRAINING}.")
            new_mean, new_var = jax.lax.stop_gradient((sign * mean.mean((0, 1, 2, 3)), var.mean((0, 1, 2, 3))))
            count = x[..., 0].size // len(mean)
            correction = count / max(count - 1, 1) if self.constants.unbiased else 1.0
            decay = self.constants.decay
            self.mean.value = decay * self.mean.value + (1 - decay) * new_mean
            self.var.value = decay * self.var.value + (1 - decay) * correction * new_var
        gamma, beta = (jnp.expand_dims(leaf, (0, 1, 2, 3)) for leaf in (self.gamma * sign, self.beta))
        scale = jax.lax.rsqrt(var + self.constants.epsilon) * gamma
        return DeferredNorm(x, mean, scale, jnp.broadcast_to(beta, scale.shape), relu, is_slice)


class Convolution(nn.Module):
    """A convolution and, if it has one, its bias; a depthwise one makes `features` outputs of each channel."""

    features: int
    kernel: tuple[int, int]
    kernel_init: spec.Init
    use_bias: bool = False
    bias_init: float = 0.0
    depthwise: bool = False
    implementation: ops.Implementation = "auto"

    def __call__(self, x: jax.Array, stride: int, padding: ops.Padding, relu: bool = False) -> jax.Array:
        kernel, bias = jax.tree.map(lambda leaf: leaf.astype(x.dtype), self.weights(x.shape[-1]))
        groups = x.shape[-1] if self.depthwise else 1
        return ops.conv(
            x, kernel, stride, padding, groups=groups, bias=bias, relu=relu, implementation=self.implementation
        )

    @nn.compact
    def weights(self, channels: int) -> tuple[jax.Array, jax.Array | None]:
        """Returns the kernel [h, w, channels / groups, outputs] and the bias [outputs] or None, in float32."""
        shape = (1, channels * self.features) if self.depthwise else (channels, self.features)
        kernel = self.param("kernel", initializer(self.kernel_init), (*self.kernel, *shape), jnp.float32)
        if not self.use_bias:
            return kernel, None
        return kernel, self.param("bias", nn.initializers.constant(self.bias_init), shape[1:], jnp.float32)


class ConvNormAct(nn.Module):
    """Convolution, batch norm (or a bias where the row or the lineage has none), ReLU unless the row has none.

    [B, H, W, C] -> [B, H', W', features]. A separable convolution is the two convolutions `depthwise` and `pointwise`.
    Batch norm divides a batch of B images into B / bn_group_size consecutive groups that are normalised separately;
    None is one group, the whole batch. In training, norm and ReLU are deferred to whoever reads the output.

    Raises:
      ValueError: `bn_group_size` does not divide the batch.
    """

    row: spec.Conv | spec.SeparableConv
    numerics: spec.Numerics
    bn_group_size: int | None = None
    dtype: Any = jnp.float32
    implementation: ops.Implementation = "auto"

    def setup(self) -> None:
        row, numerics = self.row, self.numerics
        norm, init = numerics.norm if row.norm else None, row.init or numerics.kernel_init
        conv = functools.partial(Convolution, kernel_init=init, implementation=self.implementation)
        last = functools.partial(
            conv, row.features, use_bias=norm is None or numerics.conv_bias, bias_init=numerics.bias_init
        )
        if isinstance(row, spec.SeparableConv):
            self.depthwise = conv(row.multiplier, row.kernel, depthwise=True)
            self.pointwise = last((1, 1))
        else:
            self.conv = last(row.kernel)
        if norm is not None:
            self.bn = BatchNorm(norm, row.features)

    def __call__(self, x: Activations, train: bool) -> Activations:
        return run_as_one([self], x)[0] if train and self.has_norm else self.without_deferring(x)

    @property
    def has_norm(self) -> bool:
        """Returns whether batch norm follows the convolution."""
        return self.row.norm and self.numerics.norm is not None

    @property
    def last(self) -> Convolution:
        """Returns the convolution whose outputs are the features."""
        return self.pointwise if isinstance(self.row, spec.SeparableConv) else self.conv

    def read(self, x: Activations) -> tuple[Activations, int, ops.Padding]:
        """Returns what the last convolution reads, its stride and its padding."""
        row = self.row
        x = x if isinstance(x, DeferredNorm) else apply_norm(x).astype(self.dtype)
        padding = [
            sizes.explicit_padding(size, window, row.stride, row.padding, self.numerics.conv_same)
            for size, window in zip(x.shape[1:3], row.kernel, strict=True)
        ]
        if isinstance(row, spec.SeparableConv):
            return self.depthwise(apply_norm(x), row.stride, padding), 1, ops.NO_PADDING
        return x, row.stride, padding

    def without_deferring(self, x: Activations) -> jax.Array:
        """Returns the output of evaluation; in training, that of a row without batch norm."""
        x, stride, padding = self.read(x)
        if not self.has_norm:
            return self.last(apply_norm(x), stride, padding, self.row.relu)
        y = self.bn.by_running_statistics(self.last(apply_norm(x), stride, padding))
        return nn.relu(y) if self.row.relu else y

    def weights_of_increasing_norm(self, channels: int) -> tuple[jax.Array, jax.Array | None, jax.Array]:
        """Returns kernel, bias or None, and running mean, multiplied by the sign of gamma."""
        kernel, bias = self.last.weights(channels)
        sign = self.bn.sign()
        signed_kernel = kernel * jnp.expand_dims(sign, (0, 1, 2))
        return signed_kernel, None if bias is None else bias * sign, self.bn.mean.value * sign


def run_as_one(units: Sequence[ConvNormAct], x: Activations) -> list[DeferredNorm]:
    """Runs units that differ in features alone on the same input, as one convolution, in training with batch norm.

    Raises:
      ValueError: `bn_group_size` does not divide the batch.
    """
    first = units[0]
    x, stride, padding = first.read(x)
    images = x.shape[0]
    if images == 0:
        raise ValueError("A batch of 0 images has no mean and no variance: in training, batch norm needs one or more.")
    group_size = first.bn_group_size or images
    if images % group_size:
        raise ValueError(f"bn_group_size {group_size} does not divide the batch of {images} images.")
    kernels, biases, means = zip(*(unit.weights_of_increasing_norm(x.shape[-1]) for unit in units), strict=True)
    kernel, origin = jnp.concatenate(kernels, axis=-1), jnp.concatenate(means, axis=-1)
    bias = None if biases[0] is None else jnp.concatenate(biases, axis=-1)
    geometry = ops.geometry(stride, padding, implementation=first.implementation)
    outputs = conv_and_moments(geometry, group_size, x, kernel, bias, origin)
    results = []
    stop = 0
    for unit in units:
        start, stop = stop, stop + unit.row.features
        own, mean, var = (leaf[..., start:stop] for leaf in outputs)
        results.append(unit.bn.deferred(own, mean, var, unit.row.relu, is_slice=len(units) > 1))
    return results


def runs_on_pool(unit: ConvNormAct, x: Activations, train: bool) -> bool:
    """Returns whether one kernel runs a 1x1 unit together with the 3x3 max pool of x before it."""
    return train == unit.has_norm and ops.runs_fused(x, unit.row.features, unit.dtype, train, unit.implementation)


def run_on_pool(unit: ConvNormAct, x: Activations) -> tuple[Activations, Activations]:
    """Returns x, for all its other readers, and the output of a unit that `runs_on_pool`."""
    if not isinstance(x, DeferredNorm):
        kernel, bias = unit.last.weights(x.shape[3])
        read, kernel, bias = jax.tree.map(lambda leaf: leaf.astype(unit.dtype), (x, kernel, bias))
        return x, ops.pool_and_conv(unit.row.relu, read, kernel, bias)
    kernel, bias, origin = unit.weights_of_increasing_norm(x.shape[3])
    x, (output, mean, var) = ops.pool_and_conv_and_moments(unit.bn_group_size or len(x.x), x, kernel, bias, origin)
    return x, unit.bn.deferred(output, mean, var, unit.row.relu, is_slice=False)


def initializer(init: spec.Init) -> nn.initializers.Initializer:
    """Returns the Flax initializer that a table names; it draws the numbers of Flax's own, and compiles faster.

    It draws as many numbers as the next power of two, so that most kernels of a network are drawn by the same code. The
    first ones do not depend on how many follow.
    """
    if init.fan is None and init.distribution == "uniform":
        raise ValueError(f"{init} needs a fan.")

    def draw(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32, out_sharding: Any = None) -> jax.Array:
        size = math.prod(shape)
        padded = 1 << max(size - 1, 0).bit_length()
        flat = (padded,)
        numbers = {
            "normal": lambda: jax.random.normal(key, flat, dtype),
            "truncated": lambda: jax.random.truncated_normal(key, -2, 2, flat, dtype),
            "uniform": lambda: jax.random.uniform(key, flat, dtype, -1),
        }[init.distribution]()
        (numbers,) = ops.compute_once(numbers)
        return numbers[:size].reshape(shape) * jnp.array(_spread(init, shape), dtype)

    return draw


def _spread(init: spec.Init, shape: Sequence[int]) -> float:
    """Returns what standard normal numbers, or uniform ones in -1 ... 1, are multiplied by."""
    if init.fan is None:
        return init.scale
    fan_in, fan_out = math.prod(shape[:-1]), math.prod(shape[:-2]) * shape[-1]
    variance = init.scale / max({"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[init.fan], 1)
    return math.sqrt(variance * {"normal": 1, "truncated": 1 / TRUNCATED_STD**2, "uniform": 3}[init.distribution])
