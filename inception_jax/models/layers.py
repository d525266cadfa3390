"""The modules that read a table: the Inception block, residuals, pools, normalisations and the classifiers.

All images and maps are NHWC. Modules get `conv` and `pool` ready-made (see `network.py`) and never see a config.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from inception_jax.models import spec
from inception_jax.models.arguments import TRAINING
from inception_jax.models.convolution import ConvNormAct, initializer, may_pool, run_as_one, run_on_pool
from inception_jax.ops import deferred_norm
from inception_jax.ops.deferred_norm import Maps, settle

ConvFn = Callable[..., ConvNormAct]  # (row, name=...) -> module; (row, parent=None) -> one that is not run
PoolFn = Callable[[Maps, spec.Pool], Maps]


class Inception(nn.Module):
    """Runs every branch on the same input and concatenates them along the channel axis (1409.4842, fig. 2).

    The row at place j of branch i is the sub-module `branch{i}_{j}`: i counts from 1, j from 0, pools included. The 1x1
    convolutions that begin branches are run together.
    """

    branches: spec.Block
    conv: ConvFn
    pool: PoolFn

    @nn.compact
    def __call__(self, maps: Maps, train: bool) -> Maps:
        maps, begun = self._run_pools(maps, train)
        maps = settle(maps) if isinstance(maps, deferred_norm.Parts) else maps
        units = {i: self.conv(branch[0], name=f"branch{i}_0") for i, branch in self._numbered() if _is_1x1(branch[0])}
        together = run_as_one(list(units.values()), maps, train) if units else []
        begun |= {i: (1, made) for i, made in zip(units, together, strict=True)}
        ends = []
        for i, branch in self._numbered():
            start, read = begun.get(i, (0, maps))
            ends.append(run_rows(branch[start:], read, train, self.conv, self.pool, f"branch{i}", start))
        if train:
            return deferred_norm.concatenate(ends)
        return deferred_norm.Parts(tuple(part for end in ends for part in deferred_norm.parts(end)))

    def _run_pools(self, maps: Maps, train: bool) -> tuple[Maps, dict[int, tuple[int, Maps]]]:
        """Runs the branches that `tpu` has kernels for; returns maps for the others, and by branch how far it came."""
        begun: dict[int, tuple[int, Maps]] = {}
        for i, branch in self._numbered():
            if _is_pool_of_1x1(branch) and may_pool(self.conv(branch[1], parent=None), maps, train):
                maps, made = run_on_pool(self.conv(branch[1], name=f"branch{i}_1"), maps)
                begun[i] = 2, made
        return maps, begun

    def _numbered(self) -> Iterator[tuple[int, spec.Branch]]:
        return enumerate(self.branches, start=1)


def _is_1x1(row: spec.Row | spec.Block) -> bool:
    """Returns whether a row is a convolution that may run together with others of its kind."""
    return isinstance(row, spec.Conv) and row.kernel == (1, 1) and row.stride == 1 and row.norm


def _is_pool_of_1x1(branch: spec.Branch) -> bool:
    """Returns whether a branch begins with a 3x3 max pool of stride 1 and a convolution that reads it."""
    return branch[0] == spec.Pool("max") and len(branch) > 1 and _is_1x1(branch[1])


class Residual(nn.Module):
    """Adds what the rows make of [B, H, W, C] to it, or to its shortcut (1602.07261, figs. 10 to 19; 1610.02357).

    The row at place j is the sub-module `rows_{j}`.
    """

    row: spec.Residual
    conv: ConvFn
    pool: PoolFn

    @nn.compact
    def __call__(self, maps: Maps, train: bool) -> jax.Array:
        row = self.row
        maps = settle(maps)
        residual = run_rows(row.rows, maps, train, self.conv, self.pool, prefix="rows")
        if row.up:
            up = spec.Conv(maps.shape[-1], relu=False, norm=False)
            residual = self.conv(up, name="up")(residual, train)
        if row.shortcut is not None:
            maps = settle(self.conv(row.shortcut, name="shortcut")(maps, train))
        maps = maps + row.scale * settle(residual)
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
    def __call__(self, maps: Maps, train: bool) -> jax.Array:
        maps = settle(run_rows(self.head.rows, maps, train, self.conv, self.pool, prefix="rows"))
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
        if train and self.dropout and not (self.has_rng("dropout") or self.has_rng("params")):  # Flax takes either
            raise ValueError(f"train=True draws what dropout leaves out, so it needs rngs: {TRAINING}.")
        features = nn.Dropout(self.dropout)(features, deterministic=not train)
        dtype = jnp.promote_types(features.dtype, jnp.float32)
        return nn.Dense(self.num_classes, kernel_init=initializer(self.kernel_init), dtype=dtype, name="linear")(
            features
        )


def run_rows(
    rows: spec.Branch, maps: Maps, train: bool, conv: ConvFn, pool: PoolFn, prefix: str, start: int = 0
) -> Maps:
    """Runs a chain of rows; the one at place j, counted from `start`, is the caller's sub-module `{prefix}_{j}`."""
    for j, row in enumerate(rows, start):
        maps = run_row(row, maps, train, conv, pool, name=f"{prefix}_{j}")
    return maps


def run_row(row: spec.Row | spec.Block, maps: Maps, train: bool, conv: ConvFn, pool: PoolFn, name: str) -> Maps:
    """Runs one row of a table; rows with parameters become the sub-module `name` of the caller."""
    match row:
        case spec.Conv() | spec.SeparableConv():
            return conv(row, name=name)(maps, train)
        case spec.Pool():
            with jax.named_scope(name):  # profiles tell it apart
                return pool(maps, row)
        case spec.AdaptivePool():
            return adaptive_avg_pool(settle(maps), row.output)
        case spec.LocalResponseNorm():
            return local_response_norm(settle(maps), row)
        case spec.Relu():
            return nn.relu(settle(maps))
        case spec.Channels():
            return deferred_norm.channels(maps, row.start, row.stop)
        case spec.Residual():
            return Residual(row, conv, pool, name=name)(maps, train)
        case branches:
            return Inception(branches, conv, pool, name=name)(maps, train)


def pool(maps: Maps, row: spec.Pool, numerics: spec.Numerics) -> Maps:
    """Max or average pool [B, H, W, C] -> [B, H', W', C]; padding never wins a maximum."""
    high, wide = (spec.border(n, row.window, row.stride, row.padding, numerics.pool_same) for n in maps.shape[1:3])
    if row.kind == "max":
        return deferred_norm.max_pool(maps, row.window, row.stride, (high, wide))
    window, strides = (row.window, row.window), (row.stride, row.stride)
    return nn.avg_pool(settle(maps), window, strides, (high, wide), count_include_pad=numerics.count_padding)


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


def averages(size: int, output: int) -> np.ndarray:
    """Returns the [output, size] matrix whose row i averages the pixels of adaptive window i."""
    matrix = np.zeros((output, size))
    for i in range(output):
        start, stop = i * size // output, -(-(i + 1) * size // output)
        matrix[i, start:stop] = 1 / (stop - start)
    return matrix
