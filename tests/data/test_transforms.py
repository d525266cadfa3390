"""The geometry and the colours of training and evaluation images."""

import numpy as np
import pytest
from PIL import Image

from inception_jax.data.transforms import (
    PCA_VALUES,
    PCA_VECTORS,
    RESAMPLING,
    BrokenImage,
    CropFlip,
    Evaluate,
    EvaluateBox,
    InceptionCrop,
    distort_colours,
    random_flip,
    sample_box,
)
from inception_jax.errors import UserError
from tests.data.images import noise


def test_boxes_have_the_area_and_the_aspect_asked_for():
    rng = np.random.default_rng(0)
    boxes = np.array([sample_box(400, 300, rng, (0.08, 1.0), (3 / 4, 4 / 3)) for _ in range(4000)])
    left, top, right, bottom = boxes.T
    assert left.min() >= 0
    assert top.min() >= 0
    assert right.max() <= 400
    assert bottom.max() <= 300
    width, height = right - left, bottom - top
    area, aspect = width * height / (400 * 300), width / height
    assert 0.079 < area.min() < 0.09
    assert 0.97 < area.max() <= 1
    assert 0.74 < aspect.min() < 0.76
    assert 1.31 < aspect.max() < 1.35
    # Small boxes always fit, and there both distributions show undisturbed: uniform area, uniform log aspect.
    small = area < 0.5
    np.testing.assert_allclose(np.quantile(area[small], [0.25, 0.5, 0.75]), [0.185, 0.29, 0.395], atol=0.015)
    np.testing.assert_allclose(np.mean(np.log(aspect[small])), 0, atol=0.015)
    np.testing.assert_allclose(np.std(np.log(aspect[small])), 2 * np.log(4 / 3) / np.sqrt(12), atol=0.01)
    np.testing.assert_allclose(np.mean(left[small] / (400 - width[small])), 0.5, atol=0.03)


@pytest.mark.parametrize(
    ("size", "box"),
    [
        ((1000, 10), (493, 0, 506, 10)),  # 13 x 10 in the middle: 10 x 4/3 wide
        ((10, 1000), (0, 493, 10, 506)),  # 10 / (3/4) high
        ((1, 1000), (0, 499, 1, 500)),
    ],
)
def test_a_long_image_falls_back_to_the_largest_box_in_its_middle(size, box):
    assert sample_box(*size, np.random.default_rng(0), (0.9, 1.0), (3 / 4, 4 / 3)) == box


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (3, 5)])
def test_tiny_images_give_a_box_inside(size):
    rng = np.random.default_rng(0)
    for _ in range(200):
        left, top, right, bottom = sample_box(*size, rng, (0.08, 1.0), (3 / 4, 4 / 3))
        assert 0 <= left < right <= size[0]
        assert 0 <= top < bottom <= size[1]


@pytest.mark.parametrize(
    ("size", "resized", "box"),
    [
        ((500, 375), (341, 256), (58, 16, 282, 240)),  # int(256 x 500 / 375) = 341; round(117 / 2) = 58
        ((375, 500), (256, 341), (16, 58, 240, 282)),
        ((100, 50), (512, 256), (144, 16, 368, 240)),  # smaller than the crop
        ((256, 300), (256, 300), (16, 38, 240, 262)),
        ((333, 500), (256, 384), (16, 80, 240, 304)),
    ],
)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_evaluation_cuts_the_boxes_of_torchvision(size, resized, box, interpolation):
    image = Image.fromarray(noise(size[1], size[0]))
    expected = np.asarray(image.resize(resized, RESAMPLING[interpolation]).crop(box))
    np.testing.assert_array_equal(Evaluate(224, 256, interpolation)(image), expected)


def test_evaluation_refuses_a_resize_below_the_crop_and_unknown_filters():
    with pytest.raises(UserError, match="resize is 200; it must be at least the crop of 224"):
        Evaluate(224, 200)
    with pytest.raises(BrokenImage, match="60000 x 1 pixels are too narrow to resize to 15360000 x 256"):
        Evaluate(224, 256)(Image.new("RGB", (60_000, 1)))
    with pytest.raises(UserError, match="interpolation is 'lanczos'; allowed: bilinear, area, nearest, bicubic"):
        Evaluate(224, 256, "lanczos")


@pytest.mark.parametrize(
    ("size", "fraction", "box"),
    [
        ((500, 375), 0.875, (31, 23, 469, 352)),  # (500 - 437.5) / 2 = 31.25; (375 - 328.125) / 2 = 23.4
        ((375, 500), 0.875, (23, 31, 352, 469)),
        ((16, 64), 0.875, (1, 4, 15, 60)),
        ((7, 9), 0.875, (0, 0, 7, 9)),  # less than a pixel
        ((40, 20), 0.5, (10, 5, 30, 15)),
        ((40, 20), 1.0, (0, 0, 40, 20)),
    ],
)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_a_central_box_is_resized_whatever_its_shape(size, fraction, box, interpolation):
    image = Image.fromarray(noise(size[1], size[0]))
    expected = np.asarray(image.crop(box).resize((24, 24), RESAMPLING[interpolation]))
    np.testing.assert_array_equal(EvaluateBox(24, fraction, interpolation)(image), expected)


def test_a_central_box_of_its_own_size_is_the_pixels_themselves():
    image = noise(32, 32)
    np.testing.assert_array_equal(EvaluateBox(28)(Image.fromarray(image)), image[2:30, 2:30])


@pytest.mark.parametrize("fraction", [0.0, -0.5, 1.1, float("nan")])
def test_a_central_box_refuses_what_is_no_part_of_an_image(fraction):
    with pytest.raises(UserError, match=f"fraction is {fraction}; it must be above 0 and at most 1"):
        EvaluateBox(28, fraction)
    with pytest.raises(UserError, match="interpolation is 'lanczos'; allowed: bilinear"):
        EvaluateBox(28, interpolation="lanczos")


class Fixed:
    """A generator without surprises: no change of order, factors from a list, noise as given."""

    def __init__(self, factors=(1.0, 1.0, 1.0), order=(0, 1, 2), noise=(0.0, 0.0, 0.0)):
        self.factors, self.order, self.noise = list(factors), order, np.array(noise)

    def permutation(self, count):
        return np.array(self.order)

    def uniform(self, low, high):
        assert (low, high) == (0.5, 1.5)
        return self.factors.pop(0)

    def normal(self, mean, deviation, size):
        assert (mean, deviation, size) == (0.0, 0.1, 3)
        return self.noise


def luma(image: np.ndarray) -> np.ndarray:
    """Returns the greyscale of ITU-R 601."""
    return image @ np.array([0.299, 0.587, 0.114])


def blend(degenerate, image: np.ndarray, factor: float) -> np.ndarray:
    return np.clip((1 - factor) * degenerate + factor * image, 0, 255)


@pytest.mark.parametrize("factor", [0.5, 1.0, 1.4])
@pytest.mark.parametrize("position", [0, 1, 2])
def test_each_distortion_blends_with_black_mean_grey_or_greyscale(position, factor):
    image = noise(12, 12).astype(float)
    factors = [factor if i == position else 1.0 for i in range(3)]
    degenerate = [0.0, luma(image).mean(), luma(image)[..., None]][position]
    actual = np.asarray(distort_colours(Image.fromarray(image.astype(np.uint8)), Fixed(factors)))
    np.testing.assert_allclose(actual, blend(degenerate, image, factor), atol=1.5 if factor != 1 else 0)


def test_distortions_follow_the_order_drawn():
    image = noise(12, 12)
    brighter_first = blend(luma(blend(0, image, 1.5)).mean(), blend(0, image, 1.5), 0.5)
    contrast_first = blend(0, blend(luma(image).mean(), image, 0.5), 1.5)
    first = distort_colours(Image.fromarray(image), Fixed([1.5, 0.5, 1.0], (0, 1, 2)))
    second = distort_colours(Image.fromarray(image), Fixed([0.5, 1.5, 1.0], (1, 0, 2)))
    np.testing.assert_allclose(np.asarray(first), brighter_first, atol=2)
    np.testing.assert_allclose(np.asarray(second), contrast_first, atol=2)


def test_lighting_shifts_along_the_principal_components():
    np.testing.assert_allclose(PCA_VECTORS.T @ PCA_VECTORS, np.eye(3), atol=1e-3)
    image = np.full((2, 2, 3), 128, np.uint8)
    for component in range(3):
        draw = np.zeros(3)
        draw[component] = 0.3
        actual = np.asarray(distort_colours(Image.fromarray(image), Fixed(noise=draw)))
        np.testing.assert_array_equal(
            actual[0, 0], 128 + np.round(255 * 0.3 * PCA_VALUES[component] * PCA_VECTORS[:, component])
        )


def test_lighting_stops_at_black_and_white():
    bright = distort_colours(Image.new("RGB", (1, 1), (250, 250, 250)), Fixed(noise=(-0.5, 0, 0)))
    dark = distort_colours(Image.new("RGB", (1, 1), (5, 5, 5)), Fixed(noise=(0.5, 0, 0)))
    assert np.asarray(bright).tolist() == [[[255, 255, 255]]]
    assert np.asarray(dark).tolist() == [[[0, 0, 0]]]


def test_every_filter_is_used_equally_often():
    image = Image.fromarray(noise(9, 9))
    crop = InceptionCrop(5, area=(1.0, 1.0), aspect=(1.0, 1.0), flip=False, photometric=False)
    results = {np.asarray(image.resize((5, 5), RESAMPLING[name])).tobytes(): name for name in crop.interpolations}
    assert len(results) == 4
    rng = np.random.default_rng(0)
    drawn = [results[crop(image, rng).tobytes()] for _ in range(2000)]
    for name in ("bilinear", "area", "nearest", "bicubic"):
        assert drawn.count(name) == pytest.approx(500, abs=80)


def test_flipping_mirrors_half_of_the_images():
    image = noise(4, 6)
    rng = np.random.default_rng(0)
    flips = [random_flip(image, rng) for _ in range(1000)]
    mirrored = sum(np.array_equal(each, image[:, ::-1]) for each in flips)
    assert mirrored + sum(np.array_equal(each, image) for each in flips) == 1000
    assert mirrored == pytest.approx(500, abs=60)


def test_crop_flip_cuts_every_offset_of_the_padded_image():
    image = noise(6, 6)
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)))
    windows = {padded[top : top + 6, left : left + 6].tobytes() for top in range(5) for left in range(5)}
    rng = np.random.default_rng(0)
    crop = CropFlip(6, pad=2, flip=False)
    assert {crop(Image.fromarray(image), rng).tobytes() for _ in range(500)} == windows


def test_crop_flip_resizes_and_without_padding_and_flip_changes_no_more():
    image = Image.fromarray(noise(7, 9))
    plain = CropFlip(5, pad=0, flip=False)(image, np.random.default_rng(0))
    np.testing.assert_array_equal(plain, np.asarray(image.resize((5, 5), Image.Resampling.BILINEAR)))


TRANSFORMS = [
    InceptionCrop(16),
    InceptionCrop(16, flip=False, photometric=False),
    CropFlip(16),
    Evaluate(16, 18),
    EvaluateBox(16),
]


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("size", [(40, 30), (30, 40), (16, 16), (3, 200), (1, 1)])
def test_transforms_give_uint8_squares_that_depend_on_the_generator_alone(transform, size):
    image = Image.fromarray(noise(size[1], size[0]))
    first, second = (transform(image, np.random.default_rng(5)) for _ in range(2))
    assert (first.shape, first.dtype) == ((16, 16, 3), np.uint8)
    np.testing.assert_array_equal(first, second)
    if not isinstance(transform, Evaluate | EvaluateBox) and min(size) > 1:
        assert any((transform(image, np.random.default_rng(seed)) != first).any() for seed in range(6, 12))
