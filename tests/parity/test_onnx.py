"""ONNX of the zoo, run by onnxruntime, against the predictor: same weights, same pixels, same numbers.

And class activation maps of the zoo, whose averages are the logits.
"""

import dataclasses

import numpy as np
import onnx
import onnxruntime
import pytest

from inception_jax import weights
from inception_jax.explain import cam
from inception_jax.inference.export_onnx import Graph, Value, onnx_model
from inception_jax.inference.predictor import Predictor
from inception_jax.models import layers, spec, zoo
from tests.weights.test_files import tiny

pytestmark = pytest.mark.parity


def _logits_of_maps(predictor, images):
    """Returns logits as the program of class activation maps has them; the averages of the maps must be those."""
    found = cam.cam(predictor, images, np.arange(predictor.info.num_classes))
    bias = np.asarray(predictor.params["classifier"]["linear"]["bias"])
    averages = found.maps.mean((2, 3)) + bias
    np.testing.assert_allclose(averages, found.logits, rtol=0, atol=1e-5 * np.abs(found.logits).max())
    return found.logits


def _check(record, source, count, logits_of=Predictor.logits):
    """Compares the logits of `count` images, and of one of them alone."""
    size = source.info.preprocess.size
    whole = dataclasses.replace(source.info.preprocess, geometry="central_box", crop_fraction=1.0)
    source = dataclasses.replace(source, info=dataclasses.replace(source.info, preprocess=whole))
    model = onnx_model(source)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    images = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)
    expected = logits_of(Predictor(source, max_batch=count), images)
    name, width = source.info.model, source.info.width
    check = record(name, "onnx", f"{count}x{size}x{size} f32")
    (logits,), (alone,) = (session.run(["logits"], {"images": batch}) for batch in (images, images[:1]))
    check(f"logits, width {width}", logits, expected, 1e-4)
    np.testing.assert_allclose(alone, logits[:1], rtol=0, atol=1e-5 * np.abs(logits).max())


def _strides_pad(name):
    """Whether a strided row pads, as the parity of its map decides; those of v3 and later are VALID."""
    return not name.startswith(("inception_v3", "inception_v4", "inception_resnet"))


# 97 and 98 pixels: both parities reach the strided rows, whose padding they decide.
@pytest.mark.parametrize(
    ("name", "size"), [(name, size) for name in zoo.MODELS for size in (97, 98) if size == 97 or _strides_pad(name)]
)
def test_narrow(record, name, size):
    _check(record, weights.adapt(tiny(name), aux=False, image_size=size), 3, _logits_of_maps)


@pytest.mark.parametrize("name", ["googlenet_torchvision", "inception_v3"])
def test_full_size(record, name):
    _check(record, tiny(name, 1000, width=1.0), 2)


@pytest.mark.parametrize(("size", "output"), [(7, 4), (13, 3), (8, 8)])
def test_adaptive_pools(size, output):
    """Of an output larger than one, which only auxiliary heads have in the zoo."""
    graph = Graph(spec.TORCH)
    maps = graph.row(spec.AdaptivePool(output), Value("maps", size, size), {}, "pool")
    values = [
        onnx.helper.make_tensor_value_info(name, 1, ["b", 5, n, n]) for name, n in (("maps", size), ("pool", output))
    ]
    made = onnx.helper.make_graph(graph.nodes, "pool", values[:1], values[1:], graph.constants)
    model = onnx.helper.make_model(made, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).standard_normal((2, 5, size, size), np.float32)
    (found,) = session.run(None, {"maps": x})
    expected = layers.adaptive_avg_pool(x.transpose(0, 2, 3, 1), output).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    assert maps == Value("pool", output, output)
