"""Layers between pooling and classifier: what a new classifier keeps of them, files, exports, the start of others."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest
from flax import traverse_util

from inception_jax.errors import UserError
from inception_jax.models import spec, zoo
from inception_jax.weights import Weights, adapt, export, files, reset_classifier, transfer
from inception_jax.weights.convert import convert
from inception_jax.weights.fitting import kept_head
from tests.selection import slow
from tests.weights import synthetic
from tests.weights.test_files import tiny

HIDDEN = spec.Head((spec.Conv(12, norm=False), spec.Conv(7)))
FACE = spec.Head((spec.Conv(9, relu=False),), embedding=True)
KERNEL = "params/classifier/linear/kernel"


@functools.cache
def _with(head):
    return tiny(head=head)


def _rows(weights):
    return {name for name in weights.flat() if name.split("/")[1] == "head"}


@pytest.mark.parametrize(("classes", "reset"), [(0, False), (4, False), (10, True)])
def test_a_new_classifier_drops_the_layers_before_it(classes, reset):
    source = _with(HIDDEN)
    assert len(_rows(source)) == 2 + 5
    adapted = adapt(source, classes, aux=False, reset_head=reset)
    assert (adapted.info.head, adapted.info.num_classes) == (spec.NO_HEAD, classes)
    assert _rows(adapted) == set()
    assert _rows(source) <= set(adapted.report.dropped)
    assert "the classifier is dropped with layers of 12 (ReLU), 7 (ReLU) before it" in str(adapted.report)
    pooled = source.create_model().num_features
    assert adapted.flat().get(KERNEL, np.zeros((0, 0))).shape == ((pooled, classes) if classes else (0, 0))


def test_the_same_classifier_keeps_the_layers_before_it():
    source = _with(HIDDEN)
    adapted = adapt(source, 10, aux=False, image_size=48)
    assert adapted.info.head == HIDDEN
    assert all(np.array_equal(adapted.flat()[name], source.flat()[name]) for name in (*_rows(source), KERNEL))
    assert kept_head(source.info, 10) == HIDDEN
    assert kept_head(source.info, 10, reset_head=True) == kept_head(source.info, 5) == spec.NO_HEAD


@pytest.mark.parametrize("classes", [0, 4])
def test_an_embedding_stays(classes):
    source = _with(FACE)
    adapted = adapt(source, classes, aux=False)
    assert adapted.info.head == FACE
    assert all(np.array_equal(adapted.flat()[name], source.flat()[name]) for name in _rows(source))
    assert not set(adapted.report.dropped) & _rows(source)
    if classes:
        assert adapted.flat()[KERNEL].shape == (9, 4)
        assert KERNEL in adapted.report.reinitialised


def test_a_missing_row_of_the_head_is_an_error():
    source = _with(FACE)
    flat = traverse_util.flatten_dict(source.variables)
    del flat["params", "head", "rows_0", "conv", "kernel"]
    source = Weights.of(source.info, flat)
    with pytest.raises(UserError, match="the first is params/head/rows_0/conv/kernel: nothing, not "):
        adapt(source, 4)


def test_another_network_starts_without_it():
    started = transfer(tiny("googlenet", head=HIDDEN), "googlenet_gap")
    assert started.info.head == spec.NO_HEAD
    assert {"params/head/rows_0/conv/kernel", "params/head/rows_1/conv/bias"} <= set(started.report.dropped)


@pytest.mark.parametrize("head", [HIDDEN, FACE], ids=["hidden", "embedding"])
def test_files_keep_it(tmp_path, head):
    source = adapt(_with(head), in_channels=4, aux=False)
    files.save(tmp_path / "weights.safetensors", source)
    back = files.read(tmp_path / "weights.safetensors")
    assert back.info == source.info
    assert (back.info.head, back.info.in_channels) == (head, 4)
    assert all(np.array_equal(array, back.flat()[name]) for name, array in source.flat().items())


def test_files_without_it_are_those_of_before():
    assert "head" not in json.loads(files.to_json(tiny().info))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head": {"rows": [{"features": 0}], "embedding": False}}, "head .*features=0.* is out of range"),
        ({"head": {"rows": [{"features": 1.5}], "embedding": False}}, r"head.rows.0"),
        ({"head": {"rows": [], "embedding": True}}, "embedding without rows"),
        ({"head": {"rows": [{"features": 3, "kernel": [3, 3]}], "embedding": False}}, "1x1"),
        ({"preprocess": {"size": 32, "mean": [0.0], "std": [1.0, 1.0]}}, "1 means and 2 stds is out of range"),
        ({"preprocess": {"size": 32, "mean": [], "std": []}}, "0 means and 0 stds is out of range"),
    ],
)
def test_what_a_file_may_not_state(change, message):
    stated = json.loads(files.to_json(tiny().info)) | change
    with pytest.raises(ValueError, match=message):
        files.from_json(json.dumps(stated)).create_model()


def test_export_needs_such_a_head_there():
    hidden = adapt(tiny("googlenet_torchvision", head=HIDDEN), aux=False)
    with pytest.raises(
        UserError, match=r"torchvision has nothing before .* have layers of 12 \(ReLU\), 7 \(ReLU\): num_"
    ):
        export(hidden, "torchvision")
    assert "fc.weight" not in export(adapt(hidden, 0), "torchvision")
    with pytest.raises(UserError, match=r"these weights have an embedding of 9\.$"):
        export(dataclasses.replace(hidden, info=dataclasses.replace(hidden.info, head=FACE)), "torchvision")
    plain = Weights(dataclasses.replace(hidden.info, model="inception_resnet_v1", head=spec.NO_HEAD), {})
    with pytest.raises(
        UserError, match=r"facenet_pytorch has an embedding of 512 before .* have nothing: num_classes=0"
    ):
        export(plain, "facenet_pytorch")


@pytest.mark.parametrize("origin", ["facenet_pytorch", slow("facenet")])
def test_faces(origin):
    """Also embeddings of 128, as facenet had them once; and files without people or without embedding."""
    its = synthetic.lineage(origin, "inception_resnet_v1")
    narrow = its.head._replace(rows=(its.head.rows[0]._replace(features=128),))
    model = zoo.create_model(its.model, 1000, head=narrow)
    rng = np.random.default_rng(0)
    tensors = {slot.name: np.abs(rng.standard_normal(slot.their_shape, np.float32)) for slot in its.slots(model)}
    weights = convert(tensors | {"centers": np.ones((3, 128))} if origin == "facenet" else tensors, its)
    assert (weights.info.head, weights.info.num_classes, weights.info.class_names) == (narrow, 1000, ())
    back = {name: tensor for name, tensor in export(weights, origin).items() if not name.endswith("tracked")}
    assert back.keys() == tensors.keys()
    assert all(np.array_equal(back[name], tensor) for name, tensor in tensors.items())
    of_people = [name for name in tensors if name.split("/")[0].split(".")[0].lower() == "logits"]
    unnamed = convert({name: tensor for name, tensor in tensors.items() if name not in of_people}, its)
    assert (unnamed.info.head, unnamed.info.num_classes) == (narrow, 0)
    with pytest.raises(UserError, match=r"its head, [lL]ogits \(128 -> 1000\), cannot be taken"):  # without embedding
        convert({name: t for name, t in tensors.items() if "last_" not in name and "Bottleneck" not in name}, its)


@pytest.mark.parametrize(("head", "classes"), [(HIDDEN, 3), (FACE, 0)], ids=["hidden", "embedding"])
def test_reset_classifier(head, classes):
    source = adapt(_with(head), aux=True, image_size=48)  # its auxiliary heads fit no other size
    model, variables = reset_classifier(source.create_model(), source.variables, classes)
    assert model.head == (head if head.embedding else spec.NO_HEAD)
    images = np.zeros((1, 48, 48, 3), np.float32)
    wanted = jax.eval_shape(model.init, jax.random.key(0), images)
    assert jax.tree.map(np.shape, variables) == jax.tree.map(np.shape, dict(wanted))
    output = jax.eval_shape(model.apply, variables, images)
    assert (output.logits.shape, output.pooled.shape) == ((1, classes), (1, model.num_features))
    assert variables["params"]["conv1"]["conv"]["kernel"] is source.variables["params"]["conv1"]["conv"]["kernel"]
    if classes:
        assert not np.array_equal(variables["params"]["classifier"]["linear"]["kernel"][0], np.zeros(3))
    for wrong in (-1, 2.5, None):
        with pytest.raises(ValueError, match="num_classes is "):
            model.reset_classifier(wrong)
