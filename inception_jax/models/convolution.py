"""The unit of the family: a convolution, its batch norm and its ReLU."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from inception_jax import ops
from inception_jax.models import spec
from inception_jax.models.arguments import TRAINING
from inception_jax.ops import fence, pooled_convolution, tpu_pallas
from inception_jax.ops.deferred_norm import Maps, Pending, conv_moments, parts, settle

LEFT_BY_CUT = 0.87962566103423978  # standard deviation of a normal distribution cut at two of them


class BatchNorm(nn.Module):
    """Batch normalisation (arXiv 1502.03167) of maps [B, H, W, features], computed in float32 or better."""

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
        self.gain = self.param("scale", nn.initializers.ones, shape) if self.constants.scale else jnp.ones(shape)
        self.offset = self.param("bias", nn.initializers.zeros, shape)

    def sign(self) -> jax.Array:
        """Returns 1 or -1 for each channel: times this, more stays more after the normalisation."""
        return jnp.where(self.gain < 0, -1.0, 1.0)

    def running(self, maps: jax.Array) -> jax.Array:
        """Returns the maps, normalised by the running statistics."""
        x = maps.astype(jnp.promote_types(maps.dtype, jnp.float32))
        scale = jax.lax.rsqrt(self.var.value + self.constants.epsilon) * self.gain
        mean, scale, offset = (jnp.expand_dims(leaf, (0, 1, 2)) for leaf in (self.mean.value, scale, self.offset))
        return ((x - mean) * scale + offset).astype(maps.dtype)

    def pending(self, maps: jax.Array, mean: jax.Array, var: jax.Array, relu: bool, part: bool) -> Pending:
        """Returns maps, times `sign`, that wait for their normalisation, and averages the running statistics.

        Args:
          maps: [B, H, W, features].
          mean, var: of them, [G, 1, 1, 1, features] for G groups of images; the running statistics average the groups.
          relu: whether a ReLU follows.
          part: whether the maps are some channels of larger ones.
        """
        sign = self.sign()
        if not self.is_initializing():
            if not self.is_mutable_collection("batch_stats"):
                raise ValueError(f"train=True updates the running statistics, so it needs mutable: {TRAINING}.")
            new_mean, new_var = jax.lax.stop_gradient((sign * mean.mean((0, 1, 2, 3)), var.mean((0, 1, 2, 3))))
            count = maps[..., 0].size // len(mean)
            correction = count / max(count - 1, 1) if self.constants.unbiased else 1.0
            decay = self.constants.decay
            self.mean.value = decay * self.mean.value + (1 - decay) * new_mean
            self.var.value = decay * self.var.value + (1 - decay) * correction * new_var
        gain, offset = (jnp.expand_dims(leaf, (0, 1, 2, 3)) for leaf in (self.gain * sign, self.offset))
        scale = jax.lax.rsqrt(var + self.constants.epsilon) * gain
        return Pending(maps, mean, scale, jnp.broadcast_to(offset, scale.shape), relu, part)


class Convolution(nn.Module):
    """A convolution and, if it has one, its bias; a depthwise one makes `features` maps of each channel."""

    features: int
    kernel: tuple[int, int]
    kernel_init: spec.Init
    use_bias: bool = False
    bias_init: float = 0.0
    depthwise: bool = False

    def __call__(self, maps: jax.Array, stride: int, borders: ops.Borders, relu: bool = False) -> jax.Array:
        kernel, bias = jax.tree.map(lambda leaf: leaf.astype(maps.dtype), self.weights(maps.shape[-1]))
        groups = maps.shape[-1] if self.depthwise else 1
        return ops.conv(maps, kernel, stride, borders, groups, bias, relu)

    @nn.compact
    def weights(self, channels: int) -> tuple[jax.Array, jax.Array | None]:
        """Returns the kernel [height, width, channels of a group, maps] and the bias [maps] or None, in float32."""
        shape = (1, channels * self.features) if self.depthwise else (channels, self.features)
        kernel = self.param("kernel", initializer(self.kernel_init), (*self.kernel, *shape), jnp.float32)
        if not self.use_bias:
            return kernel, None
        return kernel, self.param("bias", nn.initializers.constant(self.bias_init), shape[1:], jnp.float32)


class ConvNormAct(nn.Module):
    """Convolution, batch norm (or a bias where the row or the lineage has none), ReLU unless the row has none.

    [B, H, W, C] -> [B, H', W', features]. A separable convolution is the two convolutions `depthwise` and `pointwise`.
    Batch norm cuts a batch of B images into B / bn_group_size consecutive groups that are normalised separately; None
    is one group, the whole batch. In training, norm and ReLU stay pending.

    Raises:
      ValueError: `bn_group_size` does not divide the batch.
    """

    row: spec.Conv | spec.SeparableConv
    numerics: spec.Numerics
    bn_group_size: int | None = None
    dtype: Any = jnp.float32

    def setup(self) -> None:
        row, numerics = self.row, self.numerics
        norm, init = numerics.norm if row.norm else None, row.init or numerics.kernel_init
        bias = norm is None or numerics.conv_bias
        if isinstance(row, spec.SeparableConv):
            self.depthwise = Convolution(row.multiplier, row.kernel, init, depthwise=True)
            self.pointwise = Convolution(row.features, (1, 1), init, bias, numerics.bias_init)
        else:
            self.conv = Convolution(row.features, row.kernel, init, bias, numerics.bias_init)
        if norm is not None:
            self.bn = BatchNorm(norm, row.features)

    def __call__(self, maps: Maps, train: bool) -> Maps:
        return run_as_one([self], maps, train)[0]

    @property
    def has_norm(self) -> bool:
        """Returns whether batch norm follows the convolution."""
        return self.row.norm and self.numerics.norm is not None

    @property
    def last(self) -> Convolution:
        """Returns the convolution that makes the features."""
        return self.pointwise if isinstance(self.row, spec.SeparableConv) else self.conv

    def enter(self, maps: Maps) -> tuple[Maps, int, ops.Borders]:
        """Returns what the last convolution reads, its stride and its borders."""
        row = self.row
        maps = maps if isinstance(maps, Pending) else settle(maps).astype(self.dtype)
        high, wide = (
            spec.border(size, window, row.stride, row.padding, self.numerics.conv_same)
            for size, window in zip(maps.shape[1:3], row.kernel, strict=True)
        )
        if isinstance(row, spec.SeparableConv):
            return self.depthwise(settle(maps), row.stride, (high, wide)), 1, ops.NO_BORDERS
        return maps, row.stride, (high, wide)

    def settled(self, maps: Maps) -> jax.Array:
        """Returns the maps of evaluation, and in training those of a row without batch norm."""
        read, stride, borders = self.enter(maps)
        if not self.has_norm:
            return self.last(settle(read), stride, borders, self.row.relu)
        made = self.bn.running(self.last(settle(read), stride, borders))
        return nn.relu(made) if self.row.relu else made


def run_as_one(units: Sequence[ConvNormAct], maps: Maps, train: bool) -> list[Maps]:
    """Runs units that differ in features alone on the same maps; in training with batch norm they are one convolution.

    Raises:
      ValueError: `bn_group_size` does not divide the batch.
    """
    first = units[0]
    if not (train and first.has_norm):
        return [unit.settled(maps) for unit in units]
    read, stride, borders = first.enter(maps)
    images = read.shape[0]
    if images == 0:
        raise ValueError("A batch of 0 images has no mean and no variance: in training, batch norm needs one or more.")
    group_size = first.bn_group_size or images
    if images % group_size:
        raise ValueError(f"bn_group_size {group_size} does not divide the batch of {images} images.")
    kernels, biases = zip(*(unit.last.weights(read.shape[-1]) for unit in units), strict=True)
    signs = [unit.bn.sign() for unit in units]
    kernel, origin = _joined(kernels, signs), _joined([unit.bn.mean.value for unit in units], signs)
    bias = None if biases[0] is None else _joined(biases, signs)
    made, mean, var = conv_moments(ops.geometry(stride, borders), group_size, read, kernel, bias, origin)
    results: list[Maps] = []
    stop = 0
    for unit in units:
        start, stop = stop, stop + unit.row.features
        own = [leaf[..., start:stop] for leaf in (made, mean, var)]
        results.append(unit.bn.pending(own[0], own[1], own[2], unit.row.relu, part=len(units) > 1))
    return results


def may_pool(unit: ConvNormAct, maps: Maps, train: bool) -> bool:
    """Returns whether a 1x1 unit may read the 3x3 max pool of maps by the kernels of `tpu`."""
    facts = maps.shape, unit.row.features, unit.dtype
    if isinstance(maps, Pending):
        return train and unit.has_norm and maps.relu and tpu_pallas.fits(*facts, groups=len(maps.mean))
    return not train and not unit.has_norm and tpu_pallas.fits(*facts, parts=[part.shape[3] for part in parts(maps)])


def run_on_pool(unit: ConvNormAct, maps: Maps) -> tuple[Maps, Maps]:
    """Returns maps, for all others to read, and what a unit that `may_pool` makes of their max pool."""
    kernel, bias = unit.last.weights(maps.shape[3])
    if not isinstance(maps, Pending):
        read, kernel, bias = jax.tree.map(lambda leaf: leaf.astype(unit.dtype), (parts(maps), kernel, bias))
        return maps, pooled_convolution.conv(unit.row.relu, read, kernel, bias)
    signs = [unit.bn.sign()]
    kernel, origin = _joined([kernel], signs), _joined([unit.bn.mean.value], signs)
    bias = None if bias is None else _joined([bias], signs)
    maps, made = pooled_convolution.conv_moments(unit.bn_group_size or len(maps.maps), maps, kernel, bias, origin)
    return maps, unit.bn.pending(*made, unit.row.relu, part=False)


def _joined(leaves: Sequence[jax.Array], signs: Sequence[jax.Array]) -> jax.Array:
    return jnp.concatenate(
        [leaf * sign.reshape((1,) * (leaf.ndim - 1) + (-1,)) for leaf, sign in zip(leaves, signs, strict=True)], axis=-1
    )


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
        (numbers,) = fence.on_cpu(numbers)
        return numbers[:size].reshape(shape) * jnp.array(_spread(init, shape), dtype)

    return draw


def _spread(init: spec.Init, shape: Sequence[int]) -> float:
    """Returns what standard normal numbers, or uniform ones in -1 ... 1, are multiplied by."""
    if init.fan is None:
        return init.scale
    fan_in, fan_out = math.prod(shape[:-1]), math.prod(shape[:-2]) * shape[-1]
    variance = init.scale / max({"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[init.fan], 1)
    return math.sqrt(variance * {"normal": 1, "truncated": 1 / LEFT_BY_CUT**2, "uniform": 3}[init.distribution])
