"""Data parallelism by `shard_map`: each device computes gradients of its own images, then they are summed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from inception_jax.parallel.mesh import AXES

GradientFn = Callable[[Any, Any, Any, jax.Array], tuple[Any, Any, Any]]


def on_each_device(gradients: GradientFn, mesh: Mesh, param_specs: Any) -> GradientFn:
    """Returns a function like `gradients`, for a batch that is sharded over the devices of `mesh`.

    Each device runs `gradients` on its own images, with its own random key; the forward and the backward pass do not
    communicate. Then gradients and sums are added over the devices and batch statistics are averaged, all at one place,
    which compilers merge into a few all-reduces. Parameters that are sharded over "fsdp" are gathered first, and their
    gradients are reduce-scattered.

    Args:
      gradients: (params, batch_stats, batch, rng) -> (gradients of a sum over the images, batch_stats, sums).
      mesh: with the axes `AXES`.
      param_specs: a PartitionSpec for each parameter, over "fsdp" only.
    """
    specs = traverse_util.flatten_dict(param_specs, sep="/")

    def local(params, batch_stats, batch, rng):
        rng = jax.random.fold_in(rng, jax.lax.axis_index(AXES))
        grads, own_stats, sums = gradients(jax.tree.map(_gather, params, param_specs), batch_stats, batch, rng)
        # Changes are averaged, not the statistics, so that frozen ones stay bit-identical.
        changes = jax.tree.map(lambda old, new: (old - new) / mesh.size, batch_stats, own_stats)
        flat = traverse_util.flatten_dict(jax.tree.map(_scatter, grads, param_specs), sep="/")
        sharded = {path: grad for path, grad in flat.items() if specs[path] != P()}
        whole = {path: grad for path, grad in flat.items() if specs[path] == P()}
        whole, changes, sums = jax.lax.psum((whole, changes, sums), AXES)
        whole |= jax.lax.psum(sharded, "data")
        batch_stats = jax.tree.map(jnp.subtract, batch_stats, changes)
        return traverse_util.unflatten_dict(whole, sep="/"), batch_stats, sums

    return jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(param_specs, P(), P(AXES), P()),
        out_specs=(param_specs, P(), P()),
        check_vma=False,  # the gradients are those of one device until they are added up
    )


def _gather(leaf: jax.Array, spec: P) -> jax.Array:
    return leaf if spec == P() else jax.lax.all_gather(leaf, "fsdp", axis=spec.index("fsdp"), tiled=True)


def _scatter(grad: jax.Array, spec: P) -> jax.Array:
    if spec == P():
        return grad
    return jax.lax.psum_scatter(grad, "fsdp", scatter_dimension=spec.index("fsdp"), tiled=True)
