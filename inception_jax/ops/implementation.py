"""Which implementation of convolutions, pools and batch norms a program holds."""

from __future__ import annotations

import functools
import logging
from typing import Any, Literal, get_args

import jax

from inception_jax.ops import cpu_native, platforms

Implementation = Literal["auto", "xla", "native", "pallas"]
"""auto    native ops on CPUs, for programs of one device; XLA's operations elsewhere
xla     XLA's operations alone, on every platform
native  the C++ of `csrc/`, on CPUs alone; what it has no code for is XLA's
pallas  Pallas kernels, on TPUs alone; what they have no code for is XLA's. They have never run on a chip
"""
IMPLEMENTATIONS: tuple[str, ...] = get_args(Implementation)

override = jax.make_user_context(None)
"""For tests: `with override("xla")` decides for all that is traced inside, whatever a model says."""

logger = logging.getLogger(__name__)


def check_implementation(implementation: Any) -> None:
    """Raises a `ValueError` that lists the implementations, unless this is one of them."""
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(f"implementation is {implementation!r}; it must be one of {', '.join(IMPLEMENTATIONS)}.")


def resolve(implementation: Implementation, platform: str, alone: bool) -> str:
    """Returns what an implementation is on a platform: "xla", "native" or "pallas".

    Args:
      implementation: that is asked for.
      platform: "cpu", "gpu" or "tpu".
      alone: whether each device runs a program of its own: there is one device, or the program stands in `shard_map`.
        Other programs are split among devices by a compiler, which cannot split native ops.

    Raises:
      ValueError: "native" is asked for where there are no native ops.
    """
    if implementation == "native":
        if platform != "cpu":
            raise ValueError(f"implementation is 'native', whose ops are for CPUs; this program is for a {platform}.")
        if reason := cpu_native.missing():
            raise ValueError(f"implementation is 'native', but the native ops cannot be used: {reason}.")
    if implementation != "auto":
        return implementation
    if platform != "cpu" or not alone:
        return "xla"
    if reason := cpu_native.missing():
        _warn(reason)
    return "xla" if reason else "native"


def uses_native(implementation: Implementation) -> bool:
    """Returns whether a program that is traced here holds native ops on CPUs; raises as `resolve` does."""
    return resolve(override.value or implementation, platforms.name(), _is_alone()) == "native"


def _is_alone() -> bool:
    return jax.local_device_count() == 1 or platforms.is_split_by_hand()


def pallas_device(implementation: Implementation) -> str | None:
    """Returns the kind of TPU, such as "TPU v5 lite", whose program may hold Pallas kernels; None: it may not.

    Raises:
      ValueError: "pallas" was asked for where there can be no Pallas kernels.
    """
    if (override.value or implementation) != "pallas":
        return None
    kind = platforms.kind_of_each("tpu")
    if kind is None:
        raise ValueError(
            "implementation is 'pallas'; its kernels need TPUs, and a program for one device or a `shard_map`: a "
            "Predictor, or a training step whose batch norms do not span devices."
        )
    return kind


@functools.cache
def _warn(reason: str) -> None:
    logger.warning("Convolutions are XLA's, which are slower on CPUs: %s.", reason)
