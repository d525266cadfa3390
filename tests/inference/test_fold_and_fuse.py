"""Rewritten networks compute what the originals do, in fewer steps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from inception_jax.inference.fold_and_fuse import fold, for_inference
from inception_jax.models import spec, zoo
from inception_jax.weights.naming.lineages import variable_shapes
from tests.selection import networks, slow

WIDTH, SIZE = 0.1, 96


@functools.lru_cache(maxsize=2)
def _network(name, **settings):
    model = zoo.create_model(name, 10, width=WIDTH, **settings)
    rng = np.random.default_rng(0)
    flat = {}
    for path, shape in variable_shapes(model, SIZE).items():
        leaf = rng.standard_normal(shape, dtype=np.float32)
        if path[-1] == "kernel":
            leaf *= (2 / max(np.prod(shape[:-1]), 1)) ** 0.5
        flat[path] = np.abs(leaf) + 0.5 if path[-1] in ("var", "scale") else leaf * (1 if path[-1] == "kernel" else 0.1)
    return model, {"batch_stats": {}, **traverse_util.unflatten_dict(flat)}


@functools.lru_cache(maxsize=1)
def _original(name):
    """Returns a network, its variables, images, and what it makes of them."""
    model, variables = _network(name)
    if name == "inception_resnet_v1":  # two blocks of each kind are enough
        keep = [row for row in model.table if not row.startswith("block") or int(row.split("_")[1]) < 3]
        model = model.clone(table={row: model.table[row] for row in keep})
    images = np.random.default_rng(1).standard_normal((2, SIZE, SIZE, 3)).astype(np.float32)
    return model, variables, images, jax.jit(model.apply)(variables, images)


# A norm behind biases, a separable convolution, forks, residuals with scale, biases without norm, equal branches.
@pytest.mark.parametrize(
    ("name", "platform"),
    [
        ("bn_inception", "cpu"),
        slow(("inception_v2", "cpu")),
        slow(("inception_v3", "cpu")),
        slow(("inception_v3", "tpu")),
        ("inception_resnet_v1", "cpu"),
        slow(("xception", "cpu")),
        ("googlenet", "cpu"),
        ("googlenet", "tpu"),
        ("googlenet_torchvision", "tpu"),
    ],
)
def test_same_outputs(name, platform):
    model, variables, images, expected = _original(name)
    network = for_inference(model, variables, platform)
    found = jax.jit(network.model.apply)({"params": network.params}, images)
    assert found.endpoints.keys() == expected.endpoints.keys()
    for ours, theirs in (
        (found.logits, expected.logits),
        *((found.endpoints[n], expected.endpoints[n]) for n in model.table),
    ):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())


def test_tpus_compute_the_same_in_bfloat16():
    model, variables = _network("googlenet_torchvision", dtype=jnp.bfloat16)
    images = np.random.default_rng(1).standard_normal((2, SIZE, SIZE, 3)).astype(np.float32)
    networks = [for_inference(model, variables, platform) for platform in ("cpu", "tpu")]
    expected, found = (jax.jit(each.model.apply)({"params": each.params}, images) for each in networks)
    assert found.endpoints["5b"].dtype == jnp.bfloat16
    scale = np.abs(expected.logits).max()
    np.testing.assert_allclose(found.logits, expected.logits, rtol=0, atol=0.02 * scale)


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
@pytest.mark.parametrize("name", networks())
def test_parameters_are_those_the_new_table_asks_for(name, platform):
    model, variables = _network(name, aux=False)
    network = for_inference(model, variables, platform)
    found = {("params", *path): leaf.shape for path, leaf in traverse_util.flatten_dict(network.params).items()}
    assert found == variable_shapes(network.model, SIZE)
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(network.params))


def test_counts():
    """GoogLeNet's nine modules run three 1x1 convolutions as one: 57 convolutions become 39."""
    model, variables = _network("googlenet_torchvision")
    folded, fused = fold(model.clone(aux_heads={}), variables), for_inference(model, variables)
    convolutions = lambda network: sum(path[-1] == "kernel" for path in traverse_util.flatten_dict(network.params)) - 1  # noqa: E731
    assert (convolutions(folded), convolutions(fused)) == (57, 57 - 2 * 9)
    assert folded.model.numerics.norm is None
    assert convolutions(for_inference(model, variables, "tpu")) == 57 - 2 * 9


@pytest.mark.parametrize("name", ["googlenet_torchvision", "googlenet_bn"])
def test_rows_for_tpus(name):
    """The branch of a 1x1 alone stays apart; the two that go on begin as one, and if both are 3x3 go on as one."""
    model, variables = _network(name)
    alone, second, third, pooled = model.table["3a"]
    block = for_inference(model, variables, "tpu").model.table["3a"]
    assert (block[0], block[2]) == (alone, pooled)
    first, rest = block[1]
    a, b = second[0].features, second[0].features + third[0].features
    assert first == spec.Conv(b)
    if name == "googlenet_torchvision":
        assert rest == spec.Conv(second[1].features + third[1].features, (3, 3))
    else:
        assert rest == ((spec.Channels(0, a), second[1]), (spec.Channels(a, b), third[1]))


def test_residuals_are_the_same_for_tpus():
    model, variables = _network("inception_resnet_v2")
    tables = [for_inference(model, variables, platform).model.table["block35_1"] for platform in ("cpu", "tpu")]
    assert tables[0] == tables[1]


def test_rows_of_the_new_table():
    model, variables = _network("googlenet_bn")
    block = for_inference(model, variables).model.table["3a"]
    features = [branch[0].features for branch in model.table["3a"][:3]]
    a, b, c = np.cumsum(features).tolist()
    assert block[0][0] == spec.Conv(c)
    assert [branch[0] for branch in block[0][1]] == [spec.Channels(0, a), spec.Channels(a, b), spec.Channels(b, c)]
    assert block[1] == model.table["3a"][3]
