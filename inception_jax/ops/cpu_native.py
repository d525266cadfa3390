"""Convolutions, max pools and batch norm of float32 maps on CPUs, by the C++ of `kernels/`, which XLA calls.

Left out where the package was installed without a C++ compiler or for another jaxlib, of programs for several devices,
and of exported ones. The first program on a CPU that lacks them says so, once.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib.version
import numpy as np

from inception_jax.ops import platforms
from inception_jax.ops.derivatives import all_varying, varying
from inception_jax.ops.xla import Geometry

_import_error: ImportError | None = None
try:
    from inception_jax.ops import _native
except ImportError as error:  # it was not built, or misses a library
    _native, _import_error = None, error  # type: ignore[assignment]

logger = logging.getLogger(__name__)

PREFIX = "inception_jax."

kernels = jax.make_user_context(None)
"""A context, `with kernels(False)`: whether what is traced inside may hold kernels, these or those of `tpu`.

`jax.export` asks for programs without them. None leaves it to the number of devices.
"""


@functools.cache
def missing() -> str:
    """Hands these kernels to XLA. Returns why it cannot call them, in words; nothing if it can.

    XLA takes those whose headers are not newer than its own. It looks at them when its CPU backend starts, and does not
    start that if it refuses one. So they are handed to a backend that runs.
    """
    if _native is None:
        if isinstance(_import_error, ModuleNotFoundError):
            return "this package was installed without a C++ compiler"
        return f"the compiled ones cannot be loaded ({_import_error})"
    jax.local_devices()
    try:
        for name, handler in _native.handlers.items():
            jax.ffi.register_ffi_target(PREFIX + name, handler, platform="cpu")
    except Exception as error:  # jaxlib does not say which
        return (
            f"jaxlib {jaxlib.version.__version__} refuses those that were compiled for jaxlib {_native.jaxlib}, so "
            f"install this package again, with --no-build-isolation ({str(error).splitlines()[0]})"
        )
    return ""


def is_built() -> bool:
    """Returns whether the package was installed with these kernels, and XLA takes them."""
    return not missing()


def is_wanted() -> bool:
    """Returns whether programs that are traced here may hold them.

    A compiler that splits a program among devices cannot split what it does not know: with several devices they are
    for `shard_map` alone, where each device has a program of its own.
    """
    choice = kernels.value
    if choice is None:
        choice = jax.local_device_count() == 1 or platforms.is_split_by_hand()
    if choice and missing() and platforms.name() == "cpu":
        _warn(missing())
    return choice and is_built()


@functools.cache
def _warn(reason: str) -> None:
    logger.warning("Convolutions are XLA's, which are slower: %s.", reason)


def fits(geometry: Geometry, *arrays: jax.Array) -> bool:
    """Returns whether arrays and geometry are what these kernels are for."""
    return geometry.native and geometry.groups == 1 and all(array.dtype == jnp.float32 for array in arrays)


def conv(
    maps: jax.Array,
    kernel: jax.Array,
    geometry: Geometry,
    bias: jax.Array | None = None,
    relu: bool = False,
    norm: jax.Array | None = None,
    relu_maps: bool = False,
) -> jax.Array:
    """Returns `ops.conv`, of maps that are normalised as they are read if there is a norm.

    Args:
      maps, kernel, geometry, bias, relu: see there.
      norm: mean, scale and bias of the maps, [3, G, C] for G groups of consecutive images.
      relu_maps: whether a ReLU follows the norm.
    """
    height, width = (_count(maps.shape[1 + axis], kernel.shape[axis], geometry, axis) for axis in (0, 1))
    shape = (maps.shape[0], height, width, kernel.shape[3])
    bias = jnp.zeros(0, jnp.float32) if bias is None else bias
    return _call(
        "conv", _maps(shape), maps, kernel, _or_none(norm), bias, **_window(geometry), relu_input=relu_maps, relu=relu
    )


def kernel_gradient(
    maps: jax.Array,
    grads: jax.Array,
    shape: tuple[int, ...],
    geometry: Geometry,
    norm: jax.Array | None = None,
    relu_maps: bool = False,
) -> jax.Array:
    """Returns the gradient of `conv` by its kernel, which has this shape."""
    attributes = _window(geometry) | {"relu_input": relu_maps}
    return _call("conv_kernel_gradient", _maps(shape), maps, grads, _or_none(norm), **attributes)


def moments(maps: jax.Array, origin: jax.Array, groups: int) -> tuple[jax.Array, jax.Array]:
    """Returns means of the distance from `origin` [C] and of its square, [G, C] of G groups of consecutive images."""
    both = _call("moments", _maps((2, groups, maps.shape[-1])), maps, origin)
    return both[0], both[1]


def pending_gradient(
    maps: jax.Array, grads: jax.Array, norm: jax.Array, relu: bool
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Returns the gradient of what a norm [3, G, C] makes of maps, and sums [G, C] over the pixels of a group.

    Returns:
      by the maps; sums of the gradients that pass the ReLU, and of those times the distance from the mean.
    """
    results = _maps(maps.shape), _maps((2, *norm.shape[1:]))
    gradient, sums = _call("deferred_norm_gradient", results, maps, grads, norm, relu=relu)
    return gradient, (sums[0], sums[1])


def max_pool(maps: jax.Array, window: int, geometry: Geometry) -> jax.Array:
    """Returns `ops.max_pool`."""
    return _call("max_pool", _maps(_pooled(maps, window, geometry)), maps, **_window(geometry, window))


def winners(maps: jax.Array, window: int, geometry: Geometry) -> tuple[jax.Array, jax.Array]:
    """Returns the pooled maps, and the place of the first maximum in its window, row by row, in int8."""
    shape = _pooled(maps, window, geometry)
    results = _maps(shape), jax.ShapeDtypeStruct(shape, jnp.int8)
    pooled, places = _call("max_pool_with_argmax", results, maps, **_window(geometry, window))
    return pooled, places


def max_pool_gradient(
    winners: jax.Array, grads: jax.Array, window: int, shape: tuple[int, ...], geometry: Geometry
) -> jax.Array:
    """Returns the gradient of `max_pool` by its maps, which have this shape."""
    return _call("max_pool_gradient", _maps(shape), winners, grads, **_window(geometry, window))


def _count(size: int, window: int, geometry: Geometry, axis: int) -> int:
    return max((size + sum(geometry.borders[axis]) - window) // geometry.stride + 1, 0)


def _pooled(maps: jax.Array, window: int, geometry: Geometry) -> tuple[int, ...]:
    batch, height, width, channels = maps.shape
    return batch, _count(height, window, geometry, 0), _count(width, window, geometry, 1), channels


def _maps(shape: Sequence[int]) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(tuple(shape), jnp.float32)


def _or_none(norm: jax.Array | None) -> jax.Array:
    return jnp.zeros((3, 0, 0), jnp.float32) if norm is None else norm


def _window(geometry: Geometry, size: int | None = None) -> dict[str, Any]:
    (top, _), (left, _) = geometry.borders
    numbers = {"stride": geometry.stride, "pad_top": top, "pad_left": left} | ({} if size is None else {"window": size})
    return {name: np.int64(number) for name, number in numbers.items()}


def _call(name: str, results: Any, *arrays: jax.Array, **attributes: Any) -> Any:
    made = jax.ffi.ffi_call(PREFIX + name, results, vmap_method="sequential")(*arrays, **attributes)
    axes = varying(*arrays)  # of a `shard_map`, which takes what FFI returns for the same on all devices
    return jax.tree.map(lambda array: all_varying([array], axes)[0], made) if axes else made
