"""Weights fitted to other classes, images and heads."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from inception_jax.models import zoo
from inception_jax.weights.convert import convert
from inception_jax.weights.fitting import adapt
from tests.weights import synthetic
from tests.weights.test_files import tiny


def test_another_number_of_classes(weights):
    adapted = adapt(weights, num_classes=7, seed=3)
    assert adapted.info.num_classes == 7
    assert set(adapted.report.reinitialised) == {
        f"params/{head}/linear/{leaf}"
        for head in ("classifier", "aux_4a/classifier", "aux_4d/classifier")
        for leaf in ("kernel", "bias")
    }
    model = zoo.create_model("googlenet_torchvision", 7)
    shapes = jax.eval_shape(model.init, jax.random.key(3), jnp.zeros((1, 224, 224, 3)))
    assert jax.tree.map(np.shape, adapted.variables) == jax.tree.map(np.shape, shapes)
    old, new, other = weights.flat(), adapted.flat(), adapt(weights, num_classes=7, seed=4).flat()
    kernel = "params/classifier/linear/kernel"
    assert new[kernel].std() == pytest.approx(0.01, rel=0.05)  # as torchvision initialises it
    assert not np.array_equal(new[kernel], other[kernel])
    assert all(np.array_equal(new[name], old[name]) for name in adapted.report.loaded)
    assert len(adapted.report.loaded) == 305 - 6


def test_heads_leave_and_come(weights):
    bare = adapt(weights, aux=False)
    assert not bare.info.aux
    assert all("/aux_" in name for name in bare.report.dropped)
    assert len(bare.report.dropped) == 2 * 9
    again = adapt(bare, aux=True)
    assert {name.split("/")[1] for name in again.report.reinitialised} == {"aux_4a", "aux_4d"}
    assert again.flat().keys() == weights.flat().keys()


def test_another_image_size(weights):
    """Heads of torchvision pool to 4 x 4 whatever they read; the paper's do not."""
    assert adapt(weights, image_size=160).report.reinitialised == ()
    small = adapt(tiny(), image_size=48)
    assert {name.split("/")[1] for name in small.report.reinitialised} == {"aux_4a", "aux_4d"}
    assert small.info.preprocess.size == 48
    hidden = "params/aux_4a/hidden/kernel"
    assert small.flat()[hidden].shape != tiny().flat()[hidden].shape


def test_a_new_classifier_for_as_many_classes(weights):
    same = adapt(weights)
    assert same.report == weights.report
    new = adapt(weights, reset_head=True)
    assert len(new.report.reinitialised) == 6
    assert not np.array_equal(
        new.flat()["params/classifier/linear/kernel"], weights.flat()["params/classifier/linear/kernel"]
    )


def test_heads_that_a_model_does_not_have():
    its = synthetic.lineage("keras", "xception")
    adapted = adapt(convert(synthetic.tensors(its, 4), its), aux=True)
    assert "xception has no auxiliary heads" in str(adapted.report)
