"""EXIF orientation: applied on request, else ignored; damaged EXIF data count as none."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin, features

from inception_jax.data import exif, jpeg_regions, loader, pixels, sources
from inception_jax.data.loader import LoaderOptions
from inception_jax.data.transforms import Evaluate, InceptionCrop
from inception_jax.inference.images import load_rgb
from tests.data.images import encode, noise

TURNED = {  # stored [H, W, 3] -> seen
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: stored[::-1].swapaxes(0, 1),
    7: lambda stored: stored[::-1, ::-1].swapaxes(0, 1),
    8: lambda stored: stored[:, ::-1].swapaxes(0, 1),
}
STORED = noise(6, 10)
FORMATS = [
    "JPEG", "PNG", "TIFF", "WEBP",
    pytest.param("AVIF", marks=pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")),
]  # fmt: skip


def with_orientation(orientation: int, file_format: str = "PNG", image=STORED, **options) -> bytes:
    tags = Image.Exif()
    tags[0x0112] = orientation
    if file_format in ("PNG", "WEBP"):
        options["lossless"] = True
    return encode(image, file_format, exif=tags, **options)


def exif_data(value: int, order: str = "<", kind: int = 3, count: int = 1) -> bytes:
    """Returns EXIF data of two tags, the second of them the orientation."""
    start = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "I", 8)
    entries = struct.pack(order + "HHII", 0x010F, 2, 1, 0) + struct.pack(order + "HHI", 0x0112, kind, count)
    return start + struct.pack(order + "H", 2) + entries + struct.pack(order + {3: "HH", 4: "II"}[kind], value, 0)


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("orientation", TURNED)
def test_every_orientation_is_turned_as_numpy_turns_it(file_format, orientation):
    encoded = with_orientation(orientation, file_format)
    stored, seen = (np.asarray(pixels.decode(encoded, upright)) for upright in (False, True))
    if file_format == "TIFF":  # which Pillow turns in any case
        np.testing.assert_array_equal(stored, seen)
        stored = STORED
    np.testing.assert_array_equal(seen, TURNED[orientation](stored))
    if file_format == "PNG":
        np.testing.assert_array_equal(stored, STORED)
    assert pixels.size_of(encoded, upright=True) == seen.shape[1::-1]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [3, 4])
def test_both_byte_orders_and_integers_are_read(order, kind):
    assert exif.orientation(exif_data(6, order, kind)) == 6
    assert exif.orientation(b"Exif\0\0" + exif_data(8, order, kind)) == 8


@pytest.mark.filterwarnings("ignore::UserWarning:PIL.TiffImagePlugin")
def test_damaged_exif_data_state_nothing_and_never_raise():
    whole = exif_data(6)
    rng = np.random.default_rng(0)
    for end in range(len(whole) - 4):
        assert exif.orientation(whole[:end]) == exif.UPRIGHT
    for value, count in ((0, 1), (9, 1), (65535, 1), (6, 2)):
        assert exif.orientation(exif_data(value, count=count)) == exif.UPRIGHT
    for _ in range(500):
        damaged = bytearray(whole)
        for place in rng.integers(len(damaged), size=3):
            damaged[place] = rng.integers(256)
        assert 1 <= exif.orientation(bytes(damaged)) <= 8
        exif_of_jpeg = encode(STORED, "JPEG", exif=b"Exif\0\0" + bytes(damaged))
        assert sorted(jpeg_regions.open_for_crop(exif_of_jpeg, upright=True).size) == [6, 10]


def test_a_png_may_state_it_behind_its_pixels_or_as_text():
    png = encode(STORED)
    chunk = b"eXIf" + exif_data(6)
    chunk = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    behind = png[:-12] + chunk + png[-12:]
    notes = PngImagePlugin.PngInfo()
    notes.add_text("Raw profile type exif", f"\nexif\n  {len(exif_data(6))}\n{exif_data(6).hex()}\n")
    as_text = encode(STORED, pnginfo=notes)
    notes = PngImagePlugin.PngInfo()
    notes.add_text("Raw profile type exif", "\nexif\n  3\nno hex\n")
    for encoded, orientation in ((behind, 6), (as_text, 6), (encode(STORED, pnginfo=notes), 1)):
        np.testing.assert_array_equal(pixels.decode(encoded, upright=True), TURNED[orientation](STORED))
        assert pixels.size_of(encoded, True) == TURNED[orientation](STORED).shape[1::-1]


@pytest.mark.parametrize("orientation", TURNED)
def test_a_crop_of_a_jpeg_is_that_of_the_turned_image(orientation):
    encoded = with_orientation(orientation, "JPEG", noise(40, 56))
    crop = InceptionCrop(8)
    turned = Image.fromarray(TURNED[orientation](np.asarray(pixels.decode(encoded))))
    expected = crop(turned, np.random.default_rng(3))
    np.testing.assert_array_equal(crop(jpeg_regions.open_for_crop(encoded, True), np.random.default_rng(3)), expected)
    assert jpeg_regions.open_for_crop(encoded).size == (56, 40)


def source_of(images: list[bytes], exif: bool) -> sources.ImageSource:
    return sources.ImageSource("photos[all]", [{"image": each, "label": 0} for each in images], ("a",), exif=exif)


@pytest.mark.parametrize("crop", [Evaluate(6, 6), InceptionCrop(6, photometric=False)])
def test_a_source_says_whether_its_images_are_turned(crop):
    stored = [with_orientation(6, "JPEG", noise(12, 20, seed)) for seed in range(3)]
    turned = [encode(TURNED[6](np.asarray(pixels.decode(each)))) for each in stored]
    flat = [encode(np.asarray(pixels.decode(each))) for each in stored]
    for exif_asked, expected in ((True, turned), (False, flat)):
        seen = next(loader.train_batches(source_of(stored, exif_asked), crop, 3, 0, range(1), LoaderOptions()))
        same = next(loader.train_batches(source_of(expected, False), crop, 3, 0, range(1), LoaderOptions()))
        np.testing.assert_array_equal(seen["image"], same["image"])


def test_that_it_is_ignored_is_said_once(caplog, monkeypatch):
    loader._warned_of_exif.clear()
    photos = [with_orientation(6, "JPEG", noise(8, 8, seed)) for seed in range(4)]
    list(loader.eval_batches(source_of(photos, True), Evaluate(4, 4), 2, LoaderOptions()))
    assert not caplog.records
    list(loader.eval_batches(source_of(photos, False), Evaluate(4, 4), 2, LoaderOptions()))
    assert [each.getMessage() for each in caplog.records] == [
        "Images state an EXIF orientation, which is ignored; data.exif=True turns them."
    ]


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "TIFF"])
def test_an_image_is_the_same_as_a_path_as_bytes_and_as_pillow_opened_it(tmp_path, file_format):
    encoded = with_orientation(8, file_format)
    path = tmp_path / "photo"
    path.write_bytes(encoded)
    seen = TURNED[8](STORED if file_format == "TIFF" else np.asarray(pixels.decode(encoded)))
    with Image.open(path) as image:
        for each in (path, str(path), encoded, image, image.convert("RGB")):
            np.testing.assert_array_equal(load_rgb(each), seen)
            again = load_rgb(load_rgb(each))  # what was turned is not turned again
            np.testing.assert_array_equal(again, seen)
    if file_format != "TIFF":
        np.testing.assert_array_equal(load_rgb(path, exif=False), pixels.decode(encoded))
        np.testing.assert_array_equal(load_rgb(pixels.decode(encoded)), pixels.decode(encoded))
