"""The preprocessing of third-party weights: stated in words, by layers of a Keras model, or refused."""

import dataclasses
import json

import h5py
import numpy as np
import pytest

from inception_jax.errors import UserError
from inception_jax.models import inputs
from inception_jax.weights.classes import read_class_names, with_class_names
from inception_jax.weights.preprocessing import parse, stated_input
from inception_jax.weights.readers import Statement, read_content
from tests.weights.small_files import BIAS, KERNEL, archive
from tests.weights.test_files import tiny
from tests.weights.test_keras_readers import layer

USUAL = inputs.TIMM_299


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        ("imagenet", {"mean": inputs.IMAGENET.mean, "std": inputs.IMAGENET.std}),
        ("inception", {"mean": (127.5,) * 3, "std": (127.5,) * 3}),
        ("caffe", {"mean": (123.0, 117.0, 104.0), "std": (1.0,) * 3}),
        ("mean=0.5,0.5,0.5;std=0.5", {"mean": (127.5,) * 3, "std": (127.5,) * 3}),
        ("mean=0.485,0.456,0.406 std=0.229,0.224,0.225", {"mean": inputs.IMAGENET.mean, "std": inputs.IMAGENET.std}),
        ("mean=123,117,104;std=1;range=255", {"mean": (123.0, 117.0, 104.0), "std": (1.0,) * 3}),
        ("size=224;crop_pct=0.95", {"size": 224, "crop_fraction": 0.95}),
        ("imagenet; interpolation=bilinear", {"mean": inputs.IMAGENET.mean, "std": inputs.IMAGENET.std}),
        ("geometry=central_box;crop=1", {"geometry": "central_box", "crop_fraction": 1.0}),
    ],
)
def test_preprocessing_in_words(text, changes):
    interpolation = {"interpolation": "bilinear"} if "bilinear" in text else {}
    assert parse(text, USUAL) == dataclasses.replace(USUAL, **changes, **interpolation)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "states ''; allowed: inception, imagenet, caffe, or KEY=VALUE"),
        ("imagnet", "states 'imagnet'; allowed: inception, imagenet"),
        ("imagenet;caffe", "states 'caffe'"),
        ("colour=red", "states 'colour=red'"),
        ("mean=0.5;mean=0.4", "states mean twice"),
        ("mean=123,117,104", "states 'mean=123,117,104'; allowed: .* add range=255"),
        ("mean=0.5,0.5", "allowed: one or three numbers"),
        ("std=0", "one or three numbers above 0"),
        ("std=nan", "one or three numbers above 0"),
        ("std=x\x1b", r"states 'std=x\\x1b'"),
        ("range=255", "allowed: range with mean or std"),
        ("mean=0.5;range=2", "allowed: range=1 or range=255"),
        ("size=0", "allowed: size=1 ... 4096"),
        ("size=" + "9" * 5000, "allowed: size=1 ... 4096"),
        ("crop=2", "allowed: crop in 0 ... 1"),
        ("interpolation=lanczos", "allowed: interpolation=bilinear or bicubic"),
    ],
)
def test_words_that_state_nothing(text, words):
    with pytest.raises(UserError, match=words) as caught:
        parse(text, USUAL)
    assert str(caught.value).isprintable()


# ---- Layers of Keras -----------------------------------------------------------------------------------------------

CONV = layer("Conv2D", "stem")
RESCALING = layer("Rescaling", "rescaling", scale=1 / 255, offset=0.0)
TENSOR = {"class_name": "__keras_tensor__", "config": {}}


def operation(kind, *args):
    node = {"args": [TENSOR, *args], "kwargs": {}}
    return {"module": "keras.src.ops.numpy", "class_name": kind, "config": {"name": kind}, "inbound_nodes": [node]}


def old_operation(function, number):
    config = {"name": f"tf.{function}", "function": function}
    return {"class_name": "TFOpLambda", "config": config, "inbound_nodes": [["x", 0, 0, {"y": number, "name": None}]]}


def write(path, *layers, **variables):
    members = {"conv2d": ("stem", (KERNEL,))} | {name: (name, arrays) for name, arrays in variables.items()}
    archive(path, {"class_name": "Functional", "config": {"layers": list(layers)}}, members)
    return read_content(path)


@pytest.fixture
def path(tmp_path, in_process):
    return tmp_path / "x.keras"


@pytest.mark.parametrize(
    ("layers", "scale", "offset"),
    [
        ([RESCALING], 1 / 255, 0),
        ([layer("InputLayer", "in"), layer("Rescaling", "r", scale=1 / 127.5, offset=-1)], 1 / 127.5, -1),
        ([layer("Rescaling", "r", scale=[1, 2, 4], offset=[0, 1, 2])], [1, 2, 4], [0, 1, 2]),
        ([RESCALING, layer("Normalization", "n", mean=[0, 0.5, 1], variance=[1, 4, 9])], None, None),
        ([operation("TrueDivide", 127.5), operation("Subtract", 1)], 1 / 127.5, -1),
        ([old_operation("math.truediv", 127.5), old_operation("math.subtract", 1.0)], 1 / 127.5, -1),
        ([{"class_name": "Sequential", "config": [RESCALING]}], 1 / 255, 0),
    ],
)
def test_layers_that_scale_pixels_are_taken_over(path, layers, scale, offset):
    content = write(path, *layers, CONV)
    if scale is None:
        scale, offset = np.array([1, 1 / 2, 1 / 3]) / 255, np.array([0, -0.5, -1]) / [1, 2, 3]
    np.testing.assert_allclose(content.statement.scale, np.broadcast_to(scale, 3), rtol=1e-12)
    np.testing.assert_allclose(content.statement.offset, np.broadcast_to(offset, 3), rtol=1e-12)
    preprocess, notes = stated_input(None, content.statement, USUAL, "x")
    assert preprocess.size == USUAL.size
    pixels = np.arange(24, dtype=np.float32).reshape(1, 2, 4, 3)
    expected = np.asarray(scale) * pixels + np.asarray(offset)
    np.testing.assert_allclose(inputs.normalise(pixels, preprocess), expected, rtol=1e-5, atol=1e-6)
    assert "become preprocessing" in notes[-1]


def test_a_normalization_that_was_adapted(path):
    constants = (np.float32([1, 2, 3]), np.float32([4, 9, 16]), np.array(7))
    content = write(path, layer("Normalization", "normalization", axis=[-1]), CONV, normalization=constants)
    assert set(content.tensors) == {"stem/kernel"}
    assert content.statement.pixel_constants() == ((1, 2, 3), (2, 3, 4))


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ([layer("Lambda", "scale")], r"its layer 'scale' \('Lambda'\) changes the input in a way"),
        ([layer("CenterCrop", "crop")], "'CenterCrop'"),
        ([layer("Resizing", "r")], "'Resizing'"),
        ([operation("GetItem", [1])], "'GetItem'"),
        ([operation("TrueDivide", TENSOR)], "is called with something other than a number"),
        ([operation("TrueDivide", 0)], "has no plain numbers"),
        ([layer("Rescaling", "r", scale=-1.0)], "scale pixels by"),
        ([layer("Rescaling", "r", scale=[1, 2])], "has 2 numbers"),
        ([layer("Rescaling", "r")], "has 0 numbers"),
        ([layer("Normalization", "n", mean=0, variance=1, invert=True)], "normalises in a way"),
        ([layer("Mine", "a\n\x1b")], r"its layer 'a\\n\\x1b' \('Mine'\)"),
    ],
)
def test_layers_that_change_the_input_otherwise(path, layers, words):
    statement = write(path, *layers, CONV).statement
    with pytest.raises(UserError, match=rf"x.keras cannot be converted: .*{words}.*--preprocess") as caught:
        stated_input(None, statement, USUAL, "x.keras")
    assert str(caught.value).isprintable()
    preprocess, notes = stated_input("imagenet", statement, USUAL, "x.keras")
    assert preprocess == parse("imagenet", USUAL)
    assert "the stated preprocessing replaces layers of the file" in notes[-1]


@pytest.mark.parametrize(
    ("shape", "asked", "size", "words"),
    [
        ([None, 150, 150, 3], None, 150, "its input layer states 150 x 150 pixels"),
        ([None, 150, 150, 3], "size=160", 160, ""),
        ([None, 150, 150, 3], "imagenet", 150, ""),
        ([None, 150, 200, 3], None, 299, "states 150 x 200 pixels; images of 299 x 299 are read"),
        ([None, 99999, 99999, 3], None, 299, "states 99999 x 99999 pixels; images of 299 x 299"),
        ([None, None, None, 3], None, 299, ""),
        ([None, 299, 299, 3], None, 299, ""),
    ],
)
@pytest.mark.parametrize("key", ["batch_shape", "batch_input_shape"])
def test_the_input_layer_states_the_size(path, key, shape, asked, size, words):
    statement = write(path, layer("InputLayer", "in", **{key: shape}), CONV).statement
    preprocess, notes = stated_input(asked, statement, USUAL, "x")
    assert (preprocess or USUAL).size == size
    assert words in str(notes)
    cropped = write(path, layer("InputLayer", "in", **{key: shape}), layer("CenterCrop", "crop"), CONV).statement
    assert cropped.input_size == ()  # what the crop returns


def test_layers_that_change_nothing(path):
    idle = [layer("RandomFlip", "flip"), layer("Dropout", "d")]
    content = write(path, *idle, CONV, layer("Lambda", "block35_1"), layer("Dropout", "e"), layer("Add", "add"))
    preprocess, notes = stated_input(None, content.statement, USUAL, "x")
    assert preprocess is None
    assert notes == ("its layer 'flip' ('RandomFlip') is ignored: it augments images in training",)
    assert stated_input(None, Statement(), USUAL, "x") == (None, ())


def test_files_without_a_config_name_their_layers(tmp_path, in_process):
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = ["rescaling_1", "stem"]
        file.create_group("rescaling_1").attrs["weight_names"] = np.array([], "S1")
        file.create_group("stem").attrs["weight_names"] = ["stem/kernel:0"]
        file["stem/stem/kernel:0"] = KERNEL
    statement = read_content(path).statement
    assert "'rescaling_1' ('?') comes before the network, and its numbers are not in this file" in (statement.obstacle)
    with h5py.File(path, "r+") as file:
        config = {"class_name": "Functional", "config": {"layers": [RESCALING, CONV]}}
        file.attrs["model_config"] = json.dumps(config)
    assert read_content(path).statement.layers == ("rescaling",)
    with h5py.File(tmp_path / "x.weights.h5", "w") as file:
        file.create_group("layers/rescaling/vars")
        file["layers/dense/vars/0"] = BIAS
        file["layers/dense/vars"].attrs["name"] = "d"
    assert "numbers are not in this file" in read_content(tmp_path / "x.weights.h5").statement.obstacle


# ---- Class names ---------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("short_network")
def test_class_names(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_bytes("\ufeffcat\r\ndog, hound\r\nÆsop\r\n".encode())
    names = read_class_names(path)
    assert names == ("cat", "dog, hound", "Æsop")
    assert with_class_names(tiny("short", 3), names).info.class_names == names
    with pytest.raises(UserError, match="3 class names are given, and the network has 10 classes"):
        with_class_names(tiny("short"), names)
    with pytest.raises(UserError, match="must be a sequence of names"):
        with_class_names(tiny("short"), "a")
    path.write_bytes(b"cat\n\ndog\n")
    with pytest.raises(UserError, match="must name a class in each line; line 2 is empty"):
        read_class_names(path)
    path.write_bytes(b"cat\xff\n")
    with pytest.raises(UserError, match="is no text in UTF-8: byte 3 is 0xff"):
        read_class_names(path)
    with pytest.raises(UserError, match="is no regular file"):
        read_class_names(tmp_path)
