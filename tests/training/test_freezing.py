"""What is frozen stays as it is, bit for bit: rows of a model, parameters in an optimizer, and what is averaged."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from inception_jax.models.zoo import create_model
from inception_jax.training.config import OptimizerConfig
from inception_jax.training.optimizers import frozen_parameters, make_optimizer
from inception_jax.training.step import update_ema
from tests.training.trees import bits, flat, random_like

pytestmark = pytest.mark.usefixtures("short_network")

# The model.


@pytest.mark.parametrize(
    ("freeze", "message"),
    [
        ("backbon", "freeze is 'backbon'; it must be none, backbone or up_to:ENDPOINT"),
        ("up_to:", "the model has no endpoint ''. All: conv1, "),
        ("up_to:4f", "freeze is 'up_to:4f'; the model has no endpoint '4f'. Nearest: 4e, 4d, 4c. All: conv1, "),
    ],
)
def test_what_cannot_be_frozen_is_named(freeze, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        create_model("googlenet_cifar", freeze=freeze)


def test_names_of_frozen_rows():
    assert create_model("googlenet_cifar").frozen_rows() == ()
    model = create_model("googlenet_cifar", freeze="up_to:3a")
    assert model.frozen_rows() == ("conv1", "3a")
    assert model.frozen_modules() == {"conv1", "inception_3a"}
    for name in ("googlenet", "inception_v3", "inception_resnet_v2", "xception"):
        model = create_model(name, freeze="backbone")
        assert model.frozen_rows() == tuple(model.table)


@functools.cache
def frozen_model(freeze):
    model = create_model("short", 10, width=0.05, dropout=0.0, freeze=freeze)
    variables = random_like(jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 12, 12, 3)))), 0)
    images = np.random.default_rng(1).normal(size=(8, 12, 12, 3)).astype(np.float32)

    def train(params, batch_stats, images):
        rngs = {"dropout": jax.random.key(0)}
        output, updated = model.apply(
            {"params": params, "batch_stats": batch_stats}, images, True, rngs=rngs, mutable=["batch_stats"]
        )
        logits = [output.logits, *output.aux.values()]
        return sum(jnp.square(each).sum() for each in logits), (output.logits, updated["batch_stats"])

    step = jax.jit(jax.value_and_grad(train, has_aux=True))
    return model, variables, images, step


@pytest.mark.parametrize("freeze", ["backbone", "up_to:4a"])
def test_frozen_rows_have_no_gradient_and_keep_their_statistics(freeze):
    model, variables, images, step = frozen_model(freeze)
    (_, (logits, batch_stats)), grads = step(variables["params"], variables["batch_stats"], images)
    frozen = model.frozen_modules()
    assert {"conv1", "inception_4a"} <= frozen
    assert ("inception_5b" in frozen) == (freeze == "backbone")
    before, after = bits(variables["batch_stats"]), bits(batch_stats)
    assert {name.split("/")[0] for name in before if before[name] == after[name]} == frozen & {*batch_stats}
    for name, grad in flat(grads).items():
        assert grad.any() != (name.split("/")[0] in frozen), name
    if freeze == "backbone":
        evaluate = jax.jit(lambda variables, images: model.apply(variables, images).logits)
        np.testing.assert_allclose(evaluate(variables, images), logits, rtol=1e-5)  # two programs: rounding


def test_nothing_is_computed_backwards_through_frozen_rows():
    flops = {}
    for freeze in ("none", "up_to:4a", "backbone"):
        _, variables, images, step = frozen_model(freeze)
        lowered = step.lower(variables["params"], variables["batch_stats"], images)
        flops[freeze] = lowered.cost_analysis()["flops"]
    assert flops["backbone"] < 0.5 * flops["none"], flops
    assert flops["backbone"] < flops["up_to:4a"] < flops["none"], flops


# The optimizer and the average.


def optimizer(name, frozen=None, **changes):
    values = {
        "name": name, "learning_rate": 0.1, "momentum": 0.9, "nesterov": False, "decay": 0.9, "epsilon": None,
        "beta1": 0.9, "beta2": 0.999, "weight_decay": 0.1, "clip_norm": 1.0,
    }  # fmt: skip
    return make_optimizer(OptimizerConfig(**values | changes), optax.constant_schedule(0.1), frozen)


PARAMS = {
    "conv1": {"kernel": jnp.array([1.0, -0.0, 3.0])},
    "conv2": {"kernel": jnp.array([[1.0, 2.0]]), "bn": {"scale": jnp.ones(7), "bias": jnp.array([-0.5])}},
}
FROZEN = frozen_parameters({"conv1"}, {"conv2/bn/scale"})


@pytest.mark.parametrize("name", ["sgd", "rmsprop_tf", "adamw", "lars"])
def test_frozen_parameters_stay_have_no_state_and_do_not_count(name):
    """The rest is updated as if the frozen ones were not there: neither decay nor the clipped norm sees them."""
    rest = {"conv2": {"kernel": PARAMS["conv2"]["kernel"], "bn": {"bias": PARAMS["conv2"]["bn"]["bias"]}}}
    tx, alone = optimizer(name, FROZEN), optimizer(name)
    params, state, rest_state = PARAMS, tx.init(PARAMS), alone.init(rest)
    arrays = [leaf.shape for leaf in jax.tree.leaves(state)]
    assert arrays == [leaf.shape for leaf in jax.tree.leaves(rest_state)]
    assert (3,) not in arrays
    assert (7,) not in arrays
    for _ in range(2):
        updates, state = tx.update(jax.tree.map(lambda leaf: leaf + 50, params), state, params)
        rest_updates, rest_state = alone.update(jax.tree.map(lambda leaf: leaf + 50, rest), rest_state, rest)
        params, rest = optax.apply_updates(params, updates), optax.apply_updates(rest, rest_updates)
    np.testing.assert_array_equal(params["conv1"]["kernel"], PARAMS["conv1"]["kernel"])
    np.testing.assert_array_equal(params["conv2"]["bn"]["scale"], 1.0)
    chex.assert_trees_all_equal(params["conv2"]["kernel"], rest["conv2"]["kernel"])
    chex.assert_trees_all_equal(params["conv2"]["bn"]["bias"], rest["conv2"]["bn"]["bias"])
    assert (params["conv2"]["kernel"] != PARAMS["conv2"]["kernel"]).all()


def test_with_nothing_frozen_the_optimizer_is_the_plain_one():
    assert frozen_parameters(frozenset(), ()) is None
    params = {"kernel": jnp.ones(3)}
    state = optimizer("sgd", weight_decay=0.0, clip_norm=None).init(params)
    plain = optax.chain(optax.identity(), optax.chain(optax.add_decayed_weights(0.0, lambda _: {"kernel": True}),
                        optax.sgd(optax.constant_schedule(0.1), 0.9)))  # fmt: skip
    assert jax.tree.structure(state) == jax.tree.structure(plain.init(params))


def test_the_average_of_what_does_not_change_is_that():
    values = np.random.default_rng(0).normal(size=10_000).astype(np.float32)
    values[:2] = 0.0, -0.0
    step = jax.jit(functools.partial(update_ema, decay=0.999))
    for count in (1, 2, 7, 100_000):
        assert bits({"mean": step(values, values, jnp.array(count))}) == bits({"mean": values})
