"""Operations whose fast implementation JAX cannot differentiate: their derivatives of any order, and their `vmap`.

The fast implementations (C++ called through FFI, Pallas kernels, hand-written gradients) know the value and the first
gradient in reverse mode. Everything else comes from `plain`, the same function made of XLA's operations:

  value                           fast
  gradient, first in reverse mode  backward, from what `forward` saved; itself made of differentiable operations
  jvp, and what is derived of it   the jvp of plain
  vmap over images alone           fast, of one larger batch
  any other vmap                   vmap of each of these

Two primitives do it. `jax.custom_vjp` refuses forward mode. `jax.custom_jvp` is not enough: partial evaluation replaces
it by its function, which cannot be differentiated once more. `linear_call` cannot be differentiated by its residuals.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Primitive, jaxpr_as_fun
from jax.interpreters import ad, batching, mlir


@dataclasses.dataclass(frozen=True, eq=False)
class Operation:
    """A function of trees of arrays, called as `operation(statics, *args)`; statics are hashable, None is no array.

    Attributes:
      fast: (statics, *args) -> outputs, by the implementation that need not be differentiable.
      plain: the same by operations that JAX can differentiate to any order, and `vmap`.
      images: for each argument, whether the first axis of its arrays counts images, or groups of consecutive ones; it
        then does in each output, and each image, or group, is worked on alone. None: `vmap` cannot make a larger batch.
      forward: (statics, *args) -> (outputs, extras): outputs, by operations, and what backward needs beyond args.
      backward: (statics, args, extras, cotangents) -> cotangents of args, by operations. None: derivatives are plain's.
    """

    fast: Callable[..., Any]
    plain: Callable[..., Any]
    images: tuple[bool, ...] | None = None
    forward: Callable[..., tuple[Any, Any]] | None = None
    backward: Callable[..., tuple[Any, ...]] | None = None

    def __call__(self, statics: Hashable, *args: Any) -> Any:
        """Returns the outputs, which JAX may differentiate."""
        flat, tree = jax.tree.flatten(args)
        flat = all_varying(flat)
        call = _Call(self, statics, tree)
        traced = _run_fast.trace(call, *flat)
        made = value_p.bind(*flat, call=call, jaxpr=traced.jaxpr)
        return jax.tree.unflatten(jax.tree.structure(traced.out_info), made)


class _Call(NamedTuple):
    """One call of an operation: hashable, so that JAX traces and compiles equal calls once."""

    operation: Operation
    statics: Hashable
    tree: Any  # of the arguments

    def args(self, flat: Sequence[Any]) -> tuple[Any, ...]:
        return jax.tree.unflatten(self.tree, flat)

    def plain(self, *flat: jax.Array) -> list[jax.Array]:
        return jax.tree.leaves(self.operation.plain(self.statics, *self.args(flat)))


class _Push(NamedTuple):
    """One jvp of a call, by the arguments that have a tangent; outputs of integers have none."""

    call: _Call
    by: tuple[bool, ...]  # for each argument
    floats: tuple[bool, ...]  # for each output
    outputs: Any  # their tree
    extras: Any  # the tree of what backward needs

    def plain(self, flat: Sequence[jax.Array], tangents: Sequence[jax.Array]) -> list[jax.Array]:
        made = _jvp_of_some(self.call.plain, flat, self.by, tangents)
        return [tangent for tangent, is_float in zip(made, self.floats, strict=True) if is_float]


# What an operation computes.

value_p = Primitive("inception_jax_value")
value_p.multiple_results = True


@functools.partial(jax.jit, static_argnums=0)
def _run_fast(call: _Call, *flat: jax.Array) -> Any:
    return call.operation.fast(call.statics, *call.args(flat))


def _value(*flat: jax.Array, call: _Call, jaxpr: ClosedJaxpr) -> list[jax.Array]:
    return jax.tree.leaves(_run_fast(call, *flat))


def _value_jvp(primals, tangents, *, call, jaxpr):
    operation = call.operation
    by = tuple(not isinstance(tangent, ad.Zero) for tangent in tangents)
    seeds = [tangent for tangent in tangents if not isinstance(tangent, ad.Zero)]
    if operation.backward is None:
        made = value_p.bind(*primals, call=call, jaxpr=jaxpr)
        floats = tuple(jnp.issubdtype(output.dtype, jnp.inexact) for output in made)
        pushed = _Push(call, by, floats, None, None).plain(primals, seeds)
    else:
        outputs, extras = operation.forward(call.statics, *call.args(primals))
        made = jax.tree.leaves(outputs)
        floats = tuple(jnp.issubdtype(output.dtype, jnp.inexact) for output in made)
        saved, extras_tree = jax.tree.flatten(extras)
        avals = tuple(jax.typeof(output) for output, is_float in zip(made, floats, strict=True) if is_float)
        push = _Push(call, by, floats, jax.tree.structure(outputs), extras_tree)
        pushed = tangent_p.bind(*all_varying([*primals, *saved, *seeds]), push=push, avals=avals)
    rest = iter(pushed)
    return made, [
        next(rest) if is_float else _no_tangent(output) for output, is_float in zip(made, floats, strict=True)
    ]


def _value_transpose(cotangents, *flat, call, jaxpr):
    """Of operations that are linear in some arguments, as for `jax.linear_transpose`."""
    unknown = [ad.is_undefined_primal(each) for each in flat]
    shapes = [jax.ShapeDtypeStruct(each.aval.shape, each.aval.dtype) for each in flat if ad.is_undefined_primal(each)]

    def of_unknown(*some):
        rest = iter(some)
        return call.plain(*(next(rest) if missing else each for each, missing in zip(flat, unknown, strict=True)))

    found = iter(jax.linear_transpose(of_unknown, *shapes)([ad.instantiate_zeros(each) for each in cotangents]))
    return [next(found) if missing else None for missing in unknown]


def _value_batch(flat, axes, *, call, jaxpr):
    size = next(each.shape[axis] for each, axis in zip(flat, axes, strict=True) if axis is not None)
    flat = [each if axis is None else jnp.moveaxis(each, axis, 0) for each, axis in zip(flat, axes, strict=True)]
    mapped = tuple(axis is not None for axis in axes)
    images = _spread_over(call.operation.images, call.args(flat))
    if images is None or any(is_mapped and not image for is_mapped, image in zip(mapped, images, strict=True)):
        made = jax.tree.leaves(_mapped(call, mapped)((), *flat))
        return made, [0] * len(made)
    flat = [
        _fold(each if is_mapped else jnp.broadcast_to(each, (size, *each.shape))) if image else each
        for each, image, is_mapped in zip(flat, images, mapped, strict=True)
    ]
    made = jax.tree.leaves(call.operation(call.statics, *call.args(flat)))
    return [each.reshape(size, each.shape[0] // size, *each.shape[1:]) for each in made], [0] * len(made)


@functools.cache
def _mapped(call: _Call, mapped: tuple[bool, ...]) -> Operation:
    """Returns the `vmap` of a call over the first axis of some of its arrays, as an operation of all its arrays."""
    operation, statics = call.operation, call.statics
    axes = [0 if is_mapped else None for is_mapped in mapped]

    def fast(_, *flat):
        return jax.vmap(lambda *flat: operation.fast(statics, *call.args(flat)), axes)(*flat)

    def plain(_, *flat):
        return jax.vmap(lambda *flat: operation.plain(statics, *call.args(flat)), axes)(*flat)

    if operation.forward is None or operation.backward is None:
        return Operation(fast, plain)
    forward_each, backward_each = operation.forward, operation.backward

    def forward(_, *flat):
        return jax.vmap(lambda *flat: forward_each(statics, *call.args(flat)), axes)(*flat)

    def backward(_, flat, extras, cotangents):
        def each(flat, extras, cotangents):
            return jax.tree.leaves(backward_each(statics, call.args(flat), extras, cotangents))

        found = jax.vmap(each, (axes, 0, 0))(list(flat), extras, cotangents)
        return tuple(each if is_mapped else each.sum(0) for each, is_mapped in zip(found, mapped, strict=True))

    return Operation(fast, plain, None, forward, backward)


value_p.def_impl(_value)
# Emulated Pallas kernels have effects.
value_p.def_effectful_abstract_eval(lambda *_, call, jaxpr: (jaxpr.out_avals, jaxpr.effects))
ad.primitive_jvps[value_p] = _value_jvp
ad.primitive_transposes[value_p] = _value_transpose
batching.primitive_batchers[value_p] = _value_batch
mlir.register_lowering(
    value_p, mlir.lower_fun(lambda *flat, call, jaxpr: jaxpr_as_fun(jaxpr)(*flat), multiple_results=True)
)


# The tangents of its outputs: linear in those of its arguments, and transposed to `backward`. Its operands are the
# arguments, the extras and the tangents.

tangent_p = Primitive("inception_jax_tangent")
tangent_p.multiple_results = True


@functools.partial(jax.jit, static_argnums=0)
def _run_tangent(push: _Push, *operands: jax.Array) -> list[jax.Array]:
    return _pushed(*operands, push=push, avals=())


def _pushed(*operands: jax.Array, push: _Push, avals: tuple) -> list[jax.Array]:
    args, _, tangents = _split(push, operands)
    return push.plain(args, tangents)


def _split(push: _Push, operands: Sequence[Any]) -> tuple[list, list, list]:
    """Returns the arguments, the extras and the tangents."""
    first, last = len(push.by), len(operands) - sum(push.by)
    return list(operands[:first]), list(operands[first:last]), list(operands[last:])


def _tangent_jvp(primals, tangents, *, push, avals):
    made = tangent_p.bind(*primals, push=push, avals=avals)
    args, extras, seeds = _split(push, primals)
    by_args, _, by_seeds = _split(push, tangents)
    terms = []
    if not all(isinstance(tangent, ad.Zero) for tangent in by_seeds):  # linear in them
        seeds_of_seeds = [ad.instantiate_zeros(tangent) for tangent in by_seeds]
        terms.append(tangent_p.bind(*all_varying([*args, *extras, *seeds_of_seeds]), push=push, avals=avals))
    by = [not isinstance(tangent, ad.Zero) for tangent in by_args]
    if any(by):
        known = [tangent for tangent in by_args if not isinstance(tangent, ad.Zero)]
        terms.append(_jvp_of_some(lambda *args: push.plain(args, seeds), args, by, known))
    if not terms:
        return made, [_no_tangent(each) for each in made]
    return made, [functools.reduce(jnp.add, each) for each in zip(*terms, strict=True)]


def _tangent_transpose(cotangents, *operands, push, avals):
    args, extras, tangents = _split(push, operands)
    call, rest = push.call, iter(cotangents)
    of_outputs = jax.tree.unflatten(
        push.outputs, [ad.instantiate_zeros(next(rest)) if is_float else None for is_float in push.floats]
    )
    saved = jax.tree.unflatten(push.extras, extras)
    found = call.operation.backward(call.statics, call.args(args), saved, of_outputs)
    of_tangents = [
        each for each, has_tangent in zip(call.tree.flatten_up_to(found), push.by, strict=True) if has_tangent
    ]
    return [None] * (len(args) + len(extras)) + [
        each if ad.is_undefined_primal(tangent) else None for each, tangent in zip(of_tangents, tangents, strict=True)
    ]


def _tangent_batch(operands, axes, *, push, avals):
    made = jax.vmap(functools.partial(_pushed, push=push, avals=avals), axes)(*operands)
    return made, [0] * len(made)


tangent_p.def_impl(lambda *operands, push, avals: _run_tangent(push, *operands))
tangent_p.def_abstract_eval(lambda *_, push, avals: list(avals))
ad.primitive_jvps[tangent_p] = _tangent_jvp
ad.primitive_transposes[tangent_p] = _tangent_transpose
batching.primitive_batchers[tangent_p] = _tangent_batch
mlir.register_lowering(tangent_p, mlir.lower_fun(_pushed, multiple_results=True))


def _jvp_of_some(
    function: Callable[..., list[jax.Array]],
    args: Sequence[jax.Array],
    by: Sequence[bool],
    tangents: Sequence[jax.Array],
) -> list[jax.Array]:
    """Returns the tangents of a function's outputs, for tangents of some of its arguments."""

    def of_some(*some):
        rest = iter(some)
        return function(*(next(rest) if has_tangent else each for each, has_tangent in zip(args, by, strict=True)))

    some = [each for each, has_tangent in zip(args, by, strict=True) if has_tangent]
    return jax.jvp(of_some, some, list(tangents))[1]


def _no_tangent(array: jax.Array) -> ad.Zero:
    return ad.Zero(jax.typeof(array).to_tangent_aval())


def _spread_over(flags: tuple[bool, ...] | None, args: tuple[Any, ...]) -> list[bool] | None:
    """Returns the flag of each array of trees, from that of each tree."""
    if flags is None:
        return None
    return [flag for flag, arg in zip(flags, args, strict=True) for _ in jax.tree.leaves(arg)]


def _fold(array: jax.Array) -> jax.Array:
    return array.reshape(array.shape[0] * array.shape[1], *array.shape[2:])


def varying(*arrays: jax.Array) -> frozenset:
    """Returns the axes of a `shard_map` along which some array varies; versions of JAX call them differently."""
    avals = [jax.typeof(array) for array in arrays]
    return frozenset().union(*(aval.vma if hasattr(aval, "vma") else aval.mat.varying for aval in avals))


def all_varying(arrays: Sequence[jax.Array], axes: frozenset | None = None) -> list[jax.Array]:
    """Returns arrays that all vary along these axes, by default along all that one of them varies along."""
    axes = varying(*arrays) if axes is None else axes
    return [
        jax.lax.pcast(array, tuple(missing), to="varying") if (missing := axes - varying(array)) else array
        for array in arrays
    ]


def described(shape: Sequence[int], dtype: Any, *arrays: jax.Array) -> Any:
    """Returns what stands for an array of a shape that varies along the axes that the arrays vary along."""
    axes = varying(*arrays)
    return all_varying([jnp.zeros(shape, dtype)], axes)[0] if axes else jax.ShapeDtypeStruct(tuple(shape), dtype)
