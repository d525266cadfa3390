"""The modules that read a table: convolutions, pools, normalisations, the Inception block and the classifiers.

All images and maps are NHWC. Modules get `conv` and `pool` ready-made (see `network.py`) and never see a config.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from inception_jax.models import spec

ConvFn = Callable[..., nn.Module]  # (row, name=...) -> module: (maps, train) -> maps
PoolFn = Callable[[jax.Array, spec.Pool], jax.Array]


class BatchNorm(nn.Module):
    """Batch normalisation over groups of the batch (arXiv 1502.03167), statistics and arithmetic in float32 or better.

    A batch of B images is cut into B / group_size consecutive groups that are normalised separately; None is one group,
    the whole batch. The running statistics average the groups. The variance is the mean square about the running mean,
    less the square of the distance d to the mean: maps are read once, and it is exact to about 1e-6 (1 + d^2 / var).

    Raises:
      ValueError: `group_size` does not divide the batch.
    """

    constants: spec.BatchNorm
    group_size: int | None = None

    @nn.compact
    def __call__(self, maps: jax.Array, train: bool) -> jax.Array:
        channels = maps.shape[-1:]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, channels, jnp.float32)
        gain = self.param("scale", nn.initializers.ones, channels) if self.constants.scale else jnp.ones(channels)
        bias = self.param("bias", nn.initializers.zeros, channels)

        x = maps.astype(jnp.promote_types(maps.dtype, jnp.float32))
        if not train:
            mean, var = (jnp.expand_dims(value, (0, 1, 2)) for value in (running_mean.value, running_var.value))
            return _normalise(x, mean, var, gain, bias, self.constants.epsilon).astype(maps.dtype)

        group = self.group_size or len(x)
        if len(x) % group:
            raise ValueError(f"bn_group_size {group} does not divide the batch of {len(x)} images.")
        x = x.reshape(-1, group, *x.shape[1:])
        axes = (1, 2, 3)
        origin = jnp.expand_dims(running_mean.value, (0, *axes))
        offset = (x - origin).mean(axes, keepdims=True)
        mean = origin + offset
        var = jnp.maximum(jnp.square(x - origin).mean(axes, keepdims=True) - jnp.square(offset), 0)
        if not self.is_initializing():
            count = x[0, ..., 0].size
            correction = count / max(count - 1, 1) if self.constants.unbiased else 1.0
            decay = self.constants.decay
            running_mean.value = decay * running_mean.value + (1 - decay) * mean.mean((0, *axes))
            running_var.value = decay * running_var.value + (1 - decay) * correction * var.mean((0, *axes))
        y = _normalise(x, mean, var, gain, bias, self.constants.epsilon)
        return y.reshape(maps.shape).astype(maps.dtype)


def _normalise(
    x: jax.Array, mean: jax.Array, var: jax.Array, gain: jax.Array, bias: jax.Array, epsilon: float
) -> jax.Array:
    gain, bias = (jnp.expand_dims(value, tuple(range(x.ndim - 1))) for value in (gain, bias))
    return (x - mean) * (jax.lax.rsqrt(var + epsilon) * gain) + bias


class ConvNormAct(nn.Module):
    """Convolution, batch norm (or a bias where the row or the lineage has none), ReLU unless the row has none.

    [B, H, W, C] -> [B, H', W', features]. A separable convolution is the two convolutions `depthwise` and `pointwise`.
    """

    row: spec.Conv | spec.SeparableConv
    numerics: spec.Numerics
    bn_group_size: int | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, maps: jax.Array, train: bool) -> jax.Array:
        row, numerics = self.row, self.numerics
        norm = numerics.norm if row.norm else None
        borders = [
            spec.border(size, window, row.stride, row.padding, numerics.conv_same)
            for size, window in zip(maps.shape[1:3], row.kernel, strict=True)
        ]
        conv = functools.partial(
            nn.Conv,
            use_bias=norm is None or numerics.conv_bias,
            kernel_init=initializer(row.init or numerics.kernel_init),
            bias_init=nn.initializers.constant(numerics.bias_init),
            dtype=self.dtype,
        )
        if isinstance(row, spec.SeparableConv):
            channels = maps.shape[-1]
            depthwise = functools.partial(conv, feature_group_count=channels, use_bias=False, name="depthwise")
            maps = depthwise(channels * row.multiplier, row.kernel, row.stride, borders)(maps)
            maps = conv(row.features, (1, 1), name="pointwise")(maps)
        else:
            maps = conv(row.features, row.kernel, row.stride, borders, name="conv")(maps)
        if norm is not None:
            maps = BatchNorm(norm, self.bn_group_size, name="bn")(maps, train)
        return nn.relu(maps) if row.relu else maps


class Inception(nn.Module):
    """Runs every branch on the same input and concatenates them along the channel axis (1409.4842, fig. 2).

    The row at place j of branch i is the sub-module `branch{i}_{j}`: i counts from 1, j from 0, pools included.
    """

    branches: spec.Block
    conv: ConvFn
    pool: PoolFn

    @nn.compact
    def __call__(self, maps: jax.Array, train: bool) -> jax.Array:
        return jnp.concatenate(
            [
                run_rows(branch, maps, train, self.conv, self.pool, prefix=f"branch{i}")
                for i, branch in enumerate(self.branches, start=1)
            ],
            axis=-1,
        )


class Residual(nn.Module):
    """Adds what the rows make of [B, H, W, C] to it, or to its shortcut (1602.07261, figs. 10 to 19; 1610.02357).

    The row at place j is the sub-module `rows_{j}`.
    """

    row: spec.Residual
    conv: ConvFn
    pool: PoolFn

    @nn.compact
    def __call__(self, maps: jax.Array, train: bool) -> jax.Array:
        row = self.row
        residual = run_rows(row.rows, maps, train, self.conv, self.pool, prefix="rows")
        if row.up:
            up = spec.Conv(maps.shape[-1], relu=False, norm=False)
            residual = self.conv(up, name="up")(residual, train)
        if row.shortcut is not None:
            maps = self.conv(row.shortcut, name="shortcut")(maps, train)
        maps = maps + row.scale * residual
        return nn.relu(maps) if row.relu else maps


class AuxHead(nn.Module):
    """Auxiliary classifier on a tap (1409.4842, section 5): [B, H, W, C] -> logits [B, K] in float32 or better."""

    head: spec.AuxHead
    num_classes: int
    numerics: spec.Numerics
    conv: ConvFn
    pool: PoolFn
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, maps: jax.Array, train: bool) -> jax.Array:
        maps = run_rows(self.head.rows, maps, train, self.conv, self.pool, prefix="rows")
        if self.head.hidden is None:
            features = maps.mean((1, 2), dtype=jnp.promote_types(maps.dtype, jnp.float32))
        else:
            hidden = nn.Dense(
                self.head.hidden,
                kernel_init=initializer(self.numerics.kernel_init),
                bias_init=nn.initializers.constant(self.numerics.bias_init),
                dtype=self.dtype,
                name="hidden",
            )
            features = nn.relu(hidden(maps.reshape(len(maps), -1)))
        init = self.head.init or self.numerics.kernel_init
        return Classifier(self.num_classes, self.head.dropout, init, name="classifier")(features, train)


class Classifier(nn.Module):
    """Dropout and a linear layer: features [B, C] -> logits [B, K] in float32 or better."""

    num_classes: int
    dropout: float
    kernel_init: spec.Init

    @nn.compact
    def __call__(self, features: jax.Array, train: bool) -> jax.Array:
        features = nn.Dropout(self.dropout)(features, deterministic=not train)
        dtype = jnp.promote_types(features.dtype, jnp.float32)
        return nn.Dense(self.num_classes, kernel_init=initializer(self.kernel_init), dtype=dtype, name="linear")(
            features
        )


def run_rows(rows: spec.Branch, maps: jax.Array, train: bool, conv: ConvFn, pool: PoolFn, prefix: str) -> jax.Array:
    """Runs a chain of rows; the row at place j becomes the sub-module `{prefix}_{j}` of the caller."""
    for j, row in enumerate(rows):
        maps = run_row(row, maps, train, conv, pool, name=f"{prefix}_{j}")
    return maps


def run_row(
    row: spec.Row | spec.Block, maps: jax.Array, train: bool, conv: ConvFn, pool: PoolFn, name: str
) -> jax.Array:
    """Runs one row of a table; rows with parameters become the sub-module `name` of the caller."""
    match row:
        case spec.Conv() | spec.SeparableConv():
            return conv(row, name=name)(maps, train)
        case spec.Pool():
            return pool(maps, row)
        case spec.AdaptivePool():
            return adaptive_avg_pool(maps, row.output)
        case spec.LocalResponseNorm():
            return local_response_norm(maps, row)
        case spec.Relu():
            return nn.relu(maps)
        case spec.Channels():
            return maps[..., row.start : row.stop]
        case spec.Residual():
            return Residual(row, conv, pool, name=name)(maps, train)
        case branches:
            return Inception(branches, conv, pool, name=name)(maps, train)


def pool(maps: jax.Array, row: spec.Pool, numerics: spec.Numerics) -> jax.Array:
    """Max or average pool [B, H, W, C] -> [B, H', W', C]; padding never wins a maximum."""
    borders = [spec.border(n, row.window, row.stride, row.padding, numerics.pool_same) for n in maps.shape[1:3]]
    window, strides = (row.window, row.window), (row.stride, row.stride)
    if row.kind == "max":
        return nn.max_pool(maps, window, strides, borders)
    return nn.avg_pool(maps, window, strides, borders, count_include_pad=numerics.count_padding)


def adaptive_avg_pool(maps: jax.Array, output: int) -> jax.Array:
    """Average pool [B, H, W, C] -> [B, output, output, C]; window i is pixels [floor(iH / o), ceil((i + 1)H / o))."""
    rows, columns = (jnp.asarray(averages(n, output), maps.dtype) for n in maps.shape[1:3])
    return jnp.einsum("oh,bhwc,pw->bopc", rows, maps, columns, precision=jax.lax.Precision.HIGHEST)


def local_response_norm(maps: jax.Array, row: spec.LocalResponseNorm) -> jax.Array:
    """Divides each value of [B, H, W, C] by a power of the energy of its neighbour channels (zero beyond the ends)."""
    x = maps.astype(jnp.promote_types(maps.dtype, jnp.float32))
    half = row.size // 2
    energy = jax.lax.reduce_window(
        jnp.square(x), 0.0, jax.lax.add, (1, 1, 1, row.size), (1, 1, 1, 1), ((0, 0), (0, 0), (0, 0), (half, half))
    )
    return (x / (row.k + row.alpha / row.size * energy) ** row.beta).astype(maps.dtype)


def initializer(init: spec.Init) -> nn.initializers.Initializer:
    """Returns the Flax initializer that a table names."""
    if init.fan is not None:
        distribution = "truncated_normal" if init.distribution == "truncated" else init.distribution
        return nn.initializers.variance_scaling(init.scale, init.fan, distribution)
    match init.distribution:
        case "normal":
            return nn.initializers.normal(init.scale)
        case "truncated":
            return nn.initializers.truncated_normal(init.scale)
    raise ValueError(f"{init} needs a fan.")


def averages(size: int, output: int) -> np.ndarray:
    """Returns the [output, size] matrix whose row i averages the pixels of adaptive window i."""
    matrix = np.zeros((output, size))
    for i in range(output):
        start, stop = i * size // output, -(-(i + 1) * size // output)
        matrix[i, start:stop] = 1 / (stop - start)
    return matrix
