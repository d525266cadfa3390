"""Batch normalisation against NumPy, behind a convolution that copies: one training step, groups, many devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from inception_jax import ops
from inception_jax.models import spec
from inception_jax.models.convolution import ConvNormAct
from inception_jax.ops.deferred_norm import DeferredNorm, apply_norm, max_pool

SHAPE = (16, 3, 5, 4)
GAIN, BIAS = np.array([0.5, -1.0, 1.5, 2.0]), np.array([-1.0, 0.0, 1.0, 2.0])
MEAN, VAR = np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.5, 1.0, 2.0, 4.0])


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).normal(3, 2, SHAPE).astype(np.float32)


def _variables(scale=True, mean=MEAN):
    norm = {"bias": BIAS} | ({"scale": GAIN} if scale else {})
    params = {"conv": {"kernel": np.eye(4).reshape(1, 1, 4, 4)}, "bn": norm}
    variables = {"params": params, "batch_stats": {"bn": {"mean": mean, "var": VAR}}}
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), variables)


def _unit(constants, group=None, dtype=jnp.float32):
    return ConvNormAct(spec.Conv(4, relu=False), spec.TORCH._replace(norm=constants), group, dtype)


def _train(module, x, **kwargs):
    out, updates = module.apply(_variables(**kwargs), x, train=True, mutable=["batch_stats"])
    assert isinstance(out, DeferredNorm)
    return apply_norm(out), updates["batch_stats"]["bn"]


def _reference(x, group, epsilon, decay, correction, gain=GAIN, before=MEAN):
    """Returns output, running mean and running variance of one step on groups of `group` images, in float64."""
    x = x.astype(np.float64)
    outputs, means, variances = [], [], []
    for start in range(0, len(x), group):
        part = x[start : start + group]
        mean, var = part.mean((0, 1, 2)), part.var((0, 1, 2))
        outputs.append((part - mean) / np.sqrt(var + epsilon) * gain + BIAS)
        means.append(mean)
        variances.append(var)
    n = group * x.shape[1] * x.shape[2]
    factor = n / (n - 1) if correction else 1.0
    running_mean = decay * before + (1 - decay) * np.mean(means, axis=0)
    running_var = decay * VAR + (1 - decay) * factor * np.mean(variances, axis=0)
    return np.concatenate(outputs), running_mean, running_var


@pytest.mark.parametrize("unbiased", [True, False])
def test_one_step_with_either_rule_for_the_running_variance(x, unbiased):
    # Two images, so that n / (n - 1) = 30 / 29 is well seen.
    out, statistics = _train(_unit(spec.BatchNorm(decay=0.5, unbiased=unbiased)), x[:2])
    expected, mean, var = _reference(x[:2], 2, 1e-3, 0.5, unbiased)
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(statistics["mean"], mean, rtol=1e-6)
    np.testing.assert_allclose(statistics["var"], var, rtol=1e-6)


@pytest.mark.parametrize(("numerics", "epsilon", "decay"), [(spec.TORCH, 1e-3, 0.9), (spec.TF, 1e-3, 0.9997)])
def test_constants_of_the_presets_in_one_step(x, numerics, epsilon, decay):
    scale = numerics is spec.TORCH
    gain = GAIN if scale else np.ones(4)
    out, statistics = _train(_unit(numerics.norm), x / 50, scale=scale, mean=MEAN / 50)  # epsilon is seen
    expected, mean, var = _reference(x / 50, 16, epsilon, decay, correction=scale, gain=gain, before=MEAN / 50)
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(statistics["mean"], mean, rtol=1e-6)
    np.testing.assert_allclose(statistics["var"], var, rtol=1e-6)


@pytest.mark.parametrize(("distance", "error"), [(0, 2e-6), (10, 1e-4), (100, 1e-2)])
def test_the_variance_is_as_exact_as_the_running_mean_is_near(distance, error):
    """Distances in standard deviations: the sum of squares from there on swallows digits of the variance."""
    x = np.random.default_rng(0).normal(0, 1, SHAPE).astype(np.float32) + np.float32(distance)
    module = _unit(spec.BatchNorm(decay=0.0, unbiased=False))
    _, statistics = _train(module, x, mean=np.zeros(4))
    np.testing.assert_allclose(statistics["var"], x.astype(np.float64).var((0, 1, 2)), rtol=error)
    _, near = _train(module, x, mean=np.full(4, distance))
    np.testing.assert_allclose(near["var"], x.astype(np.float64).var((0, 1, 2)), rtol=2e-6)
    _, constant = _train(module, np.full(SHAPE, 1e3 + distance, np.float32), mean=np.zeros(4))
    assert (np.asarray(constant["var"]) >= 0).all()


def test_evaluation_uses_the_running_statistics_and_changes_nothing(x):
    out = _unit(spec.BatchNorm()).apply(_variables(), x, train=False)
    np.testing.assert_allclose(out, (x - MEAN) / np.sqrt(VAR + 1e-3) * GAIN + BIAS, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("group", [2, 8, 16])
def test_groups_are_consecutive_and_their_statistics_averaged(x, group):
    out, statistics = _train(_unit(spec.BatchNorm(), group), x)
    expected, mean, var = _reference(x, group, 1e-3, 0.9, correction=True)
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(statistics["mean"], mean, rtol=1e-5)
    np.testing.assert_allclose(statistics["var"], var, rtol=1e-5)


def test_a_group_that_does_not_divide_the_batch_is_refused(x):
    with pytest.raises(ValueError, match="bn_group_size 5 does not divide the batch of 16 images"):
        _train(_unit(spec.BatchNorm(), 5), x)


@pytest.mark.parametrize("group", [None, 2])
def test_eight_devices_equal_one(x, group):
    mesh = Mesh(np.array(jax.devices()), ("data",))
    module = _unit(spec.BatchNorm(), group)
    out, statistics = jax.jit(lambda x: _train(module, x))(jax.device_put(x, NamedSharding(mesh, P("data"))))
    expected, mean, var = _reference(x, group or 16, 1e-3, 0.9, correction=True)
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-4)
    for leaf, value in (("mean", mean), ("var", var)):
        for shard in statistics[leaf].addressable_shards:
            np.testing.assert_allclose(shard.data, value, rtol=1e-5)


def test_groups_within_a_device_need_no_collective(x):
    mesh = Mesh(np.array(jax.devices()), ("data",))
    module = _unit(spec.BatchNorm(), 2)
    sharding = NamedSharding(mesh, P("data"))
    forward = jax.jit(lambda x: _train(module, x)[0], out_shardings=sharding)
    compiled = forward.lower(jax.device_put(x, sharding)).compile().as_text()
    assert not any(word in compiled for word in ("all-reduce", "all-gather", "all-to-all"))


def test_bfloat16_maps_are_normalised_in_float32(x):
    out, statistics = _train(_unit(spec.BatchNorm(), dtype=jnp.bfloat16), jnp.asarray(x, jnp.bfloat16))
    assert out.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(statistics)} == {jnp.dtype("float32")}
    rounded = np.asarray(jnp.asarray(x, jnp.bfloat16), np.float32)
    expected, mean, _ = _reference(rounded, 16, 1e-3, 0.9, correction=True)
    np.testing.assert_allclose(statistics["mean"], mean, rtol=1e-5)
    np.testing.assert_allclose(np.asarray(out, np.float32), expected, rtol=2**-7, atol=1e-2)


def test_a_negative_gain_turns_the_maps_so_that_a_pool_may_come_first(x):
    module, padding = _unit(spec.BatchNorm()), ((1, 0), (0, 1))
    waits, _ = module.apply(_variables(), x, train=True, mutable=["batch_stats"])
    assert (GAIN < 0).any()
    assert (waits.scale >= 0).all()
    pooled = apply_norm(max_pool(waits, 2, 1, padding))
    np.testing.assert_array_equal(pooled, ops.max_pool(_train(module, x)[0], 2, 1, padding))


def test_a_batch_of_no_images_is_refused_in_training_in_a_sentence(x):
    """It would leave NaN in the running statistics."""
    unit = _unit(spec.TORCH.norm)
    with pytest.raises(ValueError, match="A batch of 0 images has no mean and no variance"):
        unit.apply(_variables(), x[:0], train=True, mutable=["batch_stats"])
    assert unit.apply(_variables(), x[:0], train=False).shape == (0, 3, 5, 4)
