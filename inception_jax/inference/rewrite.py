"""The network that inference runs: the same function in fewer steps. A rewrite gives another table, and its parameters.

Batch norm becomes part of the convolution before it, and the 1x1 convolutions that begin several branches of a block
become one, whose channels the branches share out.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import numpy as np
from flax import traverse_util

from inception_jax.models import spec
from inception_jax.models.network import InceptionNet

Params = dict[str, Any]
Flat = dict[tuple[str, ...], np.ndarray]


class Network(NamedTuple):
    """A model, and the parameters that it needs; it has no batch statistics."""

    model: InceptionNet
    params: Params


def for_inference(model: InceptionNet, variables: dict[str, Any]) -> Network:
    """Returns a network with the logits and endpoints of `model` in evaluation; auxiliary heads are left out."""
    return fuse(fold(model.clone(aux_heads={}), variables))


def fold(model: InceptionNet, variables: dict[str, Any]) -> Network:
    """Returns the network whose convolutions have biases in place of batch norms."""
    norm = model.numerics.norm
    params = {path: leaf for path, leaf in _flat(variables["params"]).items() if not path[0].startswith("aux_")}
    if norm is None:
        return Network(model, traverse_util.unflatten_dict(params))
    statistics = _flat(variables["batch_stats"])
    for path in [path for path in params if path[-2:] == ("bn", "bias")]:
        unit = path[:-2]
        layer = "pointwise" if (*unit, "pointwise", "kernel") in params else "conv"
        mean, var = (statistics[*unit, "bn", leaf].astype(np.float64) for leaf in ("mean", "var"))
        gain = params.pop((*unit, "bn", "scale"), np.ones_like(mean)) / np.sqrt(var + norm.epsilon)
        bias = params.get((*unit, layer, "bias"), np.zeros_like(mean))
        kernel = params[*unit, layer, "kernel"]
        params[*unit, layer, "kernel"] = (kernel * gain.reshape(1, 1, 1, -1)).astype(np.float32)
        params[*unit, layer, "bias"] = (params.pop(path) + (bias - mean) * gain).astype(np.float32)
    numerics = model.numerics._replace(norm=None, conv_bias=False)
    return Network(model.clone(numerics=numerics), traverse_util.unflatten_dict(params))


def fuse(network: Network) -> Network:
    """Returns the network in which leading 1x1 convolutions of neighbouring branches are one; it has no batch norms."""
    model, params = network
    table, new_params = {}, dict(params)
    for name, row in model.table.items():
        module = spec.module_name(name, row)
        table[name], fused = _fuse_row(row, params.get(module, {}))
        if fused:
            new_params[module] = fused
    return Network(model.clone(table=table), new_params)


def _fuse_row(row: spec.Row | spec.Block, params: Params) -> tuple[spec.Row | spec.Block, Params]:
    if isinstance(row, spec.Residual):
        rows, new_params = [], dict(params)
        for j, part in enumerate(row.rows):
            fused, its_params = _fuse_row(part, params.get(f"rows_{j}", {}))
            rows.append(fused)
            if its_params:
                new_params[f"rows_{j}"] = its_params
        return row._replace(rows=tuple(rows)), new_params
    if isinstance(row, spec.Row):
        return row, params
    return _fuse_block(row, params)


def _fuse_block(block: spec.Block, params: Params) -> tuple[spec.Block, Params]:
    count = _leading(block)
    if count < 2:
        return block, params
    firsts = [cast(spec.Conv, branch[0]) for branch in block[:count]]
    ends = np.cumsum([0, *(first.features for first in firsts)]).tolist()
    shares = tuple(
        (spec.Channels(start, stop), *branch[1:])
        for start, stop, branch in zip(ends, ends[1:], block[:count], strict=False)
    )
    units = [params[f"branch{i}_0"]["conv"] for i in range(1, count + 1)]
    joined = {leaf: np.concatenate([unit[leaf] for unit in units], axis=-1) for leaf in units[0]}
    shared = {name: value for name, value in params.items() if _branch(name) <= count and not name.endswith("_0")}
    rest = {
        f"branch{_branch(name) - count + 1}_{name.rpartition('_')[2]}": value
        for name, value in params.items()
        if _branch(name) > count
    }
    new_block = ((firsts[0]._replace(features=ends[-1]), shares), *block[count:])
    return new_block, {"branch1_0": {"conv": joined}, **({"branch1_1": shared} if shared else {}), **rest}


def _leading(block: spec.Block) -> int:
    """Returns how many branches, from the first on, begin with equal 1x1 convolutions."""
    count = 0
    for branch in block:
        first = branch[0]
        plain = isinstance(first, spec.Conv) and first == spec.Conv(first.features, init=first.init)
        if not plain:
            break
        count += 1
    return count


def _branch(name: str) -> int:
    """Returns i of `branch{i}_{j}`."""
    return int(name.removeprefix("branch").partition("_")[0])


def _flat(tree: dict[str, Any]) -> Flat:
    return {path: np.asarray(leaf) for path, leaf in traverse_util.flatten_dict(tree).items()}
