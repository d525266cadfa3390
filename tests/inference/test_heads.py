"""Heads and channels where a network is used: predictors, exported files, class activation maps."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from inception_jax import weights
from inception_jax.errors import UserError
from inception_jax.explain import cam, wsol
from inception_jax.inference.export_stablehlo import export_stablehlo, load_exported
from inception_jax.inference.images import loaded
from inception_jax.inference.predictor import Predictor
from inception_jax.models import inputs, spec
from tests.inference.few_rows import FewRows, info
from tests.parity import fixtures

ROWS = ("conv1", "pool3")
HIDDEN = spec.Head((spec.Conv(12, norm=False), spec.Conv(7)))
FACE = spec.Head((spec.Conv(9, relu=False),), embedding=True)


def source(head=spec.NO_HEAD, classes=3, channels=3):
    """Returns weights of a few rows that read 16 pixels."""
    made = info(16, [f"class {i}" for i in range(classes)], crop_fraction=0.8)
    made = FewRows(dataclasses.replace(made, head=head), {}, rows=ROWS)
    variables = fixtures.fill(fixtures.shapes(made.create_model(aux=False), 16), "float32")
    adapted = weights.channels.with_channels(FewRows(made.info, variables, rows=ROWS), channels)
    return FewRows(adapted.info, adapted.variables, rows=ROWS)


def _direct(given, images):
    """Returns what the network itself makes of pixels that are cut already."""
    return given.create_model(aux=False).apply(given.variables, inputs.normalise(images, given.info.preprocess))


def _close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("head", [HIDDEN, FACE], ids=["hidden", "embedding"])
def test_a_predictor_folds_the_head(head):
    given = source(head)
    predictor = Predictor(given, max_batch=4)
    assert not any("bn" in name for name in predictor.params["head"]["rows_0"])
    pixels = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    expected = _direct(given, pixels)
    names = ("logits", "pooled", *(("embedding",) if head.embedding else ()))
    found = predictor.compute(pixels, names)
    for name in names:
        _close(found[name], getattr(expected, name))
    picture = Image.fromarray(np.random.default_rng(1).integers(0, 256, (24, 30, 3), np.uint8))
    assert predictor.features(picture).shape == (1, predictor.model.num_features)
    assert np.array_equal(predictor.embed(picture), predictor.compute([predictor.prepare(picture)], names)[names[-1]])
    if head.embedding:
        np.testing.assert_allclose(np.linalg.norm(predictor.embed([picture]), axis=-1), 1, rtol=1e-5)
    else:
        with pytest.raises(UserError, match="no output 'embedding': there are logits, pooled, conv1"):
            predictor.compute(pixels, "embedding")


@pytest.mark.parametrize(("head", "classes"), [(HIDDEN, 3), (FACE, 3), (FACE, 0)], ids=["hidden", "both", "embedding"])
def test_exported(tmp_path, head, classes):
    given = source(head, classes, channels=4)
    export_stablehlo(tmp_path / "network.zip", given)
    network = load_exported(tmp_path / "network.zip")
    assert network.info == given.info
    pixels = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 4), np.uint8)
    found, expected = network(pixels), _direct(given, pixels)
    assert set(found) == ({"logits", "probabilities"} if classes else set()) | (
        {"embedding"} if head.embedding else set()
    )
    for name in set(found) - {"probabilities"}:
        _close(found[name], getattr(expected, name))
    with pytest.raises(UserError, match=r"was exported for pixels uint8\[N, 16, 16, 4\]"):
        network(pixels[..., :3])
    with pytest.raises(UserError, match="has no classifier to export, and no embedding"):
        export_stablehlo(tmp_path / "features.zip", source(classes=0))


@pytest.mark.parametrize(("head", "classes"), [(HIDDEN, 3), (FACE, 3), (FACE, 0)], ids=["hidden", "both", "embedding"])
def test_onnx(head, classes):
    onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    from inception_jax.inference.export_onnx import onnx_model

    given = source(head, classes, channels=4)
    model = onnx_model(given)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    pixels = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 4), np.uint8)
    found = dict(zip((each.name for each in session.get_outputs()), session.run(None, {"images": pixels}), strict=True))
    expected = _direct(given, pixels)
    assert set(found) >= ({"logits"} if classes else set()) | ({"embedding"} if head.embedding else set())
    for name in set(found) - {"probabilities"}:
        _close(found[name], getattr(expected, name))


@pytest.mark.parametrize("head", [HIDDEN, FACE], ids=["hidden", "embedding"])
def test_cam_is_refused_and_grad_cam_is_the_gradient(head):
    predictor = Predictor(source(head), max_batch=4)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 30, 3), np.uint8))
    for refused in (lambda: cam.cam(predictor, picture), lambda: wsol.Localiser(predictor)):
        with pytest.raises(
            UserError, match=r"^a test has .* before the classifier, so it has no .* \(--method gradcam,"
        ):
            refused()
    found = cam.grad_cam(predictor, picture, classes=[1])
    assert found.maps.shape == (1, 1, 8, 8)
    assert found.maps.std() > 0
    earlier = cam.grad_cam(predictor, picture, "conv1", classes=[1])
    _close(earlier.logits, predictor.logits(picture))
    _close(found.logits, earlier.logits)
    step = cam.occlusion(predictor, picture, classes=[1])
    assert step.maps.shape == (1, 1, 16, 16)


def test_a_grey_network_reads_any_image_as_grey(tmp_path):
    predictor = Predictor(source(channels=1), max_batch=4)
    colours = np.random.default_rng(0).integers(0, 256, (24, 30, 3), np.uint8)
    Image.fromarray(colours).save(tmp_path / "image.png")
    grey = np.asarray(Image.fromarray(colours).convert("L"))
    expected = predictor.logits(grey)
    assert predictor.prepare(grey).shape == (16, 16, 1)
    for given in (tmp_path / "image.png", colours, grey[..., None], [grey], grey[None, ..., None], colours[None]):
        assert np.array_equal(predictor.logits(given), expected)
    assert len(predictor(np.stack([grey[..., None]] * 3))) == 3
    found = next(predictor.outputs([tmp_path / "image.png"], "logits", crops=10))
    assert found["logits"].shape == (10, 3)
    with pytest.raises(UserError, match=r"no image \[H, W, 1\] and no batch \[B, H, W, 1\]"):
        predictor.logits(np.zeros((2, 24, 30), np.uint8))


def test_a_network_of_six_channels_reads_arrays(tmp_path):
    predictor = Predictor(source(channels=6), max_batch=4)
    pixels = np.random.default_rng(0).integers(0, 256, (24, 30, 6), np.uint8)
    halves = [np.asarray(Image.fromarray(pixels[..., part])) for part in (slice(3), slice(3, 6))]
    of_three = Predictor(source(), max_batch=4)
    prepared = np.concatenate([of_three.prepare(half) for half in halves], -1)
    assert np.array_equal(predictor.prepare(pixels), prepared)
    assert np.array_equal(predictor.logits([pixels, pixels / np.float32(255)])[0], predictor.logits(pixels)[0])
    Image.fromarray(halves[0]).save(tmp_path / "image.png")
    for file in (str(tmp_path / "image.png"), (tmp_path / "image.png").read_bytes(), Image.fromarray(halves[0])):
        with pytest.raises(
            UserError, match=r"reads images of 6 channels; image files are RGB or grey\. Give arrays uint8"
        ):
            predictor(file)
    for wrong, message in ((halves[0], r"no image \[H, W, 6\]"), (pixels.transpose(2, 0, 1), "channels first")):
        with pytest.raises(UserError, match=message):
            predictor.logits(wrong)


def test_planes_of_a_grey_image():
    pixels = np.arange(100, dtype=np.uint8).reshape(10, 10)
    with loaded(pixels[..., None], 1) as planes:
        assert len(planes) == 1
        assert planes[0].mode == "L"
        assert np.array_equal(planes[0], pixels)
