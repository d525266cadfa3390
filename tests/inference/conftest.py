"""A predictor of few rows, which compiles fast."""

import pytest

from inception_jax.inference.predictor import Predictor
from tests.inference.few_rows import FewRows, info
from tests.parity import fixtures

ROWS = ("conv1", "3a", "pool3", "4e", "5b")
NAMES = ("cat, house cat", "crane", "crane", *(f"class {i}" for i in range(3, 10)))


@pytest.fixture(scope="session")
def small():
    """Reads 16 pixels, cut from a short side of 20; synthetic weights, ten classes; maps of 8 x 8."""
    source = FewRows(info(16, NAMES, crop_fraction=0.8), {}, rows=ROWS)
    variables = fixtures.fill(fixtures.shapes(source.create_model(aux=False), 16), "float32")
    return Predictor(FewRows(source.info, variables, rows=ROWS), max_batch=8)
