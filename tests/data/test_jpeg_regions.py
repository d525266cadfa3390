"""Regions of JPEGs decoded alone: the same pixels as decoding the whole, and the same broken files are refused."""

import importlib.util
import io

import numpy as np
import pytest
from PIL import Image

from inception_jax.data import jpeg_regions, loader, pixels
from inception_jax.data.sources import open_source
from inception_jax.data.transforms import RESAMPLING, BrokenImage, InceptionCrop, crop_resize, decode, sample_box
from tests.data.images import encode, noise, noise_source

needs_parts = pytest.mark.usefixtures("jpeg_built")


def smooth(height: int, width: int) -> Image.Image:
    """Returns colours that vary, of which no shift, flip or exchange goes unnoticed."""
    return Image.fromarray(noise(-(-height // 9), -(-width // 7))).resize((width, height), Image.Resampling.BICUBIC)


def assert_parts_agree(encoded: bytes, boxes, sizes=(5, 24, 61)):
    image, opened = decode(encoded), jpeg_regions.open_for_crop(encoded)
    assert isinstance(opened, jpeg_regions.EncodedJpeg)
    assert opened.size == image.size
    for i, box in enumerate(boxes):
        assert jpeg_regions._jpeg.crop_resize(encoded, box, 8, 2, False) is not None, "left to Pillow"
        for interpolation in RESAMPLING:
            size = sizes[i % len(sizes)]
            expected = crop_resize(image, box, size, interpolation)
            np.testing.assert_array_equal(opened.crop_resize(box, size, interpolation), expected, f"{box} {size}")
            mirrored = opened.crop_resize(box, size, interpolation, mirror=True)
            np.testing.assert_array_equal(mirrored, expected[:, ::-1], f"{box} {size}")


def random_boxes(width: int, height: int, count: int = 12):
    rng = np.random.default_rng(0)
    boxes = [sample_box(width, height, rng, (0.02, 1.0), (1 / 3, 3)) for _ in range(count)]
    corners = [
        (0, 0, 1, 1),
        (width - 1, height - 1, width, height),
        (0, 0, width, height),
        (0, height // 2, width, height),
    ]
    return boxes + corners


JPEGS = {
    "4:4:4": {"subsampling": 0},
    "4:2:2": {"subsampling": 1},
    "4:2:0": {"subsampling": 2},
    "progressive": {"progressive": True},
    "RGB": {"keep_rgb": True},
    "restart markers": {"restart_marker_blocks": 3},
    "restart markers at 4:2:0": {"restart_marker_blocks": 1, "subsampling": 2},
    "coarse": {"quality": 5},
    "fine": {"quality": 100, "subsampling": 0},
    "optimised": {"optimize": True},
    "fine and optimised": {"quality": 98, "subsampling": 0, "optimize": True},
    "a restart marker a row": {"restart_marker_rows": 1, "subsampling": 2},
}


@needs_parts
@pytest.mark.parametrize("options", JPEGS.values(), ids=JPEGS)
@pytest.mark.parametrize("size", [(97, 131), (64, 48), (17, 200), (5, 3), (1, 1)])
def test_a_region_has_the_pixels_of_the_whole_image(options, size):
    width, height = size
    assert_parts_agree(encode(smooth(height, width), "JPEG", **options), random_boxes(width, height))


@needs_parts
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("options", [{"quality": 100}, {"quality": 100, "optimize": True}, {"quality": 50}], ids=str)
def test_noise_has_the_longest_codes(options, subsampling):
    for image in (noise(70, 90), noise(70, 90)[..., 0]):
        encoded = encode(image, "JPEG", subsampling=subsampling, **options)
        assert b"\xff\x00" in encoded, "nothing is stuffed"
        assert_parts_agree(encoded, random_boxes(90, 70, 6), sizes=(24,))


@needs_parts
@pytest.mark.parametrize("quality", [30, 100])
def test_patterns_pass_over_many_places_and_end_at_the_last(quality):
    y, x = np.mgrid[:64, :80]
    patterns = [(x + y) % 2 * 255, x * y * 37 % 251, np.where((x % 8 == 3) & (y % 8 == 5), 255, 0), x // 8 % 2 * 255]
    patterns += [x // 8 % 2 * 200 + noise(64, 80)[..., 0] // 5]  # the largest steps between blocks, and full ones
    for pattern in patterns:
        encoded = encode(pattern.astype(np.uint8), "JPEG", quality=quality)
        assert_parts_agree(encoded, random_boxes(80, 64, 6), sizes=(24,))


@needs_parts
def test_restart_markers_out_of_order_are_damage():
    encoded = encode(smooth(64, 64), "JPEG", restart_marker_blocks=2)
    damaged = encoded.replace(b"\xff\xd1", b"\xff\xd2", 1)
    assert jpeg_regions._jpeg.crop_resize(encoded, (0, 0, 64, 64), 8, 2, False) is not None
    assert jpeg_regions._jpeg.crop_resize(damaged, (0, 0, 64, 64), 8, 2, False) is None


@needs_parts
@pytest.mark.parametrize("between", [b"\xff", b"\xff\xff", b"\x55", b"\x55" * 20, b"\xff\xd1", b"\xff\xff\x00"])
def test_what_stands_before_a_restart_marker_is_passed_over_as_by_pillow(between):
    encoded, box = encode(smooth(64, 64), "JPEG", restart_marker_blocks=2), (0, 0, 64, 64)
    damaged = encoded.replace(b"\xff\xd1", between + b"\xff\xd1", 1)
    expected = crop_resize(decode(damaged), box, 8, "bilinear")
    np.testing.assert_array_equal(jpeg_regions.EncodedJpeg(damaged, (64, 64)).crop_resize(box, 8, "bilinear"), expected)


@needs_parts
def test_every_first_row_and_column_is_exact():
    encoded = encode(smooth(60, 70), "JPEG", subsampling=2)
    assert_parts_agree(encoded, [(left, top, 70, 60) for left in range(40) for top in (left, 40 - left)], sizes=(24,))


@needs_parts
def test_grey_and_rotated_jpegs():
    assert_parts_agree(encode(smooth(40, 50).convert("L"), "JPEG"), random_boxes(50, 40))
    exif = Image.Exif()
    exif[0x0112] = 6  # ignored, as in ImageNet
    assert_parts_agree(encode(smooth(40, 50), "JPEG", exif=exif), random_boxes(50, 40))


def test_pillow_decodes_cmyk():
    encoded = encode(smooth(40, 50).convert("CMYK"), "JPEG")
    assert isinstance(jpeg_regions.open_for_crop(encoded), Image.Image)
    crop = InceptionCrop(16, photometric=False)
    first = crop(jpeg_regions.open_for_crop(encoded), np.random.default_rng(1))
    np.testing.assert_array_equal(first, crop(decode(encoded), np.random.default_rng(1)))


@pytest.mark.parametrize("encoded", [encode(noise(8, 8)), encode(noise(8, 8), "JPEG") + b"behind the end"])
def test_what_does_not_end_as_a_jpeg_is_decoded_by_pillow(encoded):
    assert isinstance(jpeg_regions.open_for_crop(encoded), Image.Image)


def test_a_jpeg_cut_short_is_broken():
    with pytest.raises(BrokenImage, match="truncated"):
        jpeg_regions.open_for_crop(encode(noise(64, 64), "JPEG")[:-1500])


@needs_parts
def test_damage_is_left_to_pillow(monkeypatch):
    encoded = encode(noise(64, 64), "JPEG")
    damaged = encoded[:1000] + b"\xff\xd9"
    opened = jpeg_regions.open_for_crop(damaged)
    assert isinstance(opened, jpeg_regions.EncodedJpeg)
    seen = []
    whole = jpeg_regions.decoded
    monkeypatch.setattr(jpeg_regions, "decoded", lambda encoded: seen.append(encoded) or whole(encode(smooth(64, 64))))
    opened.crop_resize((0, 0, 64, 64), 8, "bilinear")
    assert seen == [damaged]


DAMAGED = {
    "4:2:0": {"subsampling": 2},
    "4:4:4": {"subsampling": 0, "quality": 95},
    "optimised": {"optimize": True},
    "restart markers": {"restart_marker_blocks": 2},
    "progressive": {"progressive": True},
}


@needs_parts
@pytest.mark.parametrize("options", DAMAGED.values(), ids=DAMAGED)
def test_any_damage_is_declined_or_gives_the_pixels_of_pillow(options):
    encoded, box = encode(smooth(50, 60), "JPEG", **options), (3, 13, 40, 30)
    rng = np.random.default_rng(0)
    shown = 0
    for _ in range(1500):
        damaged = bytearray(encoded)
        for place in rng.integers(len(damaged), size=rng.integers(1, 4)):
            damaged[place] = rng.choice([0, 1, 255, rng.integers(256)])
        pixels = jpeg_regions._jpeg.crop_resize(bytes(damaged), box, 8, 2, False)
        if pixels is None:
            continue
        assert len(pixels) == 192
        try:
            expected = crop_resize(decode(bytes(damaged)), box, 8, "bilinear")
        except BrokenImage:  # behind the box, or of what Pillow alone reads
            continue
        np.testing.assert_array_equal(np.frombuffer(pixels, np.uint8).reshape(8, 8, 3), expected)
        shown += 1
    assert shown > 20


@needs_parts
@pytest.mark.parametrize("name", sorted(DAMAGED.keys() - {"progressive"}))
def test_data_that_end_early_are_damage(name):
    encoded = encode(smooth(50, 60), "JPEG", **DAMAGED[name])
    start = encoded.index(b"\xff\xda") + 14
    for end in range(start, len(encoded) - 4):
        for tail in (b"\xff\xd9", b"", b"\xff", b"\xff\xff\xd9"):
            assert jpeg_regions._jpeg.crop_resize(encoded[:end] + tail, (0, 0, 60, 50), 8, 2, False) is None


def coded(bits: str) -> bytes:
    """Returns bits as the data of a scan."""
    bits += "1" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\x00") + b"\xff\xd9"


@needs_parts
@pytest.mark.parametrize("options", [{}, {"restart_marker_blocks": 100}])
def test_blocks_end_where_they_should_or_are_left_to_pillow(options):
    encoded, box = encode(Image.new("L", (64, 64), 90), "JPEG", **options), (0, 0, 64, 64)
    head = encoded[: encoded.index(b"\xff\xda") + 10]
    same, passed, last, end = "00", "11111111001", "1111111111101011" + "1", "1010"  # of the usual tables; last: run 14
    for block, fine in [
        (same + end, True),
        (same + 3 * passed + last, True),  # 1 + 3 * 16 + 14 is 63
        (same + 3 * passed + last + end, False),
        (same + 4 * passed, False),
        ("1" * 16, False),
    ]:
        for count, whole in [(64, True), (63, False)]:
            damaged = head + coded(block * count)
            pixels = jpeg_regions._jpeg.crop_resize(damaged, box, 8, 2, False)
            assert pixels is not None or not (fine and whole)
            if pixels is not None:  # versions of libjpeg repair without a warning
                expected = crop_resize(decode(damaged), box, 8, "bilinear")
                np.testing.assert_array_equal(np.frombuffer(pixels, np.uint8).reshape(8, 8, 3), expected)


@needs_parts
def test_a_box_outside_the_image_is_refused():
    jpeg = jpeg_regions._jpeg
    encoded = encode(noise(8, 8), "JPEG")
    for box in [(-1, 0, 4, 4), (0, 0, 0, 4), (0, 5, 4, 4)]:
        with pytest.raises(ValueError, match="bad box"):
            jpeg.crop_resize(encoded, box, 4, 2, False)
    assert jpeg.crop_resize(encoded, (0, 0, 9, 8), 4, 2, False) is None
    assert jpeg.size(b"") is jpeg.size(b"\xff\xd8\xff\xd9") is None


def test_a_bomb_is_refused_from_its_header(monkeypatch):
    monkeypatch.setattr(jpeg_regions, "MAX_PIXELS", 100)
    monkeypatch.setattr(pixels, "MAX_PIXELS", 100)
    with pytest.raises(BrokenImage, match="over the limit"):
        jpeg_regions.open_for_crop(encode(noise(11, 11), "JPEG"))


@pytest.mark.parametrize("interpolation", RESAMPLING)
def test_resizing_along_one_axis_after_the_other_is_resizing(interpolation):
    image = smooth(120, 90)
    whole = np.asarray(image.crop((3, 5, 80, 110)).resize((24, 24), RESAMPLING[interpolation])).astype(int)
    assert np.abs(crop_resize(image, (3, 5, 80, 110), 24, interpolation) - whole).max() <= 2


@needs_parts
def test_photographs_give_the_same_crops(image_data):
    source = open_source("imagenet2012", "validation", image_data)
    crop = InceptionCrop(64)
    for index in range(24):
        encoded = source[index]["image"]
        seen = [
            crop(image, np.random.default_rng(index))
            for image in (decode(encoded), jpeg_regions.open_for_crop(encoded))
        ]
        np.testing.assert_array_equal(*seen)
        assert Image.open(io.BytesIO(encoded)).size == jpeg_regions.open_for_crop(encoded).size


def test_the_extension_is_found_where_it_was_built():
    assert jpeg_regions.decodes_regions() == (importlib.util.find_spec("inception_jax.data._jpeg") is not None)


@needs_parts
def test_our_huffman_decoder_is_used_where_it_is_built():
    """It leaves fill bytes to Pillow; libjpeg-turbo itself passes over them."""
    encoded = encode(smooth(64, 64), "JPEG", restart_marker_blocks=2).replace(b"\xff\xd1", b"\xff\xff\xd1", 1)
    declined = jpeg_regions._jpeg.crop_resize(encoded, (0, 0, 64, 64), 8, 2, False) is None
    assert declined == jpeg_regions.decodes_huffman()


def test_whole_decoding_is_warned_of_once(monkeypatch, caplog):
    source, crop = noise_source(4), InceptionCrop(8)
    for built, warnings in ((True, 0), (False, 1)):
        jpeg_regions.warn_of_whole_decoding.cache_clear()
        monkeypatch.setattr(jpeg_regions, "decodes_regions", lambda built=built: built)
        for _ in range(2):
            loader.train_batches(source, crop, 4, 0, range(1), loader.LoaderOptions())
        assert caplog.text.count("JPEGs are decoded whole") == warnings
    jpeg_regions.warn_of_whole_decoding.cache_clear()
