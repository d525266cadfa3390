"""Files of a version before the modules moved: its checkpoints, exported programs and converted weights still load.

tests/fixtures/version_0_1.tar.xz holds what that version wrote of one small run, and its logits of two images.
"""

import pathlib
import tarfile

import numpy as np
import pytest

import inception_jax as ij
from inception_jax.inference.export_stablehlo import load_exported
from inception_jax.training.saved import read_variables

ARCHIVE = pathlib.Path(__file__).parent / "fixtures" / "version_0_1.tar.xz"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("version_0_1")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="module")
def expected(files):
    with np.load(files / "expected.npz") as arrays:
        return arrays["images"], arrays["logits"]


@pytest.mark.parametrize("source", ["run", "weights.safetensors"])
def test_a_run_and_weights(files, expected, source):
    images, logits = expected
    make = ij.Predictor.from_checkpoint if source == "run" else ij.Predictor.from_weights
    seen = make(files / source, max_batch=8).logits(images)
    np.testing.assert_allclose(seen, logits, rtol=0, atol=1e-6)
    assert np.ptp(logits) > 1e-3, "a network that says the same of all classes compares with anything"


def test_an_exported_program(files, expected):
    images, logits = expected
    seen = np.asarray(load_exported(files / "exported.stablehlo")(images)["logits"])
    np.testing.assert_allclose(seen, logits, rtol=0, atol=1e-6)


def test_a_config_that_lacks_fields_of_today(files):
    saved = read_variables(files / "run")
    assert (saved.step, saved.config.model.implementation) == (4, "auto")
