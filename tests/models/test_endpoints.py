"""Endpoints and the networks that stop at them; `test_network.py` compares strides and channels with traced maps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

import inception_jax as ij
from inception_jax.models import spec
from inception_jax.models.endpoints import Endpoint, trace
from tests.parity import fixtures

PYRAMIDS = {  # channels at strides 2, 4, 8, 16, 32; where an original publishes features by stride, these are its own
    "googlenet_torchvision": {"conv1": 64, "conv2": 192, "3b": 480, "4e": 832, "5b": 1024},
    "inception_v3": {
        "Conv2d_2b_3x3": 64, "Conv2d_4a_3x3": 192,
        "Mixed_5d": 288, "Mixed_6e": 768, "Mixed_7c": 2048,
    },
    "inception_resnet_v2": {
        "Conv2d_2b_3x3": 64, "Conv2d_4a_3x3": 192,
        "block35_10": 320, "block17_20": 1088, "Conv2d_7b_1x1": 1536,
    },
    "xception": {"block1_conv2": 64, "block2": 128, "block3": 256, "block12": 728, "block14_sepconv2": 2048},
}  # fmt: skip


def _create(name="googlenet_cifar", **kwargs):
    return ij.create_model(name, 5, width=0.05, **kwargs)


def _variables(model, size=32):
    return fixtures.fill(fixtures.shapes(model, size), "float32", hidden_map=(1, 1))


def _paths(variables):
    return {path: leaf.shape for path, leaf in traverse_util.flatten_dict(dict(variables)).items()}


@pytest.mark.parametrize("name", PYRAMIDS)
def test_true_is_the_last_endpoint_of_each_stride(name):
    found = ij.endpoints(ij.create_model(name, features_only=True))
    assert [end.stride for end in found] == [2, 4, 8, 16, 32]
    assert {end.name: end.channels for end in found} == PYRAMIDS[name]


def test_a_pyramid_holds_no_pooled_vector():
    assert ij.endpoints("inception_v3_fid")[-1] == Endpoint("pool3", None, 2048)
    assert ij.endpoints(ij.create_model("inception_v3_fid", features_only=True))[-1].name == "Mixed_7c"


def test_what_follows_an_adaptive_pool_has_no_stride():
    table = {"pool": spec.AdaptivePool(7), "conv": spec.Conv(8, stride=2), "max": spec.Pool("max", 3, 2)}
    assert trace(table) == (Endpoint("pool", None, 3), Endpoint("conv", None, 8), Endpoint("max", None, 8))


def test_endpoints_of_a_name_are_those_of_its_model():
    assert ij.endpoints("googlenet") == ij.endpoints(ij.create_model("googlenet"))
    assert ij.endpoints(ij.create_model("googlenet", width=0.5))[-1] == Endpoint("5b", 32, 512)
    with pytest.raises(ValueError, match="No model is called 'googlnet'"):
        ij.endpoints("googlnet")


@pytest.mark.parametrize(
    ("asked", "expected"),
    [(("3b", "4e", "5b"), ["3b", "4e", "5b"]), (["4e", "3b"], ["3b", "4e"]), ({"3a"}, ["3a"]), ("4c", ["4c"])],
)
def test_a_network_for_features_ends_at_the_last_of_them(asked, expected):
    model = ij.create_model("googlenet", features_only=asked)
    assert [end.name for end in ij.endpoints(model)] == expected
    assert list(model.table)[-1] == expected[-1]
    assert list(model.table) == list(ij.model_card("googlenet").table)[: len(model.table)]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (("3b", "4f"), r"googlenet has no endpoint '4f'\. Nearest: .*4e.*\. All: conv1, pool1, .*, 5a, 5b\.$"),
        ("Mixed_6e", r"googlenet has no endpoint 'Mixed_6e'\. All: conv1, "),
        ((), r"features_only names no endpoint\. googlenet has: conv1, .* 5b\.$"),
    ],
)
def test_endpoints_that_do_not_exist_are_answered_with_those_that_do(asked, message):
    with pytest.raises(ValueError, match=message):
        ij.create_model("googlenet", features_only=asked)


@pytest.mark.parametrize("train", [False, True])
def test_features_come_in_the_one_output_type(train):
    model, images = _create(features_only=("3a", "4d")), jnp.zeros((2, 32, 24, 3))
    apply = functools.partial(model.apply, train=train, mutable=["batch_stats"], rngs={"dropout": jax.random.key(0)})
    output, _ = jax.eval_shape(apply, _variables(model), images)
    assert isinstance(output, ij.ModelOutput)
    assert (output.logits.shape, output.logits.dtype, output.aux) == ((2, 0), jnp.float32, {})
    assert {name: maps.shape for name, maps in output.endpoints.items()} == {
        "3a": (2, 32, 24, 4 * 16),
        "4d": (2, 16, 12, 4 * 16),
    }


def test_parameters_of_features_are_some_of_the_whole_model():
    whole, part = _paths(_variables(_create())), _paths(_variables(_create(features_only="4d")))
    assert part.items() < whole.items()
    gone = {path[1] for path in whole.keys() - part.keys()}
    assert gone == {"inception_4e", "inception_5a", "inception_5b", "classifier", "aux_4a", "aux_4d"}


def test_features_read_smaller_images_than_the_whole_model():
    assert ij.create_model("inception_v3").minimum_input() == 75
    assert ij.create_model("inception_v3", features_only="Mixed_5d").minimum_input(train=True) == 27  # 13, 11, 5, 3, 1


def test_features_equal_the_endpoints_of_the_whole_model_bit_for_bit():
    names = ("3a", "4b")
    whole, part = _create(), _create(features_only=names)
    variables, images = _variables(whole), fixtures.image(16, "float32")
    # Without them, which is how tests compile (tests/conftest.py), two programs round differently.
    options = {"xla_cpu_use_fusion_emitters": True} if jax.__version_info__ < (0, 12) else {}
    expected = jax.jit(whole.apply, compiler_options=options)(variables, images).endpoints
    found = jax.jit(part.apply, compiler_options=options)(variables, images).endpoints
    assert set(found) == set(names)
    for name in names:
        np.testing.assert_array_equal(found[name], expected[name])
        assert np.asarray(found[name]).std() > 0


def test_no_classes_are_no_classifier_and_no_heads():
    whole, body = _create(), ij.create_model("googlenet_cifar", 0, width=0.05)
    gone = _paths(_variables(whole)).keys() - _paths(_variables(body)).keys()
    assert {path[1] for path in gone} == {"classifier", "aux_4a", "aux_4d"}
    output = jax.eval_shape(body.apply, _variables(whole), jnp.zeros((2, 32, 32, 3)))
    assert (output.logits.shape, output.aux, set(output.endpoints)) == ((2, 0), {}, set(whole.table))
