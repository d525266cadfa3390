"""Decoding: every image gives RGB, and everything else is refused."""

import io

import numpy as np
import pytest
from PIL import Image, ImageFile

from inception_jax.data.sources import open_source
from inception_jax.data.transforms import BrokenImage, decode
from tests.data.images import bomb, encode, noise, truncated_jpeg

GREY_RAMP = np.arange(0, 256, 4, dtype=np.uint8).reshape(8, 8)


def pixels(encoded: bytes) -> np.ndarray:
    image = decode(encoded)
    assert image.mode == "RGB"
    return np.asarray(image)


def grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[..., None], 3, axis=-1)


@pytest.mark.parametrize("file_format", ["PNG", "BMP", "TIFF", "GIF"])
def test_lossless_formats_decode_to_their_pixels(file_format):
    image = noise(8, 9) // 64 * 85  # 64 colours, for GIF
    np.testing.assert_array_equal(pixels(encode(image, file_format)), image)


@pytest.mark.parametrize("file_format", ["JPEG", "WEBP"])
def test_lossy_formats_decode_to_about_their_pixels(file_format):
    image = np.full((16, 16, 3), (200, 100, 50), np.uint8)
    assert np.abs(pixels(encode(image, file_format)).astype(int) - image).max() <= 3


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_grey_is_repeated_in_three_channels(file_format):
    np.testing.assert_array_equal(pixels(encode(GREY_RAMP, file_format)), grey(GREY_RAMP))


def test_black_and_white_is_0_and_255():
    image = Image.fromarray(GREY_RAMP > 100)
    np.testing.assert_array_equal(pixels(encode(image)), grey((GREY_RAMP > 100) * np.uint8(255)))


def test_a_cmyk_jpeg_shows_its_colours():
    image = Image.new("RGB", (16, 16), (200, 100, 50)).convert("CMYK")
    assert np.abs(pixels(encode(image, "JPEG")).astype(int) - (200, 100, 50)).max() <= 3


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_16_bit_grey_keeps_its_upper_byte(file_format):
    image = Image.fromarray(GREY_RAMP.astype(np.uint16) * 256 + 255)
    np.testing.assert_array_equal(pixels(encode(image, file_format)), grey(GREY_RAMP))


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_32_bit_pixels_have_no_range_and_are_refused(dtype):
    with pytest.raises(BrokenImage, match="no fixed range"):
        decode(encode(Image.fromarray(GREY_RAMP.astype(dtype)), "TIFF"))


def test_a_palette_with_transparency_gives_its_colours():
    image = Image.fromarray(noise(4, 4)).quantize(16)
    for transparency in (3, bytes(range(0, 256, 16))):
        np.testing.assert_array_equal(
            pixels(encode(image, transparency=transparency)), np.asarray(image.convert("RGB"))
        )


def test_alpha_is_dropped():
    image = np.concatenate([noise(8, 8), GREY_RAMP[..., None]], axis=-1)
    np.testing.assert_array_equal(pixels(encode(image)), image[..., :3])
    grey_alpha = Image.fromarray(np.stack([GREY_RAMP, GREY_RAMP[::-1]], axis=-1), "LA")
    np.testing.assert_array_equal(pixels(encode(grey_alpha)), grey(GREY_RAMP))


@pytest.mark.parametrize("file_format", ["GIF", "PNG", "WEBP"])
def test_an_animation_gives_its_first_frame(file_format):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "lime")]
    encoded = encode(frames[0], file_format, save_all=True, append_images=frames[1:])
    assert np.abs(pixels(encoded).astype(int) - (255, 0, 0)).max() <= 2


def test_an_exif_rotation_is_ignored_as_in_imagenet():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode(encode(noise(8, 20), "JPEG", exif=exif)).size == (20, 8)


@pytest.mark.parametrize(
    ("encoded", "message"),
    [
        (b"", r"not an image \(0 bytes\)"),
        (np.random.default_rng(0).bytes(1000), r"not an image \(1,000 bytes\)"),
        (truncated_jpeg(), "truncated"),
        (encode(noise(64, 64))[:2000], "truncated|broken"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "not an image"),  # would start another program
    ],
    ids=["empty", "random", "truncated JPEG", "truncated PNG", "EPS"],
)
def test_what_is_no_whole_image_is_broken(encoded, message):
    with pytest.raises(BrokenImage, match=message):
        decode(encoded)


@pytest.mark.parametrize(("width", "height"), [(9_434, 9_434), (12_000, 10_000), (60_000, 60_000)])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_bomb_is_refused_from_its_header(monkeypatch, width, height):
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: pytest.fail("pixels were decoded"))
    with pytest.raises(BrokenImage, match="pixels"):
        decode(bomb(width, height))


def test_the_largest_images_are_read():
    assert decode(encode(Image.new("1", (9_400, 9_400)))).size == (9_400, 9_400)


def test_photographs_decode_to_rgb(image_data):
    source = open_source("imagenet2012", "validation", image_data)
    for index in range(len(source)):
        encoded = source[index]["image"]
        assert decode(encoded).size == Image.open(io.BytesIO(encoded)).size
