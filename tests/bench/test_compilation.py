"""What `bench compile` reads from the text of a program."""

import jax
import jax.numpy as jnp

from inception_jax.bench import compilation
from inception_jax.models import zoo


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
