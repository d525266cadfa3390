"""Networks as modules of flax.nnx: the same numbers, gradients and statistics as in Linen."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import inception_jax as ij

IMAGES = np.random.default_rng(0).standard_normal((4, 16, 16, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def network():
    model = ij.create_model("googlenet_cifar", 5, width=0.05, aux=False)
    model = model.clone(table={name: model.table[name] for name in ("conv1", "3a")})
    return model, jax.jit(model.init)(jax.random.key(0), IMAGES)


def _close(found, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, expected)


def test_evaluation(network):
    model, variables = network
    net = ij.nnx.to_nnx(model, variables)
    expected = jax.jit(model.apply)(variables, IMAGES)
    output = nnx.jit(lambda net, images: net(images))(net, IMAGES)
    _close(output, expected)
    assert list(output.endpoints) == list(model.table)
    _close(net(IMAGES), expected)
    _close(ij.nnx.to_linen(net), dict(variables))
    assert isinstance(net.conv1["conv"]["kernel"], nnx.Param)
    assert isinstance(net.inception_3a["branch1_0"]["bn"]["mean"], nnx.BatchStat)
    assert net.minimum_input() == model.minimum_input()


@pytest.mark.parametrize("jitted", [False, True])
def test_training_updates_the_statistics(network, jitted):
    model, variables = network
    net = ij.nnx.to_nnx(model, variables, nnx.Rngs(dropout=3))
    seed = ij.nnx.to_nnx(model, variables, nnx.Rngs(dropout=3)).to_nnx__rngs.dropout()
    step = lambda net, images: net(images, train=True)  # noqa: E731
    output = (nnx.jit(step) if jitted else step)(net, IMAGES)
    expected, updates = model.apply(variables, IMAGES, train=True, mutable=["batch_stats"], rngs={"dropout": seed})
    _close(output, expected)
    after = ij.nnx.to_linen(net)
    _close(after["batch_stats"], updates["batch_stats"])
    _close(after["params"], variables["params"])
    again = (nnx.jit(step) if jitted else step)(net, IMAGES)
    assert not np.array_equal(again.logits, output.logits), "dropout draws other numbers"


def test_gradients(network):
    model, variables = network
    labels = jnp.arange(4)

    def loss(logits):
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    net = ij.nnx.to_nnx(model, variables)
    grads = nnx.jit(nnx.grad(lambda net: loss(net(IMAGES).logits)))(net)
    expected = jax.jit(jax.grad(lambda p: loss(model.apply({**variables, "params": p}, IMAGES).logits)))(
        variables["params"]
    )
    _close(nnx.to_pure_dict(grads), expected)


def test_an_optimizer_trains_it(network):
    model, variables = network
    net = ij.nnx.to_nnx(model, variables, nnx.Rngs(dropout=0))
    optimizer = nnx.Optimizer(net, optax.sgd(0.05), wrt=nnx.Param)

    @nnx.jit
    def step(net, optimizer):
        def loss(net):
            logits = net(IMAGES, train=True).logits
            return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.arange(4)).mean()

        value, grads = nnx.value_and_grad(loss)(net)
        optimizer.update(net, grads)
        return value

    losses = [float(step(net, optimizer)) for _ in range(8)]
    assert losses[-1] < losses[0]
    after = ij.nnx.to_linen(net)
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, dict(variables))
    mean = ("inception_3a", "branch1_0", "bn", "mean")
    before = variables["batch_stats"]
    for key in mean:
        before, after["batch_stats"] = before[key], after["batch_stats"][key]
    assert not np.array_equal(before, after["batch_stats"])
    assert np.isfinite(model.apply(ij.nnx.to_linen(net), IMAGES).logits).all()


def test_split_merge_and_state(network):
    model, variables = network
    net = ij.nnx.to_nnx(model, variables)
    graphdef, params, rest = nnx.split(net, nnx.Param, ...)
    assert len(jax.tree.leaves(params)) == len(jax.tree.leaves(variables["params"]))
    _close(nnx.merge(graphdef, params, rest)(IMAGES).logits, net(IMAGES).logits)
    halved = jax.tree.map(lambda leaf: leaf / 2, nnx.state(net, nnx.Param))
    other = ij.nnx.to_nnx(model, jax.tree.map(jnp.zeros_like, dict(variables)))
    nnx.update(other, nnx.state(net))
    _close(other(IMAGES).logits, net(IMAGES).logits)
    nnx.update(other, halved)
    _close(ij.nnx.to_linen(other)["params"], jax.tree.map(lambda leaf: leaf / 2, dict(variables["params"])))


def test_what_is_refused(network):
    model, variables = network
    with pytest.raises(ValueError, match=r"variables are 'classifier', 'conv1'.*; they must be"):
        ij.nnx.to_nnx(model, variables["params"])
    for wrong in ({}, None):
        with pytest.raises(ValueError, match=r"variables are (empty|NoneType); they must be"):
            ij.nnx.to_nnx(model, wrong)
    with pytest.raises(ValueError, match="rngs"):
        ij.nnx.to_nnx(model, variables)(IMAGES, train=True)
