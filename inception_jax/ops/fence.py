"""What the CPU backend of XLA is to compute on its own, and not once more inside whatever reads it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from inception_jax.ops import platforms
from inception_jax.ops.derivatives import Operation


def on_cpu(*arrays: jax.Array) -> tuple[jax.Array, ...]:
    """Returns arrays of one shape and dtype; CPUs compute them in one step, where they stand.

    XLA would otherwise compute statistics of channels again at every pixel that meets them, and the learning rate at
    every parameter: slow to run, and slow to compile. Steps that read no more than arrays are alike for arrays of a
    shape, so that XLA compiles one for all.
    """
    return _fence(None, *arrays)


def _apart(*arrays: jax.Array) -> tuple[jax.Array, ...]:
    """Stacks: XLA drops a barrier before it fuses, but fuses no concatenation into what reads it."""
    together = lax.optimization_barrier(jnp.stack([*arrays, arrays[0]] if len(arrays) == 1 else arrays))
    return tuple(lax.index_in_dim(together, place, keepdims=False) for place in range(len(arrays)))


_fence = Operation(
    fast=lambda _, *arrays: platforms.pick(*arrays, cpu=_apart, default=lambda *same: same),
    plain=lambda _, *arrays: arrays,  # derivatives need no fence
)
