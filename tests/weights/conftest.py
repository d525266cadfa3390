"""Weights of one lineage, for the tests of what is done with them."""

import pytest

from inception_jax.weights.convert import convert
from tests.weights import synthetic


@pytest.fixture(scope="module")
def tensors():
    return synthetic.tensors(synthetic.GOOGLENET)


@pytest.fixture(scope="module")
def weights(tensors):
    return convert(tensors, synthetic.GOOGLENET, source="googlenet.pth")
