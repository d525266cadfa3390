"""Arrays that XLA's CPU backend computes once, instead of anew inside every operation that reads them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from inception_jax.ops import platforms
from inception_jax.ops.derivatives import Operation


def compute_once(*arrays: jax.Array) -> tuple[jax.Array, ...]:
    """Returns arrays of one shape and dtype, which CPUs compute in a step of their own.

    XLA would otherwise compute the statistics of a channel again at every pixel that reads them, and the learning rate
    again at every parameter: slow to run, and slow to compile. Operations that read arrays alone are the same for all
    arrays of a shape, so XLA compiles one for all.
    """
    return _fence(None, *arrays)


def _stacked(*arrays: jax.Array) -> tuple[jax.Array, ...]:
    """Returns the arrays by way of one stack: XLA drops a barrier before it fuses, but fuses no concatenation."""
    stack = lax.optimization_barrier(jnp.stack([*arrays, arrays[0]] if len(arrays) == 1 else arrays))
    return tuple(lax.index_in_dim(stack, index, keepdims=False) for index in range(len(arrays)))


_fence = Operation(
    fast=lambda _, *arrays: platforms.pick(*arrays, cpu=_stacked, default=lambda *same: same),
    plain=lambda _, *arrays: arrays,  # derivatives need no fence
)
