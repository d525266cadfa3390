"""Optimizers against transcripts in NumPy, schedules against their formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import default
from inception_jax.training.config import TrainConfig
from inception_jax.training.optimizers import kernels, make_optimizer, make_schedule

GRADS = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
RATES = np.array([0.1, 0.05, 0.2, 0.01, 0.3], np.float32)


def configs(optimizer=(), schedule=()):
    values = default.get_config().to_dict()
    values["optimizer"] |= dict(optimizer)
    values["schedule"] |= dict(schedule)
    config = TrainConfig.parse(values)
    return config.optimizer, config.schedule


def rate(step):
    return jnp.array(RATES)[step]


def run(tx, grads=GRADS, name="kernel"):
    params = {"layer": {name: jnp.array([1.0, -2.0, 0.5])}}
    state = tx.init(params)
    for grad in grads:
        updates, state = tx.update({"layer": {name: jnp.array(grad)}}, state, params)
        params = optax.apply_updates(params, updates)
    return np.asarray(params["layer"][name])


def tensorflow_rmsprop(decay, momentum, epsilon, mean_square):
    w, velocity = np.array([1.0, -2.0, 0.5]), np.zeros(3)
    mean_square = np.full(3, mean_square)
    for grad, learning_rate in zip(GRADS.astype(np.float64), RATES.astype(np.float64), strict=True):
        mean_square = decay * mean_square + (1 - decay) * grad**2
        velocity = momentum * velocity + learning_rate * grad / np.sqrt(mean_square + epsilon)
        w = w - velocity
    return w


def test_rmsprop_follows_tensorflow_with_a_varying_rate():
    config, _ = configs({"name": "rmsprop_tf", "decay": 0.9, "momentum": 0.9, "epsilon": 1.0, "weight_decay": 0.0})
    ours = run(make_optimizer(config, rate))
    np.testing.assert_allclose(ours, tensorflow_rmsprop(0.9, 0.9, 1.0, mean_square=1.0), rtol=1e-6)
    default_start = run(optax.rmsprop(rate, 0.9, 1.0, momentum=0.9))
    assert np.abs(default_start - ours).max() > 1e-3, "the accumulator of optax's default starts at 0"


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_with_momentum_and_weight_decay(nesterov):
    config, _ = configs({"name": "sgd", "momentum": 0.9, "nesterov": nesterov, "weight_decay": 0.01})
    w, velocity = np.array([1.0, -2.0, 0.5]), np.zeros(3)
    for grad, learning_rate in zip(GRADS, RATES, strict=True):
        grad = grad + 0.01 * w
        velocity = 0.9 * velocity + grad
        w = w - learning_rate * (grad + 0.9 * velocity if nesterov else velocity)
    np.testing.assert_allclose(run(make_optimizer(config, rate)), w, rtol=1e-5)


@pytest.mark.parametrize("name", ["sgd", "rmsprop_tf", "adamw", "lars"])
def test_weight_decay_reaches_kernels_only(name):
    decayed = make_optimizer(configs({"name": name, "weight_decay": 0.1})[0], rate)
    plain = make_optimizer(configs({"name": name, "weight_decay": 0.0})[0], rate)
    for parameter in ("bias", "scale"):
        np.testing.assert_array_equal(run(decayed, name=parameter), run(plain, name=parameter))
    assert np.abs(run(decayed) - run(plain)).max() > 1e-4


def test_adamw_follows_its_paper_with_its_own_epsilon():
    config, _ = configs({"name": "adamw", "beta1": 0.9, "beta2": 0.99, "weight_decay": 0.1})
    w, m, v = np.array([1.0, -2.0, 0.5]), np.zeros(3), np.zeros(3)
    for t, (grad, learning_rate) in enumerate(zip(1e-3 * GRADS, RATES, strict=True), start=1):
        m, v = 0.9 * m + 0.1 * grad, 0.99 * v + 0.01 * grad**2
        w = w - learning_rate * (m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.99**t)) + 1e-8) + 0.1 * w)
    np.testing.assert_allclose(run(make_optimizer(config, rate), 1e-3 * GRADS), w, rtol=1e-5)


def test_lars_scales_kernels_by_their_trust_ratio():
    config, _ = configs({"name": "lars", "momentum": 0.9, "weight_decay": 0.01})
    w, velocity = np.array([1.0, -2.0, 0.5]), np.zeros(3)
    for grad, learning_rate in zip(GRADS, RATES, strict=True):
        grad = grad + 0.01 * w
        trust = 0.001 * np.linalg.norm(w) / np.linalg.norm(grad)
        velocity = 0.9 * velocity + learning_rate * trust * grad
        w = w - velocity
    np.testing.assert_allclose(run(make_optimizer(config, rate)), w, rtol=1e-5)


@pytest.mark.parametrize("name", ["sgd", "rmsprop_tf", "adamw", "lars"])
def test_clipping_bounds_the_global_norm(name):
    clipped = make_optimizer(configs({"name": name, "clip_norm": 1.0, "weight_decay": 0.0})[0], rate)
    plain = make_optimizer(configs({"name": name, "weight_decay": 0.0})[0], rate)
    norms = np.linalg.norm(GRADS, axis=1, keepdims=True)
    ours = run(clipped, 100 * GRADS, name="bias")  # lars is deaf to the size of a kernel's gradient
    np.testing.assert_allclose(ours, run(plain, GRADS / norms, name="bias"), rtol=1e-5)
    if name != "adamw":  # which is nearly deaf to the size of any
        assert np.abs(run(plain, 100 * GRADS, name="bias") - ours).max() > 1e-3


def test_kernels_mask():
    params = {"conv": {"kernel": 1, "bias": 2}, "bn": {"scale": 3, "bias": 4}, "linear": {"kernel": 5}}
    assert kernels(params) == {
        "conv": {"kernel": True, "bias": False},
        "bn": {"scale": False, "bias": False},
        "linear": {"kernel": True},
    }


def values(schedule, total=100, peak=0.1, steps_per_epoch=2.0):
    made = make_schedule(configs(schedule=schedule)[1], peak, total, steps_per_epoch)
    return np.array([float(made(step)) for step in range(total)])


def test_exponential_is_the_papers_stairs():
    rates = values({"name": "exponential", "decay_rate": 0.96, "decay_every": "8 epochs"})
    np.testing.assert_allclose(rates, [0.1 * 0.96 ** (step // 16) for step in range(100)], rtol=1e-5)


def test_poly_is_caffes():
    rates = values({"name": "poly", "power": 0.5})
    np.testing.assert_allclose(rates, [0.1 * (1 - step / 100) ** 0.5 for step in range(100)], rtol=1e-5)


def test_cosine_after_a_linear_warm_up():
    rates = values({"name": "cosine", "warmup": "5 epochs", "end_factor": 0.01})
    np.testing.assert_allclose(rates[:10], 0.1 * np.arange(10) / 10, rtol=1e-5)
    cosine = 0.5 * (1 + np.cos(np.pi * np.arange(90) / 90))
    np.testing.assert_allclose(rates[10:], 0.1 * (0.99 * cosine + 0.01), rtol=1e-4)


def test_constant():
    assert jax.numpy.allclose(values({"name": "constant"}), 0.1)
