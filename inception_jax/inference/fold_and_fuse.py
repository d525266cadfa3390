"""Folds batch norm into the convolutions and merges parallel 1x1 convolutions, for inference.

The result is another table with its own parameters, and computes the same function:

- `fold`: conv(x, w) followed by batch norm is conv(x, w s) + (b - mean) s + beta, with s = gamma / sqrt(var + epsilon).
- `fuse`: the 1x1 convolutions that begin several branches of a block become one convolution; each branch goes on with a
  slice of its channels.

Slicing channels is slow on TPUs. For them, a branch that is a single 1x1 convolution is not merged. Where the merged
branches all end in a second convolution of the same kind, these become one, too: its kernel is block diagonal, with
zeros where a branch would read the channels of another. The zeros cost nothing: fewer than 128 channels take as long as
128.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import numpy as np
from flax import traverse_util

from inception_jax.models import spec
from inception_jax.models.network import InceptionNet

Params = dict[str, Any]
Flat = dict[tuple[str, ...], np.ndarray]


class Network(NamedTuple):
    """A model and its parameters; there are no batch statistics."""

    model: InceptionNet
    params: Params


def for_inference(model: InceptionNet, variables: dict[str, Any], platform: str | None = None) -> Network:
    """Returns a network with the same logits and endpoints as `model` in evaluation; auxiliary heads are left out.

    Args:
      model, variables: as trained, or loaded.
      platform: the platform that will run it, by JAX's name; None: any.
    """
    return fuse(fold(model.clone(aux_heads={}), variables), on_tpu=platform == "tpu")


def fold(model: InceptionNet, variables: dict[str, Any]) -> Network:
    """Returns the network with batch norms folded into the convolutions, which then have biases."""
    norm = model.numerics.norm
    params = {path: leaf for path, leaf in _flat(variables["params"]).items() if not path[0].startswith("aux_")}
    if norm is None:
        return Network(model, traverse_util.unflatten_dict(params))
    statistics = _flat(variables["batch_stats"])
    for path in [path for path in params if path[-2:] == ("bn", "bias")]:
        unit = path[:-2]
        layer = "pointwise" if (*unit, "pointwise", "kernel") in params else "conv"
        mean, var = (statistics[*unit, "bn", leaf].astype(np.float64) for leaf in ("mean", "var"))
        scale = params.pop((*unit, "bn", "scale"), np.ones_like(mean)) / np.sqrt(var + norm.epsilon)
        bias = params.get((*unit, layer, "bias"), np.zeros_like(mean))
        kernel = params[*unit, layer, "kernel"]
        params[*unit, layer, "kernel"] = (kernel * scale.reshape(1, 1, 1, -1)).astype(np.float32)
        params[*unit, layer, "bias"] = (params.pop(path) + (bias - mean) * scale).astype(np.float32)
    numerics = model.numerics._replace(norm=None, conv_bias=False)
    return Network(model.clone(numerics=numerics), traverse_util.unflatten_dict(params))


def fuse(network: Network, on_tpu: bool) -> Network:
    """Returns the network in which the leading 1x1 convolutions of neighbouring branches are one.

    Args:
      network: without batch norms.
      on_tpu: whether to merge for TPUs: see the module.
    """
    model, params = network
    table, new_params = {}, dict(params)
    for name, row in model.table.items():
        module = spec.module_name(name, row)
        table[name], fused = _fuse_row(row, params.get(module, {}), on_tpu)
        if fused:
            new_params[module] = fused
    return Network(model.clone(table=table), new_params)


def _fuse_row(row: spec.Row | spec.Block, params: Params, on_tpu: bool) -> tuple[spec.Row | spec.Block, Params]:
    if isinstance(row, spec.Residual):
        rows, new_params = [], dict(params)
        for j, part in enumerate(row.rows):
            # Its branches reduce many channels to few: the slices would cost more than one shared read saves.
            fused, its_params = _fuse_row(part, params.get(f"rows_{j}", {}), on_tpu=False)
            rows.append(fused)
            if its_params:
                new_params[f"rows_{j}"] = its_params
        return row._replace(rows=tuple(rows)), new_params
    if isinstance(row, spec.Row):
        return row, params
    return _fuse_block(row, params, on_tpu)


def _fuse_block(block: spec.Block, params: Params, on_tpu: bool) -> tuple[spec.Block, Params]:
    start, stop = _run(block, shortest=2 if on_tpu else 1)
    if stop - start < 2:
        return block, params
    branches, numbers = block[start:stop], range(start + 1, stop + 1)
    units = [params[f"branch{i}_0"]["conv"] for i in numbers]
    first = {"conv": {leaf: np.concatenate([unit[leaf] for unit in units], axis=-1) for leaf in units[0]}}
    rest: spec.Row | spec.Block
    if on_tpu and _end_alike(branches):
        rest = _wider(branches, 1)
        its_params = {"conv": _block_diagonal([params[f"branch{i}_1"]["conv"] for i in numbers])}
    else:
        ends = np.cumsum([0, *(cast(spec.Conv, branch[0]).features for branch in branches)]).tolist()
        rest = tuple((spec.Channels(*ends[i : i + 2]), *branch[1:]) for i, branch in enumerate(branches))
        its_params = {
            f"branch{_branch(name) - start}_{_row(name)}": value
            for name, value in params.items()
            if _branch(name) in numbers and _row(name)
        }
    new_params = {
        f"branch{i if i <= start else i - (stop - start - 1)}_{_row(name)}": value
        for name, value in params.items()
        if (i := _branch(name)) not in numbers
    } | {f"branch{start + 1}_0": first}
    if its_params:
        new_params[f"branch{start + 1}_1"] = its_params
    return (*block[:start], (_wider(branches, 0), rest), *block[stop:]), new_params


def _run(block: spec.Block, shortest: int) -> tuple[int, int]:
    """Returns (start, stop) of the first run of branches that have `shortest` rows or more and begin with a 1x1."""
    begin = [len(branch) >= shortest and _is_plain_1x1(branch[0]) for branch in block]
    start = begin.index(True) if any(begin) else 0
    return start, begin.index(False, start) if False in begin[start:] else len(block)


def _is_plain_1x1(row: spec.Row | spec.Block) -> bool:
    return isinstance(row, spec.Conv) and row == spec.Conv(row.features, init=row.init)


def _end_alike(branches: Sequence[spec.Branch]) -> bool:
    """Returns whether each branch ends in its second row, a convolution, and these differ only in features."""
    rests = [branch[1:] for branch in branches]
    if not all(len(rest) == 1 and isinstance(rest[0], spec.Conv) for rest in rests):
        return False
    return len({cast(spec.Conv, rest[0])._replace(features=0, init=None) for rest in rests}) == 1


def _wider(branches: Sequence[spec.Branch], row: int) -> spec.Conv:
    """Returns one convolution with the features of row `row` of all branches."""
    rows = [cast(spec.Conv, branch[row]) for branch in branches]
    return rows[0]._replace(features=sum(each.features for each in rows))


def _block_diagonal(units: Sequence[Params]) -> Params:
    """Returns one convolution with a block-diagonal kernel: each unit reads only its own slice of the channels."""
    kernels = [unit["kernel"] for unit in units]
    channels = [sum(kernel.shape[2] for kernel in kernels[:i]) for i in range(len(kernels) + 1)]
    padded = [
        np.pad(kernel, ((0, 0), (0, 0), (start, channels[-1] - start - kernel.shape[2]), (0, 0)))
        for kernel, start in zip(kernels, channels, strict=False)
    ]
    joined = {leaf: np.concatenate([unit[leaf] for unit in units], axis=-1) for leaf in units[0] if leaf != "kernel"}
    return joined | {"kernel": np.concatenate(padded, axis=-1)}


def _branch(name: str) -> int:
    """Returns i of `branch{i}_{j}`."""
    return int(name.removeprefix("branch").partition("_")[0])


def _row(name: str) -> int:
    """Returns j of `branch{i}_{j}`."""
    return int(name.rpartition("_")[2])


def _flat(tree: dict[str, Any]) -> Flat:
    return {path: np.asarray(leaf) for path, leaf in traverse_util.flatten_dict(tree).items()}
