"""Keras models that make their input themselves: our outputs are theirs, on raw pixels."""

import os

import jax
import numpy as np
import pytest

from inception_jax import weights
from inception_jax.errors import UserError
from inception_jax.inference.predictor import Predictor

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")]


@pytest.fixture(scope="module")
def base():
    os.environ.setdefault("KERAS_BACKEND", "jax")
    import keras

    keras.utils.set_random_seed(0)
    model = keras.applications.InceptionV3(weights=None, include_top=False, pooling="avg", input_shape=(139, 139, 3))
    rng = np.random.default_rng(0)
    for weight in model.weights:
        if "moving_variance" in weight.path:
            weight.assign(rng.uniform(0.02, 0.06, weight.shape))
        if "moving_mean" in weight.path:
            weight.assign(rng.uniform(-0.1, 0.1, weight.shape))
    return model


def scaled(base, how):
    """Returns a classifier that reads raw pixels."""
    import keras

    inputs = keras.Input((139, 139, 3))
    if how == "normalization":
        x = keras.layers.Normalization(mean=[123.0, 117.0, 104.0], variance=[3000.0, 3100.0, 3200.0])(inputs)
    elif how == "operations":
        x = inputs / 127.5 - 1.0
    elif how == "crop":
        x = keras.layers.CenterCrop(139, 139)(keras.layers.Rescaling(1 / 255)(inputs))
    else:
        x = keras.layers.Rescaling(1 / 255)(inputs)
    x = keras.layers.Dense(10, name="predictions")(base(x, training=False))
    return keras.Model(inputs, x)


@pytest.mark.parametrize("how", ["rescaling", "normalization", "operations"])
def test_layers_that_scale_pixels(tmp_path, base, how, record):
    with jax.numpy_rank_promotion("allow"):
        model = scaled(base, how)
    images = np.random.default_rng(1).integers(0, 256, (1, 139, 139, 3), dtype=np.uint8)
    with jax.numpy_rank_promotion("allow"):  # Keras adds its biases that way
        theirs = np.asarray(model(images.astype(np.float32)))
    path = tmp_path / "x.keras"
    model.save(path)
    for source in (path, model):
        loaded = weights.load(source, "inception_v3_tf", unverified=True)
        assert "become preprocessing" in str(loaded.report)
        loaded = weights.adapt(loaded, image_size=139)
        ours = Predictor(loaded, max_batch=1).compute(list(images))["logits"]
        record("inception_v3_tf", "eval", how)("logits", np.asarray(ours), theirs, 1e-5)


def test_layers_that_are_not_taken_over(tmp_path, base):
    path = tmp_path / "x.keras"
    with jax.numpy_rank_promotion("allow"):
        scaled(base, "crop").save(path)
    with pytest.raises(UserError, match=r"'CenterCrop'.*--preprocess"):
        weights.load(path, "inception_v3_tf", unverified=True)
    stated = weights.load(path, "inception_v3_tf", unverified=True, preprocess="mean=0;std=1")
    assert stated.info.preprocess.std == (255.0,) * 3
