"""A small network that the tests of inference share, so that its programs are compiled once."""

import dataclasses

import pytest

from inception_jax import weights
from inception_jax.inference.predictor import Predictor
from inception_jax.models import inputs
from tests.inference.few_rows import FewRows, info
from tests.parity import fixtures
from tests.weights.test_files import tiny

NAMES = tuple(f"class {i}" for i in range(10))


@pytest.fixture(scope="session")
def source():
    """Weights that read 16 pixels, cut from a short side of 20."""
    made = weights.adapt(tiny(), image_size=16, aux=False)
    preprocess = dataclasses.replace(inputs.CIFAR, size=16, crop_fraction=0.8)
    return dataclasses.replace(made, info=dataclasses.replace(made.info, preprocess=preprocess, class_names=NAMES))


@pytest.fixture(scope="session")
def predictor(source):
    return Predictor(source, max_batch=16)


ROWS = ("conv1", "3a", "pool3", "4e", "5b")
CLASSES = ("cat, house cat", "crane", "crane", *(f"class {i}" for i in range(3, 10)))


@pytest.fixture(scope="session")
def small():
    """Reads 16 pixels, cut from a short side of 20; synthetic weights, ten classes; maps of 8 x 8."""
    source = FewRows(info(16, CLASSES, crop_fraction=0.8), {}, rows=ROWS)
    variables = fixtures.fill(fixtures.shapes(source.create_model(aux=False), 16), "float32")
    return Predictor(FewRows(source.info, variables, rows=ROWS), max_batch=8)
