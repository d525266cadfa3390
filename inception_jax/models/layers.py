"""The modules that read a table: the Inception block, residuals, pools, normalisations and the classifiers.

All activations are NHWC. Modules get `conv` and `pool` ready-made (see `network.py`) and never see a config.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from inception_jax import ops
from inception_jax.models import sizes, spec
from inception_jax.models.arguments import TRAINING
from inception_jax.models.convolution import ConvNormAct, initializer
from inception_jax.models.fusion import run_together
from inception_jax.ops import deferred_norm
from inception_jax.ops.deferred_norm import Activations, apply_norm

ConvFn = Callable[..., ConvNormAct]  # (row, name=...) -> a sub-module of the caller
PoolFn = Callable[[Activations, spec.Pool], Activations]


class Inception(nn.Module):
    """Runs every branch on the same input and concatenates them along the channel axis (1409.4842, fig. 2).

    Row j of branch i is the sub-module `branch{i}_{j}`: i counts from 1, j from 0, pools included.
    """

    branches: spec.Block
    conv: ConvFn
    pool: PoolFn

    @nn.compact
    def __call__(self, x: Activations, train: bool) -> Activations:
        one_by_one = functools.partial(run_row, train=train, conv=self.conv, pool=self.pool)
        x, run = run_together(self.branches, x, train, self.conv, one_by_one)  # faster, with the same values
        outputs = []
        for i, branch in enumerate(self.branches, start=1):
            y = x
            for j, row in enumerate(branch):
                y = run(row, y, name=f"branch{i}_{j}")
            outputs.append(y)
        return deferred_norm.concatenate(outputs, train)


class Residual(nn.Module):
    """Adds to x [B, H, W, C], or to its shortcut, the output of the rows (1602.07261, figs. 10 to 19; 1610.02357).

    Row j is the sub-module `rows_{j}`.
    """

    row: spec.Residual
    conv: ConvFn
    pool: PoolFn

    @nn.compact
    def __call__(self, x: Activations, train: bool) -> jax.Array:
        row = self.row
        x = apply_norm(x)
        residual = run_rows(row.rows, x, train, self.conv, self.pool)
        if row.up:
            up = spec.Conv(x.shape[-1], relu=False, norm=False)
            residual = self.conv(up, name="up")(residual, train)
        if row.shortcut is not None:
            x = apply_norm(self.conv(row.shortcut, name="shortcut")(x, train))
        x = x + row.scale * apply_norm(residual)
        return nn.relu(x) if row.relu else x


class AuxHead(nn.Module):
    """Auxiliary classifier on an endpoint (1409.4842, section 5): [B, H, W, C] -> logits [B, K], float32 or better."""

    head: spec.AuxHead
    num_classes: int
    numerics: spec.Numerics
    conv: ConvFn
    pool: PoolFn
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Activations, train: bool) -> jax.Array:
        x = apply_norm(run_rows(self.head.rows, x, train, self.conv, self.pool))
        if self.head.hidden is None:
            features = x.mean((1, 2), dtype=jnp.promote_types(x.dtype, jnp.float32))
        else:
            hidden = nn.Dense(
                self.head.hidden,
                kernel_init=initializer(self.numerics.kernel_init),
                bias_init=nn.initializers.constant(self.numerics.bias_init),
                dtype=self.dtype,
                name="hidden",
            )
            features = nn.relu(hidden(x.reshape(len(x), -1)))
        init = self.head.init or self.numerics.kernel_init
        return Classifier(self.num_classes, self.head.dropout, init, name="classifier")(features, train)


class Head(nn.Module):
    """The rows between pooling and classifier: features [B, C] -> [B, D]. Row j is the sub-module `rows_{j}`."""

    rows: spec.Branch
    conv: ConvFn
    pool: PoolFn

    @nn.compact
    def __call__(self, features: jax.Array, train: bool) -> jax.Array:
        pixel = jnp.expand_dims(features, (1, 2))
        return apply_norm(run_rows(self.rows, pixel, train, self.conv, self.pool))[:, 0, 0]


class Classifier(nn.Module):
    """Dropout and a linear layer: features [B, C] -> logits [B, K] in float32 or better."""

    num_classes: int
    dropout: float
    kernel_init: spec.Init

    @nn.compact
    def __call__(self, features: jax.Array, train: bool) -> jax.Array:
        if train and self.dropout and not (self.has_rng("dropout") or self.has_rng("params")):  # Flax takes either
            raise ValueError(f"train=True draws what dropout sets to zero, so it needs rngs: {TRAINING}.")
        features = nn.Dropout(self.dropout)(features, deterministic=not train)
        dtype = jnp.promote_types(features.dtype, jnp.float32)
        kernel_init = initializer(self.kernel_init)
        return nn.Dense(self.num_classes, kernel_init=kernel_init, dtype=dtype, name="linear")(features)


def unit_length(features: jax.Array) -> jax.Array:
    """Returns features [B, D], each divided by its Euclidean length; zeros stay zeros (1503.03832, section 3)."""
    length = jnp.linalg.norm(features, axis=-1, keepdims=True)
    return features / jnp.maximum(length, 1e-12)


def run_rows(rows: spec.Branch, x: Activations, train: bool, conv: ConvFn, pool: PoolFn) -> Activations:
    """Runs a chain of rows; row j is the caller's sub-module `rows_{j}`."""
    for j, row in enumerate(rows):
        x = run_row(row, x, train, conv, pool, name=f"rows_{j}")
    return x


def run_row(
    row: spec.Row | spec.Block, x: Activations, train: bool, conv: ConvFn, pool: PoolFn, name: str
) -> Activations:
    """Runs one row of a table; rows with parameters become the sub-module `name` of the caller."""
    match row:
        case spec.Conv() | spec.SeparableConv():
            return conv(row, name=name)(x, train)
        case spec.Pool():
            with jax.named_scope(name):  # its name in profiles
                return pool(x, row)
        case spec.AdaptivePool():
            return adaptive_avg_pool(apply_norm(x), row.output)
        case spec.LocalResponseNorm():
            return local_response_norm(apply_norm(x), row)
        case spec.Relu():
            return nn.relu(apply_norm(x))
        case spec.Channels():
            return deferred_norm.take_channels(x, row.start, row.stop)
        case spec.Residual():
            return Residual(row, conv, pool, name=name)(x, train)
        case branches:
            return Inception(spec.branches_of(branches), conv, pool, name=name)(x, train)


def pool(
    x: Activations, row: spec.Pool, numerics: spec.Numerics, implementation: ops.Implementation = "auto"
) -> Activations:
    """Max or average pool [B, H, W, C] -> [B, H', W', C]; padding is never a maximum."""
    padding = [
        sizes.explicit_padding(size, row.window, row.stride, row.padding, numerics.pool_same) for size in x.shape[1:3]
    ]
    if row.kind == "max":
        return deferred_norm.max_pool(x, row.window, row.stride, padding, implementation)
    window, strides = (row.window, row.window), (row.stride, row.stride)
    return nn.avg_pool(apply_norm(x), window, strides, padding, count_include_pad=numerics.count_padding)


def adaptive_avg_pool(x: jax.Array, output: int) -> jax.Array:
    """Average pool [B, H, W, C] -> [B, output, output, C]; window i is pixels [floor(iH / o), ceil((i + 1)H / o))."""
    rows, columns = (jnp.asarray(averages(n, output), x.dtype) for n in x.shape[1:3])
    return jnp.einsum("oh,bhwc,pw->bopc", rows, x, columns, precision=jax.lax.Precision.HIGHEST)


def local_response_norm(x: jax.Array, row: spec.LocalResponseNorm) -> jax.Array:
    """Divides each value of [B, H, W, C] by a power of the energy of its neighbour channels (zero beyond the ends)."""
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    half = row.size // 2
    energy = jax.lax.reduce_window(
        jnp.square(wide), 0.0, jax.lax.add, (1, 1, 1, row.size), (1, 1, 1, 1), ((0, 0), (0, 0), (0, 0), (half, half))
    )
    return (wide / (row.k + row.alpha / row.size * energy) ** row.beta).astype(x.dtype)


def averages(size: int, output: int) -> np.ndarray:
    """Returns the [output, size] matrix whose row i averages the pixels of adaptive window i."""
    matrix = np.zeros((output, size))
    for i in range(output):
        start, stop = i * size // output, -(-(i + 1) * size // output)
        matrix[i, start:stop] = 1 / (stop - start)
    return matrix
