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
from inception_jax.ops import cpu_native, deferred_norm
from inception_jax.ops.deferred_norm import Pending, settle

TOLERANCE = {"float64": 1e-11, "float32": 2e-4, "bfloat16": 0.1}
BORDERS = ((1, 1), (0, 1))
KERNELS = {
    "conv",
    "conv_kernel_gradient",
    "moments",
    "deferred_norm_gradient",
    "max_pool_with_argmax",
    "max_pool_gradient",
}


def _plain_conv(maps, kernel, bias, stride):
    made = lax.conv_general_dilated(
        maps, kernel.astype(maps.dtype), (stride, stride), BORDERS, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return made + bias.reshape(1, 1, 1, -1).astype(maps.dtype)


def _plain_norm(maps, groups, gain, offset, relu):
    x = maps.astype(jnp.promote_types(maps.dtype, jnp.float32)).reshape(groups, -1, *maps.shape[1:])
    mean, var = x.mean((1, 2, 3), keepdims=True), x.var((1, 2, 3), keepdims=True)
    y = ((x - mean) / jnp.sqrt(var + 1e-3) * gain + offset).reshape(maps.shape).astype(maps.dtype)
    return jax.nn.relu(y) if relu else y


def _wait(maps, mean, var, gain, offset, relu):
    """Returns pending maps of a gain that is never negative."""
    return Pending(maps, mean, gain / jnp.sqrt(var + 1e-3), jnp.broadcast_to(offset, mean.shape), relu)


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
        monkeypatch.setattr(deferred_norm, "_anew", lax.optimization_barrier)
    with jax.enable_x64(dtype == "float64"), cpu_native.kernels(kernels):
        own = "float64" if dtype == "float64" else "float32"
        maps = _draw(0, 4, 9, 8, 3, dtype=dtype)
        weights = {
            "first": (_draw(1, 3, 2, 3, 5, dtype=own), _draw(2, 5, dtype=own)),
            "second": (_draw(3, 3, 2, 5, 4, dtype=own), _draw(4, 4, dtype=own)),
            "gains": (abs(_draw(5, 5, dtype=own)), abs(_draw(6, 4, dtype=own))),
            "offsets": (_draw(7, 5, dtype=own), _draw(8, 4, dtype=own)),
        }
        along = functools.partial(jnp.reshape, shape=(1, 1, 1, 1, -1))
        geometry, group_size = ops.geometry(stride, BORDERS), 4 // groups

        def fast(maps, weights):
            gains, offsets = (jax.tree.map(along, weights[name]) for name in ("gains", "offsets"))
            made = deferred_norm.conv_moments(geometry, group_size, maps, *weights["first"], jnp.full(5, 0.3, own))
            waits = deferred_norm.max_pool(_wait(*made, gains[0], offsets[0], relu), 3, 1, BORDERS)
            assert isinstance(waits, Pending)
            waits = dataclasses.replace(waits, part=barriers)
            made = deferred_norm.conv_moments(geometry, group_size, waits, *weights["second"], jnp.zeros(4, own))
            return settle(_wait(*made, gains[1], offsets[1], relu))

        def plain(maps, weights):
            gains, offsets = (jax.tree.map(along, weights[name]) for name in ("gains", "offsets"))
            x = _plain_norm(_plain_conv(maps, *weights["first"], stride), groups, gains[0], offsets[0], relu)
            x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 1, 1, 1), ((0, 0), *BORDERS, (0, 0)))
            return _plain_norm(_plain_conv(x, *weights["second"], stride), groups, gains[1], offsets[1], relu)

        cotangent = _draw(9, *jax.eval_shape(plain, maps, weights).shape, dtype=dtype)

        @functools.partial(jax.jit, static_argnums=0)
        def run(function, maps, weights):
            made, pullback = jax.vjp(function, maps, weights)
            return made, pullback(cotangent)

        called = set(re.findall(r"@inception_jax\.(\w+)", run.lower(fast, maps, weights).as_text()))
        assert called == (KERNELS if kernels else set())
        seen, expected = (jax.tree.leaves(run(each, maps, weights)) for each in (fast, plain))
        for one, other in zip(seen, expected, strict=True):
            assert one.dtype == other.dtype
            one, other = (np.asarray(each, np.float64) for each in (one, other))
            scale = max(np.abs(other).max(), 1.0)
            np.testing.assert_allclose(one / scale, other / scale, atol=TOLERANCE[dtype], rtol=0)


def test_a_pool_before_the_normalisation_is_the_pool_after_it_to_the_last_bit():
    maps = _draw(0, 2, 9, 9, 6, dtype="bfloat16")
    mean, scale, bias = (_draw(seed, 1, 1, 1, 1, 6, dtype="float32") for seed in (1, 2, 3))
    waits = Pending(maps, mean, abs(scale), bias, relu=True)
    after = ops.max_pool(settle(waits), 3, 2, ((0, 1), (1, 0)))
    np.testing.assert_array_equal(settle(deferred_norm.max_pool(waits, 3, 2, ((0, 1), (1, 0)))), after)


def test_concatenation_stays_pending_where_all_parts_wait_alike():
    waits = [Pending(_draw(i, 2, 3, 3, i), *(_draw(i, 1, 1, 1, 1, i),) * 3, relu=True) for i in (1, 2)]
    both = deferred_norm.concatenate(waits)
    assert isinstance(both, Pending)
    np.testing.assert_array_equal(settle(both), jnp.concatenate([settle(each) for each in waits], -1))
    np.testing.assert_array_equal(settle(deferred_norm.channels(both, 1, 3)), settle(waits[1]))
    mixed = deferred_norm.concatenate([waits[0], settle(waits[1])])
    assert not isinstance(mixed, Pending)
    np.testing.assert_array_equal(mixed, settle(both))


def test_parts_are_maps():
    maps = _draw(0, 2, 3, 3, 5)
    parts = deferred_norm.Parts((maps[..., :2], maps[..., 2:]))
    assert parts.shape == maps.shape
    np.testing.assert_array_equal(settle(parts), maps)
    np.testing.assert_array_equal(deferred_norm.channels(parts, 1, 4), maps[..., 1:4])
    np.testing.assert_array_equal(
        deferred_norm.max_pool(parts, 3, 1, BORDERS), deferred_norm.max_pool(maps, 3, 1, BORDERS)
    )
    assert deferred_norm.parts(parts) is parts.parts
    assert deferred_norm.parts(maps) == (maps,)


def _program(platform, kernel_size=1, part=False):
    def loss(maps, kernel):
        waits = Pending(maps, *(jnp.ones((1, 1, 1, 1, 3)),) * 3, relu=True, part=part)
        return deferred_norm.conv_moments(ops.geometry(1, ops.NO_BORDERS), 2, waits, kernel, None, jnp.zeros(4))[
            0
        ].sum()

    traced = jax.jit(jax.grad(loss, (0, 1))).trace(_draw(0, 2, 5, 5, 3), _draw(1, kernel_size, kernel_size, 3, 4))
    return traced.lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize(("platform", "barriers"), [("tpu", True), ("cuda", False)])
def test_the_backward_pass_computes_anew_on_tpu_alone(platform, barriers):
    assert ("optimization_barrier" in _program(platform)) == barriers


@pytest.mark.parametrize(
    ("kernel_size", "part", "maps"), [(1, False, 0), (1, True, 0), (3, False, 0), (3, True, 1)], ids=str
)
def test_maps_stand_behind_a_barrier_only_where_windows_of_a_part_are_read(kernel_size, part, maps):
    """A barrier before a slice of maps makes the compiler write it out."""
    lines = _program("tpu", kernel_size, part).splitlines()
    assert sum(line.count("tensor<2x5x5x") for line in lines if "optimization_barrier" in line) == maps


def test_pools_and_concatenations_are_whole():
    part = Pending(_draw(0, 2, 5, 5, 3), *(_draw(1, 1, 1, 1, 1, 3),) * 3, relu=True, part=True)
    assert not deferred_norm.max_pool(part, 3, 1, BORDERS).part
    assert not deferred_norm.concatenate([part, part]).part
