"""Runs that start from weights with layers between pooling and classifier, or for images of other channels."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import traverse_util

from inception_jax import weights
from inception_jax.errors import UserError
from inception_jax.models import spec
from inception_jax.training import prepare, saved, train_and_evaluate
from inception_jax.weights.channels import with_channels
from inception_jax.weights.fitting import initial_values

HIDDEN = spec.Head((spec.Conv(6, norm=False), spec.Conv(5)))
FACE = spec.Head((spec.Conv(7, relu=False),), embedding=True)


@pytest.fixture
def start(short, source, monkeypatch):
    """Returns a function that makes the config of a run from weights with a head, of images of so many channels."""

    def config(head, channels=3, **finetune):
        given = saved.run_weights(source)
        info = dataclasses.replace(given.info, head=head, class_names=())
        flat = dict(traverse_util.flatten_dict(given.variables))
        of_head = [("params", "classifier", "linear", "kernel")]
        shapes = jax.eval_shape(info.create_model().init, jax.random.key(0), np.zeros((1, 12, 12, 3), np.float32))
        of_head += [path for path in traverse_util.flatten_dict(dict(shapes)) if path[1] == "head"]
        flat |= initial_values(info.create_model(), of_head, 0, 12)
        loaded = with_channels(weights.Weights.of(info, flat, given.report), channels)
        monkeypatch.setattr(weights, "load", lambda *_, **__: loaded)
        return short(duration="2 steps", eval_every="2 steps", finetune={"weights": "a.safetensors"} | finetune)

    return config


def test_a_new_classifier_drops_the_layers_before_it(start, tmp_path):
    kept = prepare(start(HIDDEN), tmp_path)
    assert kept.model.head == kept.info.head == HIDDEN  # the classes are as many as before
    experiment = prepare(start(HIDDEN, reset_head=True), tmp_path)
    assert experiment.model.head == experiment.info.head == spec.NO_HEAD
    assert "head" not in experiment.abstract_state.params
    assert "the classifier is dropped with layers of 6 (ReLU), 5 (ReLU) before it" in str(experiment.weights.report)


@pytest.mark.slow
def test_an_embedding_is_trained_saved_and_resumed(start, tmp_path):
    config = start(FACE, reset_head=True)
    state = train_and_evaluate(config, tmp_path)
    learned = saved.run_weights(tmp_path)
    assert learned.info.head == FACE
    kernel = "params/head/rows_0/conv/kernel"
    np.testing.assert_array_equal(learned.flat()[kernel], state.ema["params"]["head"]["rows_0"]["conv"]["kernel"])
    assert not np.array_equal(weights.load("").flat()[kernel], learned.flat()[kernel])
    statistics = weights.load("").flat()["batch_stats/head/rows_0/bn/mean"]
    assert not np.array_equal(statistics, state.batch_stats["head"]["rows_0"]["bn"]["mean"])
    again = prepare(config, tmp_path)
    assert (again.weights, again.model.head) == (None, FACE)


def test_images_of_other_channels_are_refused(start, tmp_path):
    with pytest.raises(UserError, match=r"weights: a\.safetensors reads images of 4 channels; training reads RGB"):
        prepare(start(spec.NO_HEAD, channels=4), tmp_path)
