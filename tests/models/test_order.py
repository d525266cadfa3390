"""Endpoints and auxiliary logits come in the order of the table, also where JAX takes outputs apart and together."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import pytest

from inception_jax.models import spec, zoo

# Neither the rows nor the taps are in the order of their names.
HEAD = spec.AuxHead(rows=(spec.Conv(4),), hidden=None, dropout=0.0)
TABLE = {"z": spec.Conv(4), "pool": spec.Pool("max", 3, 2), "b": spec.Conv(4), "a": spec.Conv(4)}
TAPS = {"z": HEAD, "b": HEAD}


@pytest.fixture(scope="module")
def model():
    return zoo.create_model("googlenet_cifar", 5, dropout=0.0).clone(table=TABLE, aux_heads=TAPS)


@pytest.fixture(scope="module")
def variables(model):
    return jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))


def _train(model):
    def run(variables, images):
        return model.apply(variables, images, train=True, mutable=["batch_stats"])[0]

    return run


def _with_gradient(model):
    def run(variables, images):
        def loss(images):
            output = _train(model)(variables, images)
            return output.logits.sum(), output

        return jax.grad(loss, has_aux=True)(images)[1]

    return run


RUNS = {
    "plain": _train,
    "jit": lambda model: jax.jit(_train(model)),
    "vmap": lambda model: jax.vmap(_train(model), (None, 0)),
    "aux of grad": _with_gradient,
    "jit of it": lambda model: jax.jit(_with_gradient(model)),
    "tree.map": lambda model: lambda *args: jax.tree.map(lambda leaf: leaf, _train(model)(*args)),
}


@pytest.mark.parametrize("name", RUNS)
def test_order(model, variables, name):
    images = jnp.zeros((3, 2, 8, 8, 3) if name == "vmap" else (2, 8, 8, 3))
    output = jax.eval_shape(RUNS[name](model), variables, images)
    assert list(output.endpoints) == list(TABLE)
    assert list(output.aux) == list(TAPS)
    assert isinstance(output.endpoints, Mapping)
    assert isinstance(output.aux, Mapping)


def test_features_come_in_the_order_of_the_table():
    body = zoo.create_model("googlenet_cifar", features_only=("5b", "3a", "conv1"))
    shapes = jax.eval_shape(body.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    output = jax.eval_shape(jax.jit(body.apply), shapes, jnp.zeros((1, 32, 32, 3)))
    assert list(output.endpoints) == [end.name for end in zoo.endpoints(body)]
