"""The predictor: every kind of input, one answer; buckets; what it refuses."""

import dataclasses
import io
import unittest.mock

import jax
import numpy as np
import pytest
from PIL import Image

from inception_jax.data.sources import ImageSource
from inception_jax.data.transforms import BrokenImage
from inception_jax.errors import UserError
from inception_jax.inference import predictor as predictors
from inception_jax.inference.evaluation import evaluate
from inception_jax.inference.images import load_rgb
from inception_jax.inference.prediction import mean_log_probabilities
from inception_jax.inference.predictor import Predictor
from inception_jax.training.compilation import CompilationLog
from tests.inference.conftest import NAMES


def _pictures(count, size=(30, 24)):
    rng = np.random.default_rng(count)
    return [rng.integers(0, 256, (size[1], size[0], 3), np.uint8) for _ in range(count)]


def test_every_kind_of_input_gives_the_same(predictor, tmp_path):
    (picture,) = _pictures(1)
    path = tmp_path / "picture.png"
    Image.fromarray(picture).save(path)
    given = [path, str(path), path.read_bytes(), Image.fromarray(picture), picture, picture / 255]
    logits = predictor.logits(given)
    assert logits.shape == (6, 10)
    assert all(np.array_equal(row, logits[0]) for row in logits)


def test_logits_are_those_of_the_model(predictor, source):
    pictures = _pictures(3)
    pixels = np.stack([predictor.prepare(picture) for picture in pictures])
    assert pixels.shape == (3, 16, 16, 3)
    preprocess = source.info.preprocess
    images = ((pixels - np.array(preprocess.mean)) / np.array(preprocess.std)).astype(np.float32)
    with jax.disable_jit():
        output = source.create_model().apply(source.variables, images)
    scale = np.abs(output.logits).max()
    np.testing.assert_allclose(predictor.logits(pictures), output.logits, rtol=0, atol=1e-5 * scale)


def test_its_network_is_that_for_its_devices(source, monkeypatch):
    rewrite = unittest.mock.Mock(side_effect=predictors.for_inference)
    monkeypatch.setattr(predictors, "for_inference", rewrite)
    Predictor(source)
    assert rewrite.call_args.args[2] == "cpu"


def test_a_program_holds_no_form_of_another_platform(predictor):
    assert "platform_index" not in str(predictor.trace(8).jaxpr)


def test_predictions(predictor):
    pictures = _pictures(2)
    logits = predictor.logits(pictures).astype(np.float64)
    for row, prediction in zip(logits, predictor(pictures, k=3), strict=True):
        probabilities = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
        assert [c.index for c in prediction.classes] == np.argsort(-row)[:3].tolist()
        for each in prediction.classes:
            assert each.label == NAMES[each.index]
            assert each.probability == pytest.approx(probabilities[each.index], rel=1e-5)


def test_padding_changes_nothing_and_programs_are_few(source):
    predictor = Predictor(source, max_batch=32)
    assert predictor.buckets == [8, 16, 32]  # on eight devices
    predictor.warmup()
    assert predictor.compilations == 3
    pictures = _pictures(33)
    with CompilationLog() as log:
        whole = predictor.logits(pictures)
        for count in (1, 2, 3, 8, 9, 16, 17, 32):
            np.testing.assert_allclose(
                predictor.logits(pictures[:count]), whole[:count], rtol=0, atol=1e-6 * np.abs(whole).max()
            )
    assert predictor.compilations == 3
    assert log.compilations == []


def test_parameters_are_arguments(predictor):
    text = predictor.programs.compiled(8, ("logits",)).as_text()
    largest = max(len(line) for line in text.splitlines() if "constant" in line)
    assert largest < 10_000
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(predictor.params)) > 100_000


def test_embeddings_and_endpoints(predictor):
    pictures = _pictures(3)
    maps = predictor.endpoints(pictures, ["3a", "5b"])
    assert maps.keys() == {"3a", "5b"}
    pooled = predictor.embed(pictures)
    np.testing.assert_allclose(pooled, maps["5b"].mean((1, 2)), rtol=1e-4)
    with pytest.raises(UserError, match=r"googlenet_cifar has no endpoint \['5c'\]; it has conv1, "):
        predictor.endpoints(pictures, ["5c"])


def test_a_broken_image_among_others(predictor, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    pictures = _pictures(20)
    mixed = [*pictures[:9], broken, *pictures[9:], tmp_path / "missing.jpg"]
    results = list(predictor.stream(mixed, k=1))
    assert [i for i, result in enumerate(results) if isinstance(result, BrokenImage)] == [9, 21]
    assert str(results[9]) == f"{broken}: not an image (8 bytes)"
    assert str(results[21]) == f"{tmp_path / 'missing.jpg'}: No such file or directory"
    assert [r.classes[0].index for r in results if not isinstance(r, BrokenImage)] == [
        p.classes[0].index for p in predictor(pictures, k=1)
    ]
    with pytest.raises(BrokenImage, match="not an image"):
        predictor(mixed)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((8, 8, 3)) - 1.5, r"values of a float image are in 0 ... 1; these are in -1.5 ... -1.5"),
        (np.full((8, 8, 3), 200.0), r"in 0 ... 1; these are in 200 ... 200"),
        (np.full((8, 8, 3), np.nan), r"these are in nan ... nan"),
        (np.zeros((8, 8, 4), np.uint8), r"an array \[H, W, 3\] or \[H, W\], not uint8\[8, 8, 4\]"),
        (np.zeros((0, 8, 3), np.uint8), r"not uint8\[0, 8, 3\]"),
        (np.zeros((8, 8, 3), np.int64), "an array of uint8, or of floats in 0 ... 1, not of int64"),
    ],
)
def test_arrays_that_are_no_images(predictor, image, message):
    with pytest.raises(UserError, match=message):
        predictor([image])


def test_grey_images_become_rgb():
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    assert np.array_equal(np.asarray(load_rgb(grey)), np.stack([grey] * 3, -1))
    buffer = io.BytesIO()
    Image.fromarray(grey).save(buffer, "PNG")
    assert load_rgb(buffer.getvalue()).mode == "RGB"


def test_what_is_refused(predictor, source):
    with pytest.raises(UserError, match=r"k is 11; it must be 1 ... 10"):
        predictor(_pictures(1), k=11)
    with pytest.raises(UserError, match="There are no images"):
        predictor.logits([])
    with pytest.raises(UserError, match="max_batch is 0; it must be at least 1"):
        Predictor(source, max_batch=0)
    with pytest.raises(UserError, match="2 class names were given; googlenet_cifar has 10"):
        Predictor(source, class_names=["a", "b"])


def test_photographs_are_turned_unless_asked_otherwise(predictor, tmp_path):
    """A photograph of a phone: its pixels lie on their side, and EXIF data say so."""
    stored = np.random.default_rng(5).integers(0, 256, (24, 40, 3), np.uint8)
    tags = Image.Exif()
    tags[0x0112] = 6
    path = tmp_path / "photo.png"
    Image.fromarray(stored).save(path, exif=tags)
    seen = np.rot90(stored, -1)
    np.testing.assert_array_equal(predictor.prepare(path), predictor.prepare(seen))
    as_seen, as_stored = (next(predictor.outputs([each], ("logits",)))["logits"] for each in (seen, stored))
    assert not np.array_equal(as_seen, as_stored)
    for exif, expected in ((None, as_seen), (True, as_seen), (False, as_stored)):
        np.testing.assert_array_equal(next(predictor.outputs([path], ("logits",), exif=exif))["logits"], expected)
    source = ImageSource("photos", [{"image": path.read_bytes(), "label": 1}], predictor.class_names)
    for exif, expected in ((False, as_stored), (True, as_seen)):
        losses = evaluate([predictor], dataclasses.replace(source, exif=exif)).losses
        np.testing.assert_allclose(losses, -mean_log_probabilities(expected)[1], rtol=1e-6)
