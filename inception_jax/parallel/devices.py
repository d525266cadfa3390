"""Starts the devices of this machine, and explains why they do not start."""

from __future__ import annotations

import os

import jax

from inception_jax.errors import UserError, first_line

_OF_START = ("Unable to initialize backend", "Unknown backend", "No visible", "No jellyfish device found")


def start_devices() -> str:
    """Starts JAX, and returns the platform of its devices, such as "cpu".

    Raises:
      UserError: it cannot start: a device is missing or busy, or its driver does not fit.
    """
    try:
        return jax.default_backend()
    except (RuntimeError, AssertionError) as error:
        raise _explained(error) from error


def explain(error: BaseException) -> BaseException:
    """Returns the `UserError` of `start_devices` if JAX raised `error` because a device did not start; else `error`."""
    if isinstance(error, RuntimeError) and any(words in str(error) for words in _OF_START):
        return _explained(error)
    return error


def _explained(error: BaseException) -> UserError:
    wanted = os.environ.get("JAX_PLATFORMS", "")
    why = first_line(error) if str(error) else "no such device"
    return UserError(f"JAX cannot start (JAX_PLATFORMS={wanted!r}): {why}.")
