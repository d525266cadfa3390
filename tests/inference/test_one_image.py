"""One image in, one prediction out; a name is never its letters; and arrays that are neither one image nor many."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inception_jax import imagenet
from inception_jax.data.sources import open_source
from inception_jax.errors import UserError
from inception_jax.explain import cam, feature_visualization
from inception_jax.inference.files import find_images
from inception_jax.inference.images import as_images, as_names, load_rgb
from inception_jax.inference.predictor import Predictor

PICTURE = np.random.default_rng(0).integers(0, 256, (24, 30, 3), np.uint8)


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    """One image in every way that a user has it."""
    path = tmp_path_factory.mktemp("one") / "picture.png"
    Image.fromarray(PICTURE).save(path)
    return [str(path), path, path.read_bytes(), Image.fromarray(PICTURE), PICTURE, PICTURE / 255]


def test_an_image_alone_has_a_prediction_alone(small, kinds):
    (expected,) = small([PICTURE])
    assert [small(kind) for kind in kinds] == [expected] * len(kinds)
    assert small(PICTURE[None]) == [expected]  # a batch of one
    assert small(np.stack([PICTURE] * 3)) == [expected] * 3
    (streamed,) = small.stream(kinds[1])
    assert [each.index for each in streamed.classes] == [each.index for each in expected.classes]


def test_arrays_of_an_image_alone_have_one_row(small):
    np.testing.assert_array_equal(small.embed(PICTURE), small.embed([PICTURE]))
    np.testing.assert_array_equal(small.logits(PICTURE), small.logits([PICTURE]))
    found = small.endpoints(PICTURE, "4e")
    assert {name: value.shape for name, value in found.items()} == {"4e": (1, 8, 8, 64)}
    assert cam.cam(small, PICTURE, "house cat").classes.tolist() == [[0]]
    assert feature_visualization.activations(small, PICTURE, "4e", 3)[0] == [3]
    ready = small.prepare(PICTURE)
    np.testing.assert_array_equal(small.compute(ready, "logits")["logits"], small.compute([ready])["logits"])


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((3, 24, 30), r"uint8[3, 24, 30] has its channels first: transpose(1, 2, 0)"),
        ((30, 3), "uint8[30, 3] is a row of pixels, no image"),
        ((1, 30), "uint8[1, 30] is a row of pixels, no image"),
        ((8, 24, 30), "An array [8, 24, 30] is no image [H, W, 3] and no batch [B, H, W, 3]"),
        ((2, 3, 24, 30), "uint8[3, 24, 30] has its channels first"),
        ((2, 24, 30, 1), "An image is an array [H, W, 3] or [H, W], not uint8[24, 30, 1]."),
        ((2, 2, 24, 30, 3), "An image is an array [H, W, 3] or [H, W], not uint8[2, 2, 24, 30, 3]."),
        ((7,), "An image is an array [H, W, 3] or [H, W], not uint8[7]."),
    ],
)
def test_arrays_of_other_axes_are_refused(small, shape, message):
    with pytest.raises(UserError, match=re.escape(message)):
        small(np.zeros(shape, np.uint8))


def test_rows_of_an_image_are_no_images(small):
    with pytest.raises(UserError, match=r"uint8\[30, 3\] is a row of pixels"):
        small(list(PICTURE))
    with pytest.raises(UserError, match="is a row of pixels"):
        small(PICTURE.tolist())


@pytest.mark.parametrize("given", [None, 7, {"a": PICTURE}])
def test_what_is_no_image(small, given):
    with pytest.raises(UserError, match=f"or a list of these, not a {type(given).__name__}"):
        small(given)


def test_paths_in_an_array_are_many_images():
    given, alone = as_images(np.array(["a.png", "b.png"]))
    assert (list(given), alone) == (["a.png", "b.png"], False)


def test_ragged_lists_are_refused():
    with pytest.raises(UserError, match="A list is no image: "):
        load_rgb([[1], [1, 2]])


def test_names():
    assert as_names("4e") == ("4e",)
    assert as_names(["3a", "4e"]) == ("3a", "4e")
    for given in (3, [3], b"4e"):
        with pytest.raises(UserError, match="Names are a string or a list of strings, not "):
            as_names(given)


def test_a_name_is_not_its_letters(small, tmp_path):
    assert find_images("a.png") == [Path("a.png")]
    assert imagenet.readable("n01440764") == ("tench",)
    for name in "ab":
        (tmp_path / "val" / name).mkdir(parents=True)
        Image.fromarray(PICTURE).save(tmp_path / "val" / name / "1.png")
    with pytest.raises(UserError, match="the 1 known classes are ab"):
        open_source(f"folder:{tmp_path}", "val", class_names="ab")
    with pytest.raises(UserError, match=r"has no endpoint \['4f'\]"):
        small.endpoints(PICTURE, "4f")
    with pytest.raises(UserError, match="There is no output 'logit': there are logits, pooled, conv1"):
        small.warmup("logit")
    with pytest.raises(UserError, match="1 class names were given; googlenet_cifar has 10"):
        Predictor(small.weights, class_names="abcdefghij")


def test_pixels_that_are_not_ready(small):
    with pytest.raises(
        UserError, match=r"Pixels are uint8\[16, 16, 3\], as `prepare` makes them, not uint8\[24, 30, 3\]"
    ):
        small.compute(PICTURE)


def test_its_repr_is_a_line(small):
    expected = "Predictor(googlenet_cifar, 10 classes, 16 x 16 pixels, float32, 8 cpu devices, batches 8)"
    assert repr(small) == expected


def test_the_best_five_or_all(small):
    logits = np.arange(3.0)
    assert [each.index for each in small.top(logits).classes] == [2, 1, 0]
    assert len(small(PICTURE).classes) == 5
