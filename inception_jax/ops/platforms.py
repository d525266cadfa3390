"""Which platform a program is compiled for, and the implementation that it holds there."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
from jax import lax


class _Target(NamedTuple):
    """The devices that a program is for, all of one kind, such as "TPU v5 lite"."""

    platform: str
    kind: str
    devices: int


_target = jax.make_user_context(None)


def pick(*arrays: Any, default: Callable, **by_platform: Callable) -> Any:
    """Runs the function for the platform on trees of arrays; functions are by name of a platform: `cpu`, `tpu`.

    Where the platform is not known while a program is traced, all functions are traced, and XLA gets one of them.
    """
    if _target.value is None:
        return lax.platform_dependent(*arrays, default=default, **by_platform)
    return by_platform.get(_target.value.platform, default)(*arrays)


def name() -> str:
    """Returns the platform of the program that is traced: JAX's default one, where it is not known."""
    return jax.default_backend() if _target.value is None else _target.value.platform


def kind_of_each(platform: str) -> str | None:
    """Returns the kind of device of this platform that runs what is traced, if a device runs the program alone.

    That is so with one device, and in `shard_map`, where each device has a program of its own. Other programs are
    split among devices by the compiler, which cannot split operations that are not its own.

    Returns:
      the kind; None if the program is for another platform, or split by the compiler, or its platform is not known.
    """
    target = _target.value
    if target is None or target.platform != platform:
        return None
    return target.kind if target.devices == 1 or is_split_by_hand() else None


def is_split_by_hand() -> bool:
    """Returns whether what is traced stands in a `shard_map` over all axes of its mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    return bool(mesh.axis_names) and set(mesh.manual_axes) == set(mesh.axis_names)


@contextlib.contextmanager
def tracing_for(devices: Sequence[jax.Device]) -> Iterator[None]:
    """Traces programs for devices of one kind, which run them together: other platforms' functions are not traced."""
    with _target(_Target(devices[0].platform, devices[0].device_kind, len(devices))):
        yield


@contextlib.contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Keeps Python from looking for garbage: tracing and lowering make little, and then take half the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
