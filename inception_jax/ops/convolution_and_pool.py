"""Convolutions and max pools with their gradients: the public functions, which choose an implementation.

| operation | GPU, TPU | CPU, float32, groups = 1 | CPU, all else |
|---|---|---|---|
| convolution | `xla` | `cpu_native` | `cpu_xla`: 1x1 is one matmul; depthwise a sum of shifted inputs |
| its input gradient | `xla` | `cpu_native`, one convolution for each phase of the stride | `cpu_xla`, the same |
| its kernel gradient | `xla` | `cpu_native` | `cpu_xla`: k * k matmuls of shifted inputs |
| max pool | `xla` | `cpu_native` | `cpu_xla`: maxima along columns, then rows |
| its gradient | `xla` | `cpu_native`, from argmax indices | `cpu_xla`, from argmax indices |

With `implementation="xla"`, in exported programs, and without a C++ compiler the third column is the fourth.
`inception-jax bench ops` times them. x is NHWC, kernels are HWIO, padding is ((top, bottom), (left, right)).
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from inception_jax.ops import cpu_native, cpu_xla, platforms, xla
from inception_jax.ops.derivatives import Operation
from inception_jax.ops.implementation import Implementation, uses_native
from inception_jax.ops.xla import Geometry, Padding

NO_PADDING: Padding = ((0, 0), (0, 0))


def conv(
    x: jax.Array,
    kernel: jax.Array,
    stride: int,
    padding: Padding,
    *,
    groups: int = 1,
    bias: jax.Array | None = None,
    relu: bool = False,
    implementation: Implementation = "auto",
) -> jax.Array:
    """Convolves [B, H, W, C] with [h, w, C / groups, F] to [B, H', W', F], and adds a bias [F], if there is one.

    Args:
      x, kernel, bias: of one dtype.
      stride: of both axes, in pixels.
      padding: ((top, bottom), (left, right)) pixels of zeros.
      groups: of channels; as many as channels make the convolution depthwise.
      relu: whether a ReLU follows.
      implementation: see `ops.implementation`.
    """
    return _conv((geometry(stride, padding, groups, implementation), relu), x, kernel, bias)


def max_pool(
    x: jax.Array, window: int, stride: int, padding: Padding, implementation: Implementation = "auto"
) -> jax.Array:
    """Takes the maximum of each window, [B, H, W, C] -> [B, H', W', C]; padding is never a maximum.

    The gradient goes to the first maximum of a window, row by row.
    """
    return _max_pool((window, geometry(stride, padding, 1, implementation)), x)


def geometry(stride: int, padding: Padding, groups: int = 1, implementation: Implementation = "auto") -> Geometry:
    """Returns what every implementation needs to know of a convolution or a pool beside its arrays."""
    (top, bottom), (left, right) = padding
    return Geometry(stride, ((top, bottom), (left, right)), groups, uses_native(implementation))


def _run(operation: str, *arrays: jax.Array | None, geometry: Geometry, **facts: Any) -> Any:
    """Runs the function `operation` of `xla`, or on CPUs of `cpu_native` where it has code for the arrays."""
    cpu = cpu_native if cpu_native.fits(operation, geometry, arrays, **facts) else cpu_xla
    run_cpu, run_xla = (
        functools.partial(getattr(module, operation), geometry=geometry, **facts) for module in (cpu, xla)
    )
    return platforms.pick(*arrays, cpu=run_cpu, default=run_xla)


# Convolution. Statics are (geometry, relu), or a geometry and the shape of a gradient (of an image, of a kernel).


def _conv_forward(statics, x, kernel, bias):
    output = _conv(statics, x, kernel, bias)
    return output, output if statics[1] else None


def _conv_backward(statics, args, output, grads):
    (geometry, relu), (x, kernel, bias) = statics, args
    grads = jnp.where(output > 0, grads, 0) if relu else grads
    return (
        input_gradient(grads, kernel, x.shape, geometry),
        kernel_gradient(x, grads, kernel.shape, geometry),
        None if bias is None else grads.sum((0, 1, 2)),
    )


_conv = Operation(
    fast=lambda statics, *arrays: _run("conv", *arrays, geometry=statics[0], relu=statics[1]),
    plain=lambda statics, *arrays: xla.conv(*arrays, geometry=statics[0], relu=statics[1]),
    images=(True, False, False),
    forward=_conv_forward,
    backward=_conv_backward,
)


def forward(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """Returns `conv` of a geometry."""
    return _conv((geometry, False), x, kernel, None)


def input_gradient(grads: jax.Array, kernel: jax.Array, shape: tuple[int, ...], geometry: Geometry) -> jax.Array:
    """Returns the gradient of a convolution with respect to its input of this shape, given that of its output."""
    return _input_gradient((geometry, shape[1:]), grads, kernel)


def _input_gradient_by(run, statics, grads, kernel):
    geometry, image_shape = statics
    return run(grads, kernel, shape=(grads.shape[0], *image_shape), geometry=geometry)


_input_gradient = Operation(
    fast=functools.partial(_input_gradient_by, functools.partial(_run, "input_gradient")),
    plain=functools.partial(_input_gradient_by, xla.input_gradient),
    images=(True, False),
)


def kernel_gradient(x: jax.Array, grads: jax.Array, shape: tuple[int, ...], geometry: Geometry) -> jax.Array:
    """Returns the gradient of a convolution with respect to its kernel of this shape, in the dtype of x."""
    return _kernel_gradient((geometry, shape), x, grads)


_kernel_gradient = Operation(
    fast=lambda statics, *arrays: _run("kernel_gradient", *arrays, geometry=statics[0], shape=statics[1]),
    plain=lambda statics, *arrays: xla.kernel_gradient(*arrays, geometry=statics[0], shape=statics[1]),
)


# Max pool. Statics are (window, geometry).


def _pool_forward(statics, x):
    """Saves x for XLA and the argmax indices for CPUs; the compiler drops what a platform does not read."""
    return _max_pool_with_argmax(statics, x)


def _pool_backward(statics, args, argmax, grads):
    return (_pool_gradient(statics, *args, argmax, grads),)


def _max_pool_with_argmax_plain(statics, x):
    """Its derivative runs faster on CPUs than that of XLA's max pool."""
    window, geometry = statics
    return _run("max_pool_with_argmax", x, window=window, geometry=geometry._replace(native=False))


def _pool_plain(statics, x):
    return _max_pool_with_argmax_plain(statics, x)[0]


def _argmax_forward(statics, x):
    pooled, argmax = _max_pool_with_argmax(statics, x)
    return (pooled, argmax), argmax


def _argmax_backward(statics, args, argmax, grads):
    return _pool_backward(statics, args, argmax, grads[0])


def _pool_gradient_plain(statics, x, argmax, grads):
    (gradient,) = jax.vjp(functools.partial(_pool_plain, statics), x)[1](grads)
    return gradient


_max_pool = Operation(
    fast=lambda statics, x: _run("max_pool", x, window=statics[0], geometry=statics[1]),
    plain=_pool_plain,
    images=(True,),
    forward=_pool_forward,
    backward=_pool_backward,
)
_max_pool_with_argmax = Operation(
    fast=lambda statics, x: _run("max_pool_with_argmax", x, window=statics[0], geometry=statics[1]),
    plain=_max_pool_with_argmax_plain,
    images=(True,),
    forward=_argmax_forward,
    backward=_argmax_backward,
)
_pool_gradient = Operation(
    fast=lambda statics, *arrays: _run("max_pool_gradient", *arrays, window=statics[0], geometry=statics[1]),
    plain=_pool_gradient_plain,
    images=(True, True, True),
)
