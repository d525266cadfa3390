"""Every model of the zoo is what its golden row says."""

import jax
import jax.numpy as jnp
import pytest

from inception_jax.describe import summary
from inception_jax.models import zoo
from tests.models.golden_rows import GOLDEN


def test_every_model_has_its_row_in_the_order_of_the_zoo():
    assert list(GOLDEN) == zoo.list_models()


@pytest.mark.parametrize("name", GOLDEN)
def test_parameters_and_multiply_adds(name):
    totals, golden = summary.summarize(name).totals, GOLDEN[name]
    found = totals["params"], totals["params_with_aux"], totals["macs"]
    assert found == (golden.params, golden.params_with_aux, golden.macs)
    assert totals["params"] == totals["weights"] + totals["biases"] + totals["norm"]


@pytest.mark.parametrize("name", [name for name in GOLDEN if GOLDEN[name].heads])
def test_without_its_heads_a_network_has_its_other_parameters_only(name):
    model, size = zoo.create_model(name, aux=False), GOLDEN[name].minimum[0]
    shapes = jax.eval_shape(lambda key: model.init(key, jnp.zeros((1, size, size, 3))), jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == GOLDEN[name].params


@pytest.mark.parametrize("name", GOLDEN)
def test_endpoints(name):
    rows = summary.summarize(name).rows
    assert all(row.output[0] == row.output[1] for row in rows)
    found = {row.name: (row.output[0], row.output[2]) for row in rows}
    assert {key: shape for key, shape in found.items() if key not in ("pool5", "drop", "linear")} == (
        GOLDEN[name].endpoints
    )


@pytest.mark.parametrize("name", GOLDEN)
def test_heads_and_the_size_of_the_input(name):
    card = zoo.model_card(name)
    assert (tuple(card.aux_heads), card.preprocess.size) == (GOLDEN[name].heads, GOLDEN[name].size)
