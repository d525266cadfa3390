"""Which form of a computation a program holds: that of the platform it is compiled for."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax import lax

_platform = jax.make_user_context(None)


def pick(*arrays: Any, default: Callable, **forms: Callable) -> Any:
    """Returns what the form for the platform makes of trees of arrays; forms are by name: "cpu", "tpu"."""
    if _platform.value is None:  # all forms are traced, and the compiler is handed one
        return lax.platform_dependent(*arrays, default=default, **forms)
    return forms.get(_platform.value, default)(*arrays)


@contextlib.contextmanager
def tracing_for(device: jax.Device) -> Iterator[None]:
    """A context where programs are traced that devices of this kind are to run, in half the time.

    Forms for other platforms are not traced, and Python does not look for garbage, of which tracing makes little.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        with _platform(device.platform):
            yield
    finally:
        if was_enabled:
            gc.enable()
