"""Pallas kernels for TPUs: a 1x1 convolution that computes the 3x3 max pool of stride 1 while it reads its input.

XLA writes a pool to memory and reads it again. In its backward pass it writes the gradient of the pool, then that of
the pool's input, and then adds the gradients from the other readers of that input. Here none of these is written: the
forward pass reads the input x, the backward pass reads x and the other gradient, and writes the sum.

A kernel walks down the rows of LANES images. TPUs lay out activations [B, H, W, C] of so many images with images
innermost, then channels: seen as [H, W, C, B] they are read row by row without a copy.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

LANES = 128  # images that a kernel works on at a time
CHANNELS = 16  # that it pools at a time, in registers
MEMORY = 15 * 2**20  # bytes of the chip's VMEM for the arrays of a kernel; the limit is 16 MiB
MOST_BLOCKS = 4  # of channels in the backward pass: each reads the gradient of the output again
TOO_OLD = ("TPU v2", "TPU v3")  # Pallas has no products of bfloat16 for them


def fits(
    device: str, shape: Sequence[int], features: int, dtype: Any, groups: int = 1, slices: Sequence[int] = ()
) -> bool:
    """Returns whether the kernels can run on activations [B, H, W, C] of a dtype.

    Args:
      device: the kind of TPU, as `jax.Device.device_kind` says it.
      shape, dtype: of the activations.
      features: of the convolution.
      groups: of images that are normalised together.
      slices: channels of each slice, if the activations are not concatenated.
    """
    if device in TOO_OLD or dtype != jnp.bfloat16:
        return False
    images, _, width, channels = shape
    if not images or images % (LANES * groups) or width < 2 or any(each % CHANNELS for each in (channels, *slices)):
        return False
    forward = LANES * (width * (10 * channels + 4 * features) + 24 * channels) + 2 * channels * features
    return forward <= MEMORY and channels <= MOST_BLOCKS * _block(width, channels, features)


def _block(width: int, channels: int, features: int) -> int:
    """Returns the channels of a block of the backward pass: the most that fit and divide all channels; 0: none do."""
    for block in range(channels, 0, -CHANNELS):
        held = LANES * (width * (28 * block + 4 * features) + 40 * block) + 12 * block * max(features, LANES)
        if channels % block == 0 and held <= MEMORY:
            return block
    return 0


def conv(
    slices: Sequence[jax.Array],
    kernel: jax.Array,
    bias: jax.Array | None = None,
    norm: jax.Array | None = None,
    relu: bool = False,
) -> jax.Array:
    """Returns the convolution [B, H, W, F] of the max pool of activations that `fits`; it has no gradient.

    Args:
      slices: the activations, some channels each: [B, H, W, C'].
      kernel: [1, 1, C, F] of their dtype.
      bias: [F].
      norm: mean, scale and bias [3, G, C] of G groups of images, by which the pool is normalised before a ReLU.
      relu: whether a ReLU ends it.
    """
    images, height, width, _ = slices[0].shape
    features, channels = kernel.shape[3], [each.shape[3] for each in slices]
    stops = list(itertools.accumulate(channels))[:-1]
    kernels = jnp.split(kernel[0, 0].T, stops, axis=1)
    norms = [] if norm is None else jnp.split(norm[..., None], stops, axis=2)
    bias = jnp.zeros(features) if bias is None else bias

    def whole(array: jax.Array) -> pl.BlockSpec:
        return pl.BlockSpec(array.shape, lambda b, h: (0,) * array.ndim)

    def of_group(norm: jax.Array) -> pl.BlockSpec:
        lanes = images // LANES // norm.shape[1]
        return pl.BlockSpec((3, 1, *norm.shape[2:]), lambda b, h: (0, jax.lax.div(b, lanes), 0, 0))

    column_bias = bias.astype(jnp.float32)[:, None]
    pixels = images * height * width
    output = pl.pallas_call(
        functools.partial(_conv_rows, slices=len(slices), relu=relu),
        grid=(images // LANES, height + 1),
        in_specs=[
            *(_row(width, each, lambda b, h: (_within(h, height), 0, b)) for each in channels),
            *map(whole, kernels),
            whole(column_bias),
            *map(of_group, norms),
        ],
        out_specs=_row(width, features, lambda b, h: (_within(h - 1, height), 0, b)),
        out_shape=jax.ShapeDtypeStruct((height, width, features, images), kernel.dtype),
        scratch_shapes=[pltpu.VMEM((width, each, LANES), kernel.dtype) for each in channels for _ in range(3)],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary")),
        cost_estimate=_cost(
            flops=2 * pixels * sum(channels) * features,
            bytes_accessed=pixels * (sum(channels) + features) * kernel.dtype.itemsize,
        ),
        name="pooled_conv",
    )(*(_images_last(each) for each in slices), *kernels, column_bias, *norms)
    return _images_first(output)


def _conv_rows(*refs, slices, relu):
    """Convolves row h - 1 of the pool, in step h of height + 1; the last step reads the last row again."""
    x, kernels, (bias, *norms, output) = refs[:slices], refs[slices : 2 * slices], refs[2 * slices : -3 * slices]
    above, two_above, pools = (refs[-3 * slices + i :: 3] for i in range(3))

    @pl.when(pl.program_id(1) == 0)
    def _begin():
        for row in (*above, *two_above):
            row[...] = jnp.full_like(row, -jnp.inf)

    def pool_some(i: int, some: pl.Slice) -> None:
        row = _columns(x[i].at[0], some)
        norm = _constants(norms[i], some) if norms else None
        for column in range(output.shape[1]):
            wide = _widest(row, column)
            last, last_two = (kept[i][column, some].astype(jnp.float32) for kept in (above, two_above))
            above[i][column, some] = wide.astype(output.dtype)
            two_above[i][column, some] = jnp.maximum(last, wide).astype(output.dtype)
            pooled = jnp.maximum(last_two, wide)
            if norm is not None:
                pooled = jnp.maximum((pooled - norm[0]) * norm[1] + norm[2], 0)
            pools[i][column, some] = pooled.astype(output.dtype)

    for i, each in enumerate(x):
        _for_some_channels(each.shape[2], functools.partial(pool_some, i))
    for column in range(output.shape[1]):
        products = [_dot(kernel[...], pool[column]) for kernel, pool in zip(kernels, pools, strict=True)]
        features = sum(products, bias[...])
        output[0, column] = (jnp.maximum(features, 0) if relu else features).astype(output.dtype)


def gradients(
    x: jax.Array, kernel: jax.Array, norm: jax.Array, grads: jax.Array, others: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the gradients of `conv` with a norm: for x in its dtype, for the kernel and the norm in float32.

    The gradient of a pool goes to the first maximum of a window, row by row.

    Args:
      x, kernel, norm: see `conv`; x is one slice.
      grads: [B, H, W, F], the gradient of the output.
      others: [B, H, W, C], the gradient for x from all its other readers, which is added.
    """
    images, height, width, channels = x.shape
    features, groups, lanes = kernel.shape[3], norm.shape[1], images // LANES
    block = _block(width, channels, features)
    blocks = channels // block

    def row(delay: int) -> pl.BlockSpec:
        return _row(width, block, lambda b, c, h: (_within(h - delay, height), c, b))

    by_x, by_kernel, sums = pl.pallas_call(
        functools.partial(_gradient_rows, height=height),
        grid=(lanes, blocks, height + 2),
        in_specs=[
            row(0),
            pl.BlockSpec((block, features), lambda b, c, h: (c, 0)),
            pl.BlockSpec((3, 1, block, 1), lambda b, c, h: (0, jax.lax.div(b, lanes // groups), c, 0)),
            _row(width, features, lambda b, c, h: (_within(h - 1, height), 0, b)),
            row(2),
        ],
        out_specs=[
            row(2),
            pl.BlockSpec((1, block, features), lambda b, c, h: (b, c, 0)),
            pl.BlockSpec((1, 2, block, LANES), lambda b, c, h: (b, 0, c, 0)),
        ],
        out_shape=[
            jax.ShapeDtypeStruct((height, width, channels, images), x.dtype),
            jax.ShapeDtypeStruct((lanes, channels, features), jnp.float32),
            jax.ShapeDtypeStruct((lanes, 2, channels, LANES), jnp.float32),
        ],
        scratch_shapes=[pltpu.VMEM((width, block, LANES), dtype) for dtype in [x.dtype] * 4 + [jnp.float32] * 2],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "arbitrary")),
        cost_estimate=_cost(flops=4 * x.size * features, bytes_accessed=3 * x.nbytes + blocks * grads.nbytes),
        name="pooled_conv_gradients",
    )(_images_last(x), kernel[0, 0], norm[..., None], _images_last(grads), _images_last(others))
    passed, distance = sums.reshape(groups, -1, 2, channels, LANES).sum((1, 4)).swapaxes(0, 1)
    by_norm = jnp.stack([-norm[1] * passed, distance, passed])
    return _images_first(by_x), by_kernel.sum(0)[None, None], by_norm


def _gradient_rows(x, kernel, norm, grads, others, by_x, by_kernel, sums, *kept, height):
    """Adds up gradients, in step h of height + 2: it reads row h, pools row h - 1 and writes row h - 2.

    The first two steps write rows -2 and -1, computed from whatever was in memory, to the place of row 0, which step 2
    then overwrites.
    """
    above, here, pool, by_pool, to_above, to_here = kept
    width = len(pool)
    h = pl.program_id(2)
    has_pool = (h > 0) & (h <= height)

    @pl.when(h == 0)
    def _begin():
        above[...] = here[...] = jnp.full_like(here, -jnp.inf)
        by_kernel[...], sums[...] = jnp.zeros_like(by_kernel), jnp.zeros_like(sums)

    @pl.when(has_pool)
    def _gradient_by_pool():
        for column in range(width):
            by_pool[column] = _dot(kernel[...], grads[0, column]).astype(by_pool.dtype)

    @pl.when(~has_pool)
    def _no_gradient():
        by_pool[...] = jnp.zeros_like(by_pool)

    def add_some(some: pl.Slice) -> None:
        rows = [_columns(ref, some) for ref in (above, here, x.at[0])]
        mean, scale, bias = _constants(norm, some)
        passed_sum = distance_sum = jnp.zeros((CHANNELS, LANES), jnp.float32)
        to_columns: list[tuple[jax.Array, ...]] = []  # from each: to its left, to itself, to its right

        def write(column: int) -> None:
            others_here = others[0, column, some].astype(jnp.float32)
            neighbours = range(max(column - 1, 0), min(column + 2, width))
            total = sum((to_columns[each][1 + column - each] for each in neighbours), others_here)
            by_x[0, column, some] = total.astype(by_x.dtype)

        for column in range(width):
            wide = [_widest(row, column) for row in rows]
            distance = functools.reduce(jnp.maximum, wide) - mean
            normed = jnp.maximum(distance * scale + bias, 0)
            pool[column, some] = normed.astype(pool.dtype)
            passed = jnp.where(normed > 0, by_pool[column, some].astype(jnp.float32), 0)
            passed_sum, distance_sum = passed_sum + passed, distance_sum + passed * distance
            to_rows = _to_first_maximum(passed * scale, wide)
            near = [rows[0](column + step) for step in (-1, 0, 1)]
            to_columns.append(_to_first_maximum(to_above[column, some] + to_rows[0], near))
            to_above[column, some], to_here[column, some] = to_here[column, some] + to_rows[1], to_rows[2]
            above[column, some], here[column, some] = here[column, some], x[0, column, some]
            if column:
                write(column - 1)
        write(width - 1)
        sums[0, 0, some] += passed_sum
        sums[0, 1, some] += distance_sum

    _for_some_channels(x.shape[2], add_some)

    @pl.when(has_pool)
    def _gradient_by_kernel():
        by_kernel[0] += sum(_dot(pool[column], grads[0, column], over=1) for column in range(width))


def _for_some_channels(channels: int, run: Callable[[Any], None]) -> None:
    def step(i, carry):
        run(pl.ds(i * CHANNELS, CHANNELS))
        return carry

    jax.lax.fori_loop(0, channels // CHANNELS, step, 0)


def _columns(row: Any, some: pl.Slice) -> Callable[[int], jax.Array]:
    """Returns a function of the number of a column of a row [W, C, B]: some channels of it, -infinity beyond the ends.

    Columns are in float32, and worked on one after the other: registers hold no more.
    """

    @functools.cache
    def column(number: int) -> jax.Array:
        if not 0 <= number < row.shape[0]:
            return jnp.full((CHANNELS, LANES), -jnp.inf)
        return row[number, some].astype(jnp.float32)

    return column


def _constants(norm: Any, some: pl.Slice) -> jax.Array:
    """Returns mean, scale and bias [3, CHANNELS, LANES] of some channels, broadcast once for all columns."""
    return jnp.broadcast_to(norm[:, 0, some], (3, CHANNELS, LANES))


def _widest(row: Callable[[int], jax.Array], column: int) -> jax.Array:
    return functools.reduce(jnp.maximum, [row(column + step) for step in (-1, 0, 1)])


def _to_first_maximum(grads: jax.Array, values: Sequence[jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the gradients for three values, given that of their maximum; the first maximum gets all of it."""
    first, second, third = values
    is_first = (first >= second) & (first >= third)
    is_second = ~is_first & (second >= third)
    return jnp.where(is_first, grads, 0), jnp.where(is_second, grads, 0), jnp.where(is_first | is_second, 0, grads)


def _dot(left: jax.Array, right: jax.Array, over: int = 0) -> jax.Array:
    """Returns the product over the last axis of one and axis `over` of the other, in float32."""
    return jax.lax.dot_general(left, right, (((1,), (over,)), ((), ())), preferred_element_type=jnp.float32)


def _row(width: int, channels: int, place: Callable[..., tuple[Any, Any, Any]]) -> pl.BlockSpec:
    """Returns the block of a row of [H, W, C, B]; `place` gives the indices of row, channels and images in a step."""

    def index(*step):
        row, some, lanes = place(*step)
        return row, 0, some, lanes

    return pl.BlockSpec((1, width, channels, LANES), index)


def _within(row: Any, height: int) -> Any:
    return jnp.clip(row, 0, height - 1)


def _images_last(x: jax.Array) -> jax.Array:
    return x.transpose(1, 2, 3, 0)


def _images_first(x: jax.Array) -> jax.Array:
    return x.transpose(3, 0, 1, 2)


def _cost(flops: int, bytes_accessed: int) -> pl.CostEstimate:
    return pl.CostEstimate(flops=flops, bytes_accessed=bytes_accessed, transcendentals=0)
