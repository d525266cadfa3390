"""Untrusted images: one list of formats wherever images are opened, and limits on the memory and time of decoding."""

import ast
import concurrent.futures
import pathlib
import struct
import subprocess
import sys
import threading

import numpy as np
import pytest
from PIL import Image, features

from inception_jax.data import jpeg, jpeg_regions, memory, pixels
from inception_jax.data.pixels import BrokenImage, decode, open_untrusted
from tests.data.images import bomb, encode, many_scans, many_strips, noise, vast_webp

ROOT = pathlib.Path(__file__).parents[2]
OPENERS = {"open", "imread", "Parser"}
MODULES = {"Image", "PIL.Image", "ImageFile", "imageio", "plt", "pyplot", "matplotlib.image"}


def openings(path: pathlib.Path) -> list[str]:
    """Returns the calls of a file that decode images: Image.open, plt.imread and their like."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and node.attr in OPENERS and ast.unparse(node.value) in MODULES:
            found.append(f"{path.relative_to(ROOT)}: {ast.unparse(node)}")
        if isinstance(node, ast.ImportFrom) and node.module in ("PIL.Image", "matplotlib.image", "imageio"):
            found.append(f"{path.relative_to(ROOT)}: from {node.module}")
    return found


def test_images_are_opened_at_one_place():
    folders = (ROOT / "inception_jax", ROOT / "benchmarks", ROOT / "configs")
    files = [*ROOT.glob("*.py"), *(each for folder in folders for each in folder.rglob("*.py"))]
    found = [each for path in files for each in openings(path)]
    assert found == ["inception_jax/data/pixels.py: Image.open"]


def test_formats_are_those_that_pillow_decodes_itself():
    Image.init()
    suffixes = Image.registered_extensions()
    for name, its_suffixes in pixels.FORMATS.items():
        for suffix in its_suffixes:
            assert suffixes.get(suffix, name) in (name, "MPO", "DIB"), suffix
    assert not {"EPS", "PDF", "WMF", "FPX", "MIC"} & pixels.FORMATS.keys()


@pytest.mark.parametrize("suffix", ["ppm", "pgm", "pbm", "dib", "jfif", "apng", "mpo"])
def test_every_suffix_is_read(tmp_path, suffix):
    mode = {"pgm": "L", "pbm": "1"}.get(suffix, "RGB")
    image = Image.fromarray(noise(8, 8)).convert(mode)
    image.save(tmp_path / f"image.{suffix}", "DIB" if suffix == "dib" else None)
    if suffix == "dib":
        image.save(tmp_path / f"image.{suffix}", "BMP")  # what Windows calls .dib mostly has the header of a .bmp
    assert decode((tmp_path / f"image.{suffix}").read_bytes()).size == (8, 8)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_avif_is_read():
    colour = np.full((16, 16, 3), (200, 100, 50), np.uint8)
    assert np.abs(np.asarray(decode(encode(colour, "AVIF"))).astype(int) - colour).max() <= 6


@pytest.mark.parametrize("file_format", ["ICO", "TGA", "PCX", "SGI", "EPS", "PDF", "JPEG2000", "DDS"])
def test_other_formats_are_no_images(file_format):
    with pytest.raises(BrokenImage, match=r"not an image|cannot identify"):
        decode(encode(noise(16, 16), file_format))


def test_only_the_formats_that_are_expected_are_opened():
    with pytest.raises(BrokenImage, match="not an image"):
        open_untrusted(encode(noise(4, 4), "GIF"), ["PNG"])


@pytest.mark.parametrize("scans", [jpeg.MAX_SCANS, jpeg.MAX_SCANS + 1, 12_000])
@pytest.mark.parametrize("read", [decode, jpeg_regions.open_for_crop, pixels.size_of])
def test_a_jpeg_of_many_scans_is_refused_before_it_is_decoded(scans, read):
    encoded = many_scans(16, scans)
    if scans <= jpeg.MAX_SCANS:
        read(encoded)
        return
    with pytest.raises(BrokenImage, match="a JPEG of over 100 scans"):
        read(encoded)


def test_scans_cost_their_pixels(monkeypatch):
    encoded = encode(noise(64, 64), "JPEG", progressive=True)
    scans = jpeg.read_header(encoded).scans
    assert 6 <= scans <= 12
    monkeypatch.setattr(pixels, "MAX_SCANNED", scans * 64 * 64)
    assert decode(encoded).size == (64, 64)
    monkeypatch.setattr(pixels, "MAX_SCANNED", scans * 64 * 64 - 1)
    with pytest.raises(BrokenImage, match="scans of 64 x 64 pixels are over the limit"):
        decode(encoded)


def test_what_only_looks_like_a_scan_is_none():
    mark = b"\xff\xda" * 300
    for options in ({}, {"progressive": True}):
        plain = encode(noise(16, 16), "JPEG", **options)
        comments = plain[:2] + (b"\xff\xfe" + struct.pack(">H", len(mark) + 2) + mark) + plain[2:]
        assert jpeg.read_header(comments).scans == jpeg.read_header(plain).scans
        np.testing.assert_array_equal(decode(comments), decode(plain))
        behind = plain + mark  # after the end of the image
        assert jpeg.read_header(behind).scans == jpeg.read_header(plain).scans
    assert jpeg.read_header(b"\xff\xd8").scans == 1
    assert jpeg.read_header(encode(noise(16, 16), "JPEG")).scans == 1


@pytest.mark.parametrize("encoded", [vast_webp(9_400, 9_400), vast_webp(16_383, 16_383)])
def test_a_webp_that_would_take_gigabytes_is_refused_from_its_header(encoded, monkeypatch):
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("it was opened, which allocates its pixels"))
    with pytest.raises(BrokenImage, match=r"pixels of WEBP are over the limit of 44,739,242"):
        decode(encoded)
    assert len(encoded) < 40


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("kind", [1, 3, 4])
def test_a_tiff_of_many_strips_is_refused_before_pillow_lists_them(big, kind, monkeypatch):
    if kind == 4:
        assert decode(many_strips(8, big)).size == (8, 8)
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("it was opened, which takes a minute for 20 MB"))
    with pytest.raises(BrokenImage, match=r"a TIFF of over 200,000 strips"):
        decode(many_strips(200_001, big, kind))


def test_what_pillow_decodes_in_python_has_a_limit_of_its_own(monkeypatch):
    monkeypatch.setattr(pixels, "MAX_SLOW_PIXELS", 15)
    slow = b"P6 4 4 100 " + bytes(48)
    with pytest.raises(BrokenImage, match=r"4 x 4 pixels of PPM in this encoding are over the limit of 15"):
        decode(slow)
    assert decode(b"P6 4 4 255 " + bytes(48)).size == (4, 4)


def test_large_images_wait_for_room_and_small_ones_do_not():
    budget, inside, most = memory.Budget(100 << 20), [0], [0]
    lock, done = threading.Lock(), []

    def work(amount):
        with budget.reserve(amount):
            with lock:
                inside[0] += amount if amount >= memory.SMALL else 0
                most[0] = max(most[0], inside[0])
            threading.Event().wait(0.002)
            with lock:
                inside[0] -= amount if amount >= memory.SMALL else 0
                done.append(amount)

    amounts = [40 << 20, 60 << 20, 1 << 20, 90 << 20, 500 << 20] * 6  # one is above the limit: it goes alone
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(work, amounts, timeout=60))
    assert sorted(done) == sorted(amounts)
    assert most[0] == 500 << 20
    with budget.reserve(100 << 20), budget.reserve(1):  # what is small never waits, even within
        pass
    with pytest.raises(ZeroDivisionError), budget.reserve(100 << 20):
        _ = 1 / 0
    with budget.reserve(100 << 20):  # an error gave it back
        pass


def test_what_is_decoded_is_counted(monkeypatch):
    counted = []
    monkeypatch.setattr(memory.IMAGES, "reserve", lambda amount: counted.append(amount) or memory.Budget(1).reserve(0))
    for encoded in (
        encode(noise(30, 20)),
        encode(noise(20, 30), "WEBP"),
        encode(noise(20, 30), "JPEG", progressive=True),
        encode(noise(1, 1000)),
    ):
        with pixels.decoded(encoded):
            pass
    assert counted[:2] == [512**2 * 30 // 20 * 4] * 2  # as small as that, the enlarged image is what counts
    assert counted[3] == 4 * pixels.MAX_PIXELS
    counted.clear()
    image = jpeg_regions.open_for_crop(encode(noise(64, 64), "JPEG", progressive=True))
    image.crop_resize((0, 0, 8, 8), 8, "bilinear")
    assert counted == ([6 * 64 * 64] if jpeg_regions.decodes_regions() else [])


def test_16_bit_pixels_are_read_without_wide_copies():
    values = np.arange(256 * 256, dtype=np.uint16).reshape(256, 256)
    for mode, dtype in (("I;16", "<u2"), ("I;16B", ">u2")):
        image = Image.frombytes(mode, (256, 256), values.astype(dtype).tobytes())
        np.testing.assert_array_equal(np.asarray(pixels.to_rgb(image))[..., 1], values >> 8)


PEAK = """
import concurrent.futures, resource, sys
from inception_jax.data import pixels
resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
encoded = open(sys.argv[1], "rb").read()
def read(_):
    try:
        with pixels.decoded(encoded) as image:
            image.crop((0, 0, image.width // 2, image.height // 2))
    except pixels.BrokenImage as error:
        print(error)
with concurrent.futures.ThreadPoolExecutor(8) as pool:
    list(pool.map(read, range(8)))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["webp 9400", "webp 6600", "png 1 bit", "png RGBA 16 bit", "scans", "progressive", "narrow"]
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_eight_threads_of_hostile_images_stay_within_2_gb(tmp_path, name):
    side = 9_400
    encoded = {
        "webp 9400": lambda: vast_webp(side, side),
        "webp 6600": lambda: vast_webp(6_600, 6_600),
        "png 1 bit": lambda: encode(Image.new("1", (side, side))),
        "png RGBA 16 bit": lambda: bomb(side, side, bits=16, colour=6, whole=True),
        "scans": lambda: many_scans(side, 12_000),
        "progressive": lambda: encode(Image.new("RGB", (side, side)), "JPEG", progressive=True),
        "narrow": lambda: encode(Image.new("RGB", (1, 60_000))),
    }[name]()
    (tmp_path / "image").write_bytes(encoded)
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(tmp_path / "image")], capture_output=True, text=True, timeout=600, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.splitlines()[-1]) < 2048, done.stdout
