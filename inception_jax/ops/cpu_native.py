"""Convolutions, max pools and batch norms on CPUs, in float32, by the C++ of `csrc/`, which XLA calls.

The native ops are left out where the package was installed without a C++ compiler or for another jaxlib, of programs
that a compiler splits among devices, and of exported programs; `ops.implementation` decides.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib.version
import numpy as np

from inception_jax.ops import cpu_xla
from inception_jax.ops.derivatives import all_varying, varying
from inception_jax.ops.xla import Geometry, index_dtype

_import_error: ImportError | None = None
try:
    from inception_jax.ops import _native
except ImportError as error:  # it was not built, or misses a library
    _native, _import_error = None, error  # type: ignore[assignment]

PREFIX = "inception_jax."


@functools.cache
def missing() -> str:
    """Registers the native ops with XLA. Returns why it cannot call them, in words; nothing if it can.

    XLA takes native ops whose headers are not newer than its own. It looks at those that are registered when its CPU
    backend starts, and does not start that if it refuses one. So they are registered with a backend that runs.
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


def takes(geometry: Geometry, *arrays: Any) -> bool:
    """Returns whether the native ops may be used, and are for arrays and a geometry like these."""
    return geometry.native and geometry.groups == 1 and all(array.dtype == jnp.float32 for array in arrays)


def fits(operation: str, geometry: Geometry, arrays: Sequence[Any], window: int = 0, **facts: Any) -> bool:
    """Returns whether there is a native op for an operation of `ops.convolution_and_pool`.

    Args:
      operation: the name of a function of this module.
      geometry, arrays: what it is called with.
      window: of a pool: argmax indices are int8 here, so it has 127 pixels or fewer.
      facts: that do not matter.
    """
    if operation in ("max_pool_with_argmax", "max_pool_gradient") and index_dtype(window) != jnp.int8:
        return False
    floats = [array for array in arrays if array is not None and array.dtype != jnp.int8]
    return takes(geometry, *floats)


def conv(
    x: jax.Array,
    kernel: jax.Array,
    bias: jax.Array | None = None,
    *,
    geometry: Geometry,
    relu: bool = False,
    norm: jax.Array | None = None,
    relu_input: bool = False,
) -> jax.Array:
    """Returns `ops.conv` of x, which is normalised while it is read if there is a norm.

    Args:
      x, kernel, bias, geometry, relu: see there.
      norm: mean, scale and bias of x, [3, G, C] for G groups of consecutive images.
      relu_input: whether a ReLU follows the norm.
    """
    height, width = (geometry.out_size(x.shape[1 + axis], kernel.shape[axis], axis) for axis in (0, 1))
    output = _float32(x.shape[0], height, width, kernel.shape[3])
    bias = jnp.zeros(0, jnp.float32) if bias is None else bias
    attributes = _attributes(geometry) | {"relu_input": relu_input, "relu": relu}
    return _call("conv", output, x, kernel, _or_empty(norm), bias, **attributes)


def input_gradient(grads: jax.Array, kernel: jax.Array, *, shape: tuple[int, ...], geometry: Geometry) -> jax.Array:
    """Returns the gradient of `conv` with respect to its input: a convolution for each phase of the stride."""
    return cpu_xla.input_gradient_by_phases(conv, grads, kernel, shape=shape, geometry=geometry)


def kernel_gradient(
    x: jax.Array,
    grads: jax.Array,
    *,
    shape: tuple[int, ...],
    geometry: Geometry,
    norm: jax.Array | None = None,
    relu_input: bool = False,
) -> jax.Array:
    """Returns the gradient of `conv` with respect to its kernel, which has this shape."""
    attributes = _attributes(geometry) | {"relu_input": relu_input}
    return _call("conv_kernel_gradient", _float32(*shape), x, grads, _or_empty(norm), **attributes)


def moments(x: jax.Array, origin: jax.Array, groups: int) -> tuple[jax.Array, jax.Array]:
    """Returns means of x - `origin` [C] and of its square, [G, C] of G groups of consecutive images."""
    both = _call("moments", _float32(2, groups, x.shape[-1]), x, origin)
    return both[0], both[1]


def deferred_norm_gradient(
    x: jax.Array, grads: jax.Array, norm: jax.Array, relu: bool
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Returns the gradient of y = (x - mean) * scale + bias, through a ReLU if there is one, given that of y.

    Args:
      x, grads: [B, H, W, C].
      norm: mean, scale and bias [3, G, C] of G groups of consecutive images.
      relu: whether a ReLU follows.

    Returns:
      the gradient with respect to x; sums [G, C] over a group's pixels of the gradients that pass the ReLU, and of
      those times x - mean.
    """
    outputs = _float32(*x.shape), _float32(2, *norm.shape[1:])
    gradient, sums = _call("deferred_norm_gradient", outputs, x, grads, norm, relu=relu)
    return gradient, (sums[0], sums[1])


def max_pool(x: jax.Array, *, window: int, geometry: Geometry) -> jax.Array:
    """Returns `ops.max_pool`."""
    return _call("max_pool", _float32(*_pooled(x, window, geometry)), x, **_attributes(geometry, window))


def max_pool_with_argmax(x: jax.Array, *, window: int, geometry: Geometry) -> tuple[jax.Array, jax.Array]:
    """Returns the pool and, in int8, the index in its window, row by row, of the first maximum."""
    shape = _pooled(x, window, geometry)
    outputs = _float32(*shape), jax.ShapeDtypeStruct(shape, jnp.int8)
    pooled, argmax = _call("max_pool_with_argmax", outputs, x, **_attributes(geometry, window))
    return pooled, argmax


def max_pool_gradient(
    x: jax.Array, argmax: jax.Array, grads: jax.Array, *, window: int, geometry: Geometry
) -> jax.Array:
    """Returns the gradient of `max_pool` with respect to x, of which it needs the shape alone."""
    return _call("max_pool_gradient", _float32(*x.shape), argmax, grads, **_attributes(geometry, window))


def _pooled(x: jax.Array, window: int, geometry: Geometry) -> tuple[int, ...]:
    batch, height, width, channels = x.shape
    return batch, geometry.out_size(height, window, 0), geometry.out_size(width, window, 1), channels


def _float32(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def _or_empty(norm: jax.Array | None) -> jax.Array:
    return jnp.zeros((3, 0, 0), jnp.float32) if norm is None else norm


def _attributes(geometry: Geometry, window: int | None = None) -> dict[str, Any]:
    """Returns what the C++ needs to know of a geometry; the bottom and right padding follow from the output's shape."""
    (top, _), (left, _) = geometry.padding
    numbers = {"stride": geometry.stride, "pad_top": top, "pad_left": left} | (
        {} if window is None else {"window": window}
    )
    return {name: np.int64(number) for name, number in numbers.items()}


def _call(name: str, outputs: Any, *arrays: jax.Array, **attributes: Any) -> Any:
    output = jax.ffi.ffi_call(PREFIX + name, outputs, vmap_method="sequential")(*arrays, **attributes)
    axes = varying(*arrays)  # of a `shard_map`, which takes what FFI returns to be the same on all devices
    return jax.tree.map(lambda array: all_varying([array], axes)[0], output) if axes else output
