"""Weights of one lineage, for the tests of what is done with them."""

import pytest

from inception_jax.weights import readers
from inception_jax.weights.convert import convert
from inception_jax.weights.readers import child
from tests.weights import synthetic


@pytest.fixture(scope="module")
def tensors():
    return synthetic.tensors(synthetic.GOOGLENET)


@pytest.fixture(scope="module")
def weights(tensors):
    return convert(tensors, synthetic.GOOGLENET, source="googlenet.pth")


@pytest.fixture
def in_process(monkeypatch):
    """Reads files in this process, which saves the start of another: for files that are no danger to it."""
    monkeypatch.setattr(readers, "read_apart", child.read)
