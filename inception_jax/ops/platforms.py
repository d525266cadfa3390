"""Which form of a computation a program holds: that of the platform it is compiled for."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
from jax import lax


class _Target(NamedTuple):
    """What is traced is for some devices of a kind, such as "TPU v5 lite"."""

    platform: str
    kind: str
    devices: int


_target = jax.make_user_context(None)


def pick(*arrays: Any, default: Callable, **forms: Callable) -> Any:
    """Returns what the form for the platform makes of trees of arrays; forms are by name: "cpu", "tpu"."""
    if _target.value is None:  # all forms are traced, and the compiler is handed one
        return lax.platform_dependent(*arrays, default=default, **forms)
    return forms.get(_target.value.platform, default)(*arrays)


def name() -> str:
    """Returns the platform that what is traced is for, as far as that is known: the default one, if it is not."""
    return jax.default_backend() if _target.value is None else _target.value.platform


def kind_of_each(platform: str) -> str | None:
    """Returns the kind of device of this platform that runs what is traced; None if it is not known to be one.

    It is one if there is no other, and in `shard_map`, where each device has a program of its own. The compiler would
    have to split other programs, and cannot split kernels that are not its own.
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
    """A context where programs are traced that devices of one kind are to run together, in half the time.

    Forms for other platforms are not traced, and Python does not look for garbage, of which tracing makes little.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        with _target(_Target(devices[0].platform, devices[0].device_kind, len(devices))):
            yield
    finally:
        if was_enabled:
            gc.enable()
