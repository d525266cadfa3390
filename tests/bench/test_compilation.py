"""What `bench compile` reads from the text of a program."""

import jax
import jax.numpy as jnp
import pytest

from inception_jax.bench import compilation, hlo
from inception_jax.models import zoo
from tests.bench.program import TEXT, TOTAL


@pytest.mark.parametrize(
    ("op_name", "layer"),
    [
        ("jit(_forward)/InceptionNet/inception_3a/branch1_0/conv/conv_general_dilated", "inception_3a"),
        ("jit(train_step)/jvp(InceptionNet)/conv1/bn/sub", "conv1"),
        ("jit(train_step)/transpose(jvp(InceptionNet))/conv1/conv/conv_general_dilated", "conv1, backward"),
        ("jit(train_step)/add", "other"),
        ("", "other"),
    ],
)
def test_layers_by_the_names_of_operations(op_name, layer):
    assert compilation.layer(op_name) == layer


def test_bytes_by_layer_add_up():
    module = hlo.parse(TEXT)
    found = hlo.traffic_by(module, lambda name: name)
    assert sum(found.values()) == hlo.traffic(module).total == TOTAL


def test_a_network_row_by_row(short_network):
    model = zoo.create_model("short", 10, aux=False)
    images = jnp.zeros((2, 32, 32, 3))
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    lowered = jax.jit(lambda variables, images: model.apply(variables, images).logits).lower(variables, images)
    found = compilation.read_program(lowered.as_text(), lowered.compile().as_text())
    steps = found["before"]["stablehlo.convolution"] + found["before"]["stablehlo.dot_general"]  # 1x1: a matmul on CPU
    assert steps == sum(leaf.ndim > 1 for leaf in jax.tree.leaves(variables["params"]))
    assert found["after"]["parameter"] >= found["steps"]["parameter"] == len(jax.tree.leaves(variables)) + 1
    modules = {name for name in variables["params"] if not name.startswith("aux")}
    assert modules <= set(found["bytes_moved"])
    assert list(found["bytes_moved"].values()) == sorted(found["bytes_moved"].values(), reverse=True)
