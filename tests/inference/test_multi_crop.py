"""Views of an image: boxes by hand, and the pixels of the PIL presets."""

import numpy as np
import pytest
from PIL import Image

from inception_jax.data.transforms import RESAMPLING, eval_transform
from inception_jax.errors import UserError
from inception_jax.inference.multi_crop import crops
from inception_jax.models import inputs, zoo
from inception_jax.weights import CARDS
from tests.data.images import noise

BILINEAR = RESAMPLING["bilinear"]


def with_mirrors(views):
    return np.stack([side for view in map(np.asarray, views) for side in (view, view[:, ::-1])])


@pytest.mark.parametrize(
    ("size", "resized", "boxes"),
    [
        (
            (500, 375),
            (341, 256),
            [(0, 0, 224, 224), (117, 0, 341, 224), (0, 32, 224, 256), (117, 32, 341, 256), (58, 16, 282, 240)],
        ),
        (
            (300, 600),
            (256, 512),
            [(0, 0, 224, 224), (32, 0, 256, 224), (0, 288, 224, 512), (32, 288, 256, 512), (16, 144, 240, 368)],
        ),
    ],
)
def test_ten_crops(size, resized, boxes):
    image = Image.fromarray(noise(size[1], size[0]))
    big = image.resize(resized, BILINEAR)
    found = crops(image, 10, inputs.PAPER)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, with_mirrors(big.crop(box) for box in boxes))
    np.testing.assert_array_equal(found[8], eval_transform(inputs.PAPER)(image))  # the centre is what one crop reads


def test_ten_crops_of_whole_images_that_caffe_resizes_to_a_square():
    image = Image.fromarray(noise(300, 500))
    square = image.resize((256, 256), BILINEAR)
    boxes = [(0, 0, 224, 224), (32, 0, 256, 224), (0, 32, 224, 256), (32, 32, 256, 256), (16, 16, 240, 240)]
    np.testing.assert_array_equal(crops(image, 10, inputs.CAFFE), with_mirrors(square.crop(box) for box in boxes))


# By hand: at scale 256 a 512 x 384 image is 341 x 256 and its squares begin at 0, round(85 / 2) and 85; at 352 it is
# 469 x 352, and they begin at 0, round(117 / 2) and 117.
SCALES = {0: (256, 341, (0, 42, 85)), 3: (352, 469, (0, 58, 117))}


@pytest.mark.parametrize("portrait", [False, True])
@pytest.mark.parametrize("scale", SCALES)
def test_the_144_crops_of_the_paper(scale, portrait):
    short, long, starts = SCALES[scale]
    image = Image.fromarray(noise(512, 384) if portrait else noise(384, 512))
    big = image.resize((short, long) if portrait else (long, short), BILINEAR)
    edge, middle = short - 224, (short - 224) // 2  # 32 and 16; 128 and 64
    views = []
    for start in starts:
        x, y = (0, start) if portrait else (start, 0)
        for dx, dy in ((0, 0), (edge, 0), (0, edge), (edge, edge), (middle, middle)):
            views.append(big.crop((x + dx, y + dy, x + dx + 224, y + dy + 224)))
        views.append(big.crop((x, y, x + short, y + short)).resize((224, 224), BILINEAR))
    found = crops(image, 144, inputs.PAPER)
    assert found.shape == (144, 224, 224, 3)
    np.testing.assert_array_equal(found[36 * scale : 36 * scale + 36], with_mirrors(views))


def test_the_scales_are_in_proportion_to_the_input():
    """A grey step at 256 of 1024 columns is at a quarter of any square; for 299 pixels the scales are 342 ... 470."""
    preprocess = zoo.model_card("inception_v3").preprocess
    image = Image.fromarray(noise(470, 470))
    found = crops(image, 144, preprocess)
    assert found.shape == (144, 299, 299, 3)
    np.testing.assert_array_equal(found[108], np.asarray(image)[:299, :299])  # 352 x 299 / 224 = 469.9
    np.testing.assert_array_equal(found[114], np.asarray(image)[171:, 171:])


def test_another_number_of_crops():
    with pytest.raises(UserError, match="crops is 12; it must be 1, 10, 144"):
        crops(Image.fromarray(noise(32, 32)), 12, inputs.CIFAR)


PRESETS = dict.fromkeys(card.preprocess for card in (*zoo.MODELS.values(), *CARDS.values()))


@pytest.mark.parametrize("size", [(500, 375), (333, 500)])
def test_every_preset_cuts_what_pillow_gives(size):
    image = Image.fromarray(noise(20, 15)).resize(size, RESAMPLING["bicubic"])
    assert len(PRESETS) > 5
    for preset in PRESETS:
        w, h = size
        if preset.geometry == "short_side":
            short = round(preset.size / preset.crop_fraction)
            big = image.resize((w * short // min(size), h * short // min(size)), RESAMPLING[preset.interpolation])
            left, top = (round((side - preset.size) / 2) for side in big.size)
            expected = big.crop((left, top, left + preset.size, top + preset.size))
        else:
            left, top = (int(side * (1 - preset.crop_fraction) / 2) for side in size)
            box = (left, top, w - left, h - top)
            expected = image.crop(box).resize((preset.size,) * 2, RESAMPLING[preset.interpolation])
        off = np.abs(eval_transform(preset)(image).astype(int) - np.asarray(expected))
        assert off.max() <= 1, preset
