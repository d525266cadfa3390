"""ONNX of a network, where its packages are installed; tests/parity/test_onnx.py runs the whole zoo."""

import numpy as np
import pytest

from inception_jax.inference.predictor import Predictor
from inception_jax.weights.files import from_json
from tests.inference.test_export_stablehlo import tiny_to_export

onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra onnx")


def test_onnx_gives_what_the_predictor_gives(tmp_path):
    from inception_jax.inference.export_onnx import export_onnx

    source, path = tiny_to_export(), tmp_path / "network.onnx"
    export_onnx(path, source)
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert from_json({prop.key: prop.value for prop in model.metadata_props}["info"]) == source.info
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    expected = Predictor(source, max_batch=8).logits(images)
    for count in (1, 3):  # the number of images is free
        logits, probabilities = session.run(["logits", "probabilities"], {"images": images[:count]})
        np.testing.assert_allclose(logits, expected[:count], rtol=0, atol=1e-4 * np.abs(expected).max())
        np.testing.assert_allclose(probabilities.sum(-1), 1, rtol=1e-5)
        assert np.array_equal(probabilities.argmax(-1), expected[:count].argmax(-1))
