"""The fast path of training against a plain one: batch norm and ReLU at once, and the gradients of autodiff."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from inception_jax import ops
from inception_jax.ops import deferred_norm, implementation
from inception_jax.ops.deferred_norm import DeferredNorm, apply_norm

TOLERANCE = {"float64": 1e-11, "float32": 2e-4, "bfloat16": 0.1}
PADDING = ((1, 1), (0, 1))
KERNELS = {
    "conv",
    "conv_kernel_gradient",
    "moments",
    "deferred_norm_gradient",
    "max_pool_with_argmax",
    "max_pool_gradient",
}


def _plain_conv(x, kernel, bias, stride):
    output = lax.conv_general_dilated(
        x, kernel.astype(x.dtype), (stride, stride), PADDING, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return output + bias.reshape(1, 1, 1, -1).astype(x.dtype)


def _plain_norm(x, groups, gain, offset, relu):
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32)).reshape(groups, -1, *x.shape[1:])
    mean, var = wide.mean((1, 2, 3), keepdims=True), wide.var((1, 2, 3), keepdims=True)
    y = ((wide - mean) / jnp.sqrt(var + 1e-3) * gain + offset).reshape(x.shape).astype(x.dtype)
    return jax.nn.relu(y) if relu else y


def _wait(x, mean, var, gain, offset, relu):
    """Returns activations whose norm, of a gamma that is never negative, is deferred."""
    return DeferredNorm(x, mean, gain / jnp.sqrt(var + 1e-3), jnp.broadcast_to(offset, mean.shape), relu)


def _draw(seed, *shape, dtype="float32"):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


@pytest.mark.parametrize(
    ("dtype", "kernels"), [*((name, False) for name in TOLERANCE), ("float32", True)], ids=[*TOLERANCE, "kernels"]
)
@pytest.mark.parametrize(("stride", "groups", "relu"), [(1, 1, True), (2, 2, False)])
@pytest.mark.parametrize("barriers", [False, True])
def test_two_convolutions_and_a_pool_between_them(dtype, kernels, stride, groups, relu, barriers, monkeypatch, request):
    """Values and all gradients; what is not in the dtype of the maps stays in float32 or float64."""
    if kernels:
        request.getfixturevalue("kernels_built")
    if barriers:  # as on TPU
        monkeypatch.setattr(deferred_norm, "_not_shared_on_tpu", lax.optimization_barrier)
    with jax.enable_x64(dtype == "float64"), implementation.override("native" if kernels else "xla"):
        own = "float64" if dtype == "float64" else "float32"
        x = _draw(0, 4, 9, 8, 3, dtype=dtype)
        weights = {
            "first": (_draw(1, 3, 2, 3, 5, dtype=own), _draw(2, 5, dtype=own)),
            "second": (_draw(3, 3, 2, 5, 4, dtype=own), _draw(4, 4, dtype=own)),
            "gains": (abs(_draw(5, 5, dtype=own)), abs(_draw(6, 4, dtype=own))),
            "offsets": (_draw(7, 5, dtype=own), _draw(8, 4, dtype=own)),
        }
        along = functools.partial(jnp.reshape, shape=(1, 1, 1, 1, -1))
        geometry, group_size = ops.geometry(stride, PADDING), 4 // groups

        def fast(x, weights):
            gains, offsets = (jax.tree.map(along, weights[name]) for name in ("gains", "offsets"))
            output = deferred_norm.conv_and_moments(geometry, group_size, x, *weights["first"], jnp.full(5, 0.3, own))
            waits = deferred_norm.max_pool(_wait(*output, gains[0], offsets[0], relu), 3, 1, PADDING)
            assert isinstance(waits, DeferredNorm)
            waits = dataclasses.replace(waits, is_slice=barriers)
            output = deferred_norm.conv_and_moments(geometry, group_size, waits, *weights["second"], jnp.zeros(4, own))
            return apply_norm(_wait(*output, gains[1], offsets[1], relu))

        def plain(x, weights):
            gains, offsets = (jax.tree.map(along, weights[name]) for name in ("gains", "offsets"))
            x = _plain_norm(_plain_conv(x, *weights["first"], stride), groups, gains[0], offsets[0], relu)
            x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 1, 1, 1), ((0, 0), *PADDING, (0, 0)))
            return _plain_norm(_plain_conv(x, *weights["second"], stride), groups, gains[1], offsets[1], relu)

        cotangent = _draw(9, *jax.eval_shape(plain, x, weights).shape, dtype=dtype)

        @functools.partial(jax.jit, static_argnums=0)
        def run(function, x, weights):
            output, pullback = jax.vjp(function, x, weights)
            return output, pullback(cotangent)

        called = set(re.findall(r"@inception_jax\.(\w+)", run.lower(fast, x, weights).as_text()))
        assert called == (KERNELS if kernels else set())
        seen, expected = (jax.tree.leaves(run(each, x, weights)) for each in (fast, plain))
        for one, other in zip(seen, expected, strict=True):
            assert one.dtype == other.dtype
            one, other = (np.asarray(each, np.float64) for each in (one, other))
            scale = max(np.abs(other).max(), 1.0)
            np.testing.assert_allclose(one / scale, other / scale, atol=TOLERANCE[dtype], rtol=0)


def test_a_pool_before_the_normalisation_is_the_pool_after_it_to_the_last_bit():
    x = _draw(0, 2, 9, 9, 6, dtype="bfloat16")
    mean, scale, bias = (_draw(seed, 1, 1, 1, 1, 6, dtype="float32") for seed in (1, 2, 3))
    waits = DeferredNorm(x, mean, abs(scale), bias, relu=True)
    after = ops.max_pool(apply_norm(waits), 3, 2, ((0, 1), (1, 0)))
    np.testing.assert_array_equal(apply_norm(deferred_norm.max_pool(waits, 3, 2, ((0, 1), (1, 0)))), after)


def test_concatenation_defers_where_all_branches_defer_alike():
    waits = [DeferredNorm(_draw(i, 2, 3, 3, i), *(_draw(i, 1, 1, 1, 1, i),) * 3, relu=True) for i in (1, 2)]
    both = deferred_norm.concatenate(waits, train=True)
    assert isinstance(both, DeferredNorm)
    np.testing.assert_array_equal(apply_norm(both), jnp.concatenate([apply_norm(each) for each in waits], -1))
    np.testing.assert_array_equal(apply_norm(deferred_norm.take_channels(both, 1, 3)), apply_norm(waits[1]))
    mixed = deferred_norm.concatenate([waits[0], apply_norm(waits[1])], train=True)
    assert not isinstance(mixed, DeferredNorm)
    np.testing.assert_array_equal(mixed, apply_norm(both))


def test_channel_slices_are_activations():
    x = _draw(0, 2, 3, 3, 5)
    slices = deferred_norm.LazyConcatenation((x[..., :2], x[..., 2:]))
    assert slices.shape == x.shape
    np.testing.assert_array_equal(apply_norm(slices), x)
    np.testing.assert_array_equal(deferred_norm.take_channels(slices, 1, 4), x[..., 1:4])
    np.testing.assert_array_equal(
        deferred_norm.max_pool(slices, 3, 1, PADDING), deferred_norm.max_pool(x, 3, 1, PADDING)
    )
    assert deferred_norm.arrays_of(slices) is slices.arrays
    assert deferred_norm.arrays_of(x) == (x,)


def _program(platform, kernel_size=1, is_slice=False):
    def loss(x, kernel):
        waits = DeferredNorm(x, *(jnp.ones((1, 1, 1, 1, 3)),) * 3, relu=True, is_slice=is_slice)
        return deferred_norm.conv_and_moments(ops.geometry(1, ops.NO_PADDING), 2, waits, kernel, None, jnp.zeros(4))[
            0
        ].sum()

    traced = jax.jit(jax.grad(loss, (0, 1))).trace(_draw(0, 2, 5, 5, 3), _draw(1, kernel_size, kernel_size, 3, 4))
    return traced.lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize(("platform", "barriers"), [("tpu", True), ("cuda", False)])
def test_the_backward_pass_computes_anew_on_tpu_alone(platform, barriers):
    assert ("optimization_barrier" in _program(platform)) == barriers


@pytest.mark.parametrize(
    ("kernel_size", "is_slice", "count"), [(1, False, 0), (1, True, 0), (3, False, 0), (3, True, 1)], ids=str
)
def test_activations_stand_behind_a_barrier_only_where_windows_of_a_slice_are_read(kernel_size, is_slice, count):
    """A barrier before a slice of activations makes the compiler write it out."""
    lines = _program("tpu", kernel_size, is_slice).splitlines()
    assert sum(line.count("tensor<2x5x5x") for line in lines if "optimization_barrier" in line) == count


def test_pools_and_concatenations_are_whole():
    x = DeferredNorm(_draw(0, 2, 5, 5, 3), *(_draw(1, 1, 1, 1, 1, 3),) * 3, relu=True, is_slice=True)
    assert not deferred_norm.max_pool(x, 3, 1, PADDING).is_slice
    assert not deferred_norm.concatenate([x, x], train=True).is_slice
