"""Layers of an Inception block that run together: the same values and parameters, in fewer passes over the input.

Several branches of a block begin with a 1x1 convolution of the same input. In training those are one convolution, whose
outputs are divided among the branches. Where `ops` has one kernel for both, a max pool and the 1x1 convolution behind
it are one step.
For inference, `inference.fold_and_fuse` rewrites tables and parameters instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeGuard

from inception_jax.models import spec
from inception_jax.models.convolution import ConvNormAct, run_as_one, run_on_pool, runs_on_pool
from inception_jax.ops.deferred_norm import Activations, LazyConcatenation, apply_norm

RunFn = Callable[..., Activations]  # (row, x, name=...) -> output


def run_together(
    branches: spec.Block, x: Activations, train: bool, conv: Callable[..., ConvNormAct], run: RunFn
) -> tuple[Activations, RunFn]:
    """Runs those layers of a block that are faster together.

    Args:
      branches: the block.
      x: its input [B, H, W, C].
      train: whether batch norm uses the statistics of the batch.
      conv: (row, name=...) -> a sub-module of the caller; with parent=None, one that has no parameters and cannot run.
      run: runs a row as the sub-module `name` of the caller.

    Returns:
      the input that all branches are to read, and a `run` that returns the outputs of layers that have run already.
    """
    outputs: dict[str, Activations] = {}
    for name, row in _convolutions_of_pools(branches):
        if runs_on_pool(conv(row, parent=None), x, train):
            x, outputs[name] = run_on_pool(conv(row, name=name), x)
    x = apply_norm(x) if isinstance(x, LazyConcatenation) else x
    first_rows = [(f"branch{i}_0", branch[0]) for i, branch in enumerate(branches, start=1)]
    leading = [(name, row) for name, row in first_rows if _is_1x1(row)]
    if train and leading and conv(leading[0][1], parent=None).has_norm:
        names, rows = zip(*leading, strict=True)
        units = [conv(row, name=name) for name, row in zip(names, rows, strict=True)]
        outputs |= zip(names, run_as_one(units, x), strict=True)
    return x, lambda row, x, name: outputs[name] if name in outputs else run(row, x, name=name)


def _convolutions_of_pools(branches: spec.Block) -> Iterator[tuple[str, spec.Conv]]:
    """Yields name and row of the 1x1 convolutions that follow a 3x3 max pool of stride 1 at the start of a branch."""
    for i, branch in enumerate(branches, start=1):
        if branch[0] == spec.Pool("max") and len(branch) > 1 and _is_1x1(branch[1]):
            yield f"branch{i}_1", branch[1]


def _is_1x1(row: spec.Row | spec.Block) -> TypeGuard[spec.Conv]:
    """Returns whether a row is a convolution that may run together with others of its kind."""
    return isinstance(row, spec.Conv) and row.kernel == (1, 1) and row.stride == 1 and row.norm
