"""The device mesh, and the shardings of batches and state on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from inception_jax.errors import UserError

AXES = ("data", "fsdp")
SMALLEST_SHARDED = 2**14  # elements; smaller arrays are replicated, since gathering them costs more than it saves


def create_mesh(data: int, fsdp: int, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns a mesh ("data", "fsdp") over `devices`, or all devices; data = -1 means their number / fsdp.

    Raises:
      UserError: the product is not the number of devices.
    """
    count = jax.device_count() if devices is None else len(devices)
    if data == -1 and count % fsdp == 0:
        data = count // fsdp
    if data * fsdp != count:
        raise UserError(f"config.mesh is data={data}, fsdp={fsdp}; their product must be the {count} devices.")
    return jax.make_mesh((data, fsdp), AXES, axis_types=(jax.sharding.AxisType.Auto,) * 2, devices=devices)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a batch: its first axis over all devices."""
    return NamedSharding(mesh, P(AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of an array that is replicated on every device."""
    return NamedSharding(mesh, P())


def state_shardings(abstract_state: Any, mesh: Mesh) -> Any:
    """Returns a sharding for each leaf: over "fsdp" along its largest divisible axis, replicated if it is small."""
    return jax.tree.map(lambda leaf: NamedSharding(mesh, _spec(leaf, mesh.shape["fsdp"])), abstract_state)


def _spec(leaf: jax.ShapeDtypeStruct, fsdp: int) -> P:
    divisible = [axis for axis, size in enumerate(leaf.shape) if size % fsdp == 0]
    if fsdp == 1 or leaf.size < SMALLEST_SHARDED or not divisible:
        return P()
    largest = max(divisible, key=lambda axis: leaf.shape[axis])
    return P(*("fsdp" if axis == largest else None for axis in range(len(leaf.shape))))


def shard_batch(batch: Mapping[str, np.ndarray], sharding: NamedSharding) -> dict[str, jax.Array]:
    """Returns global arrays [B, ...] from this process's rows of a batch [b, ...]; the copy runs in the background."""
    with jax.transfer_guard_host_to_device("allow"):  # with several processes the guard would refuse this copy
        return {name: jax.make_array_from_process_local_data(sharding, array) for name, array in batch.items()}


def place(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """Returns a global array from its full value, which every process passes; each device copies its shard."""
    return jax.make_array_from_callback(array.shape, sharding, lambda index: np.asarray(array)[index])
