"""A network as a module of `flax.nnx`, by Flax's own bridge. `ij.nnx` is this module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import nnx, traverse_util

from inception_jax.models.network import InceptionNet, ModelOutput

KINDS: dict[str, type[nnx.Variable[Any]]] = {"params": nnx.Param, "batch_stats": nnx.BatchStat}


class Network(nnx.bridge.ToNNX):
    """A network with its variables: `net(images)` evaluates, `net(images, train=True)` updates the running statistics.

    Parameters are `nnx.Param` and running statistics `nnx.BatchStat`; the paths are those of Linen without the
    collection: `net.conv1["conv"]["kernel"]`. Training draws dropout from the stream "dropout" of the `nnx.Rngs` that
    `to_nnx` got, or of `rngs` in the call.
    """

    def __call__(self, *args: Any, mutable: Any = None, **options: Any) -> ModelOutput:
        """Returns what `InceptionNet.__call__` returns for (images, train=False); see there for the errors."""
        trains = options.get("train", args[1] if len(args) > 1 else False)
        return super().__call__(*args, mutable=["batch_stats"] if trains and mutable is None else mutable, **options)


def to_nnx(model: InceptionNet, variables: Mapping[str, Any], rngs: nnx.Rngs | None = None) -> Network:
    """Returns a network of the zoo as a `flax.nnx` module that holds these variables.

    `nnx.jit`, `nnx.grad`, `nnx.split`, `nnx.Optimizer` and the others take it as they take any module.

    Args:
      model: from `ij.create_model`.
      variables: {"params", "batch_stats"}, from `model.init` or of `Weights`.
      rngs: for dropout in training, such as `nnx.Rngs(dropout=0)`.

    Raises:
      ValueError: the variables have other collections, or none.
    """
    if not isinstance(variables, Mapping) or not variables or set(variables) - KINDS.keys():
        found = ", ".join(map(repr, variables)) if isinstance(variables, Mapping) else type(variables).__name__
        raise ValueError(f"variables are {found or 'empty'}; they must be {{'params': ..., 'batch_stats': ...}}.")
    flat = {
        path: KINDS[collection](jnp.asarray(leaf))
        for collection, tree in variables.items()
        for path, leaf in traverse_util.flatten_dict(dict(tree)).items()
    }
    net = Network(model, rngs)
    for module, tree in traverse_util.unflatten_dict(flat).items():
        setattr(net, module, nnx.data(tree))
    return net


def to_linen(net: Network) -> dict[str, Any]:
    """Returns the variables of a network as Linen takes them: {"params", "batch_stats"}, for `InceptionNet.apply`."""
    return {name: nnx.to_pure_dict(nnx.state(net, kind)) for name, kind in KINDS.items()}
