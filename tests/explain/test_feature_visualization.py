"""What a network learnt, as images; and the commands that draw."""

import copy
import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from inception_jax import labels
from inception_jax.cli import views as commands
from inception_jax.errors import UserError
from inception_jax.explain import cam, feature_visualization, heatmaps, localisation, plots

PICTURE = np.random.default_rng(0).integers(0, 256, (24, 30, 3), np.uint8)


def test_first_filters_are_kernels_around_grey(small):
    found = feature_visualization.first_filters(small.weights.variables)
    kernel = small.weights.variables["params"]["conv1"]["conv"]["kernel"]
    assert found.shape == (16, 3, 3, 3)
    assert found.min() >= 0
    assert np.all(np.abs(found - 0.5).max((1, 2, 3)) == 0.5)
    np.testing.assert_allclose((found[5] - 0.5) * 2 * np.abs(kernel[..., 5]).max(), kernel[..., 5], atol=1e-7)


def test_activations_are_the_channels_that_are_asked_for(small):
    maps = small.endpoints([PICTURE], ["4e"])["4e"][0]
    shown, found = feature_visualization.activations(small, PICTURE, "4e", [3, 1])
    assert shown == [3, 1]
    np.testing.assert_array_equal(found, maps[..., [3, 1]].transpose(2, 0, 1))
    strongest, _ = feature_visualization.activations(small, PICTURE, "4e")
    assert len(strongest) == 64
    assert maps.max((0, 1)).argmax() in strongest
    with pytest.raises(UserError, match=r"channel is 64; 4e of googlenet_cifar has 0 \.\.\. 63"):
        feature_visualization.activations(small, PICTURE, "4e", [64])
    with pytest.raises(UserError, match=r"no endpoint '4f'"):
        feature_visualization.activations(small, PICTURE, "4f")


def test_maximising_a_channel_raises_it(small):
    found = feature_visualization.maximise(small, "4e", 3, steps=20, seed=1)
    assert found.image.shape == (16, 16, 3)
    assert 0 <= found.image.min() < found.image.max() <= 1
    assert len(found.objectives) == 21
    assert found.objectives[-1] > 2 * found.objectives[0] > 0
    again = feature_visualization.maximise(small, "4e", 3, steps=20, seed=1)
    np.testing.assert_array_equal(again.image, found.image)
    with pytest.raises(UserError, match=r"channel is -1; 4e of googlenet_cifar has 0 \.\.\. 63"):
        feature_visualization.maximise(small, "4e", -1)
    with pytest.raises(UserError, match="steps is 0"):
        feature_visualization.maximise(small, "4e", 1, steps=0)


def _read(path):
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.fixture
def command(run, small, monkeypatch, tmp_path):
    """Returns a function that runs the command line with `small` in place of what --weights names."""
    monkeypatch.setattr(commands, "load_predictor", lambda *_, **__: small)
    monkeypatch.chdir(tmp_path)
    Image.fromarray(PICTURE).save("picture.png")
    return run


def test_cam_draws_and_says_what_it_found(command, small):
    code, out, err = command(
        "cam", "picture.png", "-o", "out.png", "--masks", "mask.png", "--class", "house cat", "-k", "3"
    )
    assert (code, err) == (0, "")
    lines = out.splitlines()
    likeliest = small([PICTURE], k=3)[0].classes
    assert [int(line.split()[1]) for line in lines[:3]] == [each.index for each in likeliest]
    assert lines[3].startswith("cat: ")
    assert lines[4:] == ["out.png", "mask.png"]
    assert _read("out.png").shape[1] > 600
    mask = _read("mask.png")
    assert mask.shape == (24, 30)
    assert set(np.unique(mask)) <= {0, 1}
    found = cam.cam(small, [PICTURE], 0).maps
    assert mask.any() == (found.max() > 0)


@pytest.mark.parametrize("method", [("gradcam", "--endpoint", "4e"), ("occlusion",)])
def test_cam_takes_other_methods(command, method):
    code, out, _ = command("cam", "picture.png", "-o", "out.svg", "--method", *method)
    assert code == 0
    assert out.splitlines()[-1] == "out.svg"


@pytest.mark.parametrize(
    "what", [("filters",), ("activations", "--image", "picture.png", "--endpoint", "3a", "--channel", "2")]
)
def test_views_draw(command, what):
    assert command("views", *what, "-o", "out.png") == (0, "out.png\n", "")
    assert _read("out.png").std() > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("cam", "none.png"), "none.png: No such file or directory"),
        (("cam", "picture.png", "--class", "dog"), "There is no class 'dog'"),
        (
            ("cam", "picture.png", "--endpoint", "4e"),
            "--endpoint is '4e'; it goes with --method gradcam, not with cam.",
        ),
        (("cam", "picture.png", "--masks", "mask.jpg"), "mask.jpg must end in .png."),
        (("cam", "picture.png", "--threshold", "1"), "threshold is 1.0; it must be at least 0 and below 1."),
        (("views", "activations"), "activations needs --endpoint, one of conv1, 3a, "),
        (("views", "activations", "--endpoint", "3a"), "activations needs --image."),
    ],
)
def test_commands_refuse_in_one_line(command, arguments, message):
    code, _, err = command(*arguments)
    assert (code, err.count("\n")) == (2, 1)
    assert message in err


ALL = ".png or .jpg or .jpeg or .webp or .svg or .pdf"
COMMANDS = {  # each command that writes a file, and what it writes at most
    "cam": (("cam", "picture.png"), ALL),
    "views": (("views", "filters"), ALL),
    "diagram": (("diagram", "googlenet_cifar", "--block", "3a"), ".svg or .png or .pdf"),
    "export": (("export", "--format", "stablehlo", "--weights", "w"), ""),
}


@pytest.fixture
def no_work(command, monkeypatch):
    """The command line of `command`, on which no network is loaded and nothing is drawn."""

    def load(*_, **__):
        raise AssertionError("the output is refused before the work")

    monkeypatch.setattr(commands, "load_predictor", load)
    monkeypatch.setattr("inception_jax.cli.export.load_weights", load)
    monkeypatch.setattr("inception_jax.describe.diagram.draw", load)
    return command


@pytest.mark.parametrize("name", COMMANDS)
def test_what_cannot_be_written_is_refused_before_the_work(no_work, tmp_path, name):
    arguments, suffixes = COMMANDS[name]
    (tmp_path / "old.png").write_bytes(b"old")
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "fifo.png")
    refused = {
        "old.png": "old.png exists; --overwrite replaces it (overwrite=True in Python).",
        "folder.png": "folder.png is no regular file, so it is not replaced.",
        "fifo.png": "fifo.png is no regular file, so it is not replaced.",
        "none/out.png": f"{tmp_path / 'none'} is no folder.",
        "~nosuch/out.png": "~nosuch/out.png: ",
    }
    refused |= (
        {"heat": f"heat must end in {suffixes}.", "out.xyz": f"out.xyz must end in {suffixes}."} if suffixes else {}
    )
    for output, message in refused.items():
        code, out, err = no_work(*arguments, "-o", output)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert message in err
    for output in ("folder.png", "fifo.png"):
        assert no_work(*arguments, "-o", output, "--overwrite")[0] == 2
    assert (tmp_path / "old.png").read_bytes() == b"old"


def test_files_are_replaced_if_that_is_asked_for(command, tmp_path):
    for name in ("out.png", "mask.png", "out.svg"):
        (tmp_path / name).write_bytes(b"old")
    cam_of = ("cam", "picture.png", "-o", "out.png", "--masks", "mask.png")
    assert command(*cam_of)[0] == 2
    assert command(*cam_of, "--overwrite")[0] == 0
    assert _read("mask.png").shape == (24, 30)
    assert _read("out.png").shape[1] > 600
    assert command("diagram", "googlenet_cifar", "--block", "3a", "-o", "out.svg", "--overwrite")[0] == 0
    assert b"<svg" in (tmp_path / "out.svg").read_bytes()


def test_what_was_found_is_printed_though_it_cannot_be_written(command, monkeypatch, tmp_path):
    monkeypatch.setattr(Figure, "savefig", _full)
    code, out, err = command("cam", "picture.png", "-o", "out.png")
    assert (code, err) == (2, "inception-jax: out.png cannot be written: No space left on device.\n")
    assert ": box " in out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["picture.png"]


def _full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_large_image_is_drawn_from_a_small_copy_and_its_box_is_of_the_whole(small):
    image = Image.fromarray(PICTURE).resize((3000, 2400), Image.Resampling.NEAREST)
    maps = np.abs(cam.cam(small, image).maps[0])
    placed = heatmaps.PlacedHeatmap(heatmaps.heat(maps), small.transform.box(*image.size), *image.size)
    whole = heatmaps.on_image(placed.maps, placed.box, *image.size)[0]
    shown = plots.DisplayImage(image)
    assert (shown.size, shown.image.size) == ((3000, 2400), (1600, 1280))
    box = localisation.largest_box(placed.each()[0], 0.6)
    assert box == localisation.largest_box(whole, 0.6)
    np.testing.assert_array_equal(
        localisation.pseudo_mask(placed, [7], 0.6), np.where(whole > np.float32(0.6) * whole.max(), 8, 0)
    )
    found = plots.ClassHeatmap(7, "a", placed.each()[0], box)
    figure = plots.draw_heat(shown, [found], small(image), "title")
    drawn = [axis.images[0].get_array().shape for axis in figure.axes[:2]]
    assert drawn == [(1280, 1600, 3)] * 2
    patch = figure.axes[1].patches[0]
    assert patch.get_x() + 0.5 == pytest.approx(box[0] * 1600 / 3000)
    assert patch.get_width() == pytest.approx((box[2] - box[0]) * 1600 / 3000)
    assert shown.heat(placed)[0, 640, 800] == pytest.approx(whole[1200, 1500], abs=0.01)


def test_names_in_pictures_are_no_tex_and_have_no_letters_without_a_font(small, monkeypatch, tmp_path):
    monkeypatch.setattr(labels, "_installed", dict)
    labels._family.cache_clear()
    names = ("$x$", "\\frac{$", "\u732b", "a\x1b[1m", *small.class_names[4:])
    made = copy.copy(small)
    made.class_names = names
    scores = made.top(np.arange(10.0)[::-1], 4)
    placed = heatmaps.PlacedHeatmap(np.ones((1, 2, 2)), (0, 0, 30, 24), 30, 24)
    found = [plots.ClassHeatmap(i, names[i], placed.each()[0], None) for i in (0, 2)]
    figure = plots.draw_heat(plots.DisplayImage(Image.fromarray(PICTURE)), found, scores, "$ \u732b $")
    plots.save(figure, tmp_path / "out.png")  # warnings are errors
    texts = [text for text in figure.findobj(Text) if "$" in text.get_text() or "frac" in text.get_text()]
    assert {text.get_parse_math() for text in texts} == {False}
    shown = " ".join(text.get_text() for text in figure.findobj(Text))
    for part in ("$ \\u732b $", "$x$", "\\frac{$  ", "class 2  ", "a\\x1b[1m"):
        assert part in shown
    assert "\u732b" not in shown
    labels._family.cache_clear()


@pytest.mark.slow
def test_a_photograph_of_48_megapixels_takes_little_memory(small, tmp_path):
    """A process of its own; JAX and matplotlib are half of it."""
    Image.effect_noise((1008, 756), 80).convert("RGB").resize((8064, 6048)).save(tmp_path / "photo.jpg")
    code = (
        "import resource, sys, pickle\n"
        "from inception_jax import cli\n"
        "from tests.inference import few_rows\n"
        "import inception_jax.cli.views as views\n"
        "views.load_predictor = few_rows.fresh\n"
        "sys.argv = ['inception-jax', 'cam', *sys.argv[1:]]\n"
        "try: cli.main()\n"
        "finally: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)\n"
    )
    arguments = (tmp_path / "photo.jpg", "-o", tmp_path / "out.png", "--masks", tmp_path / "mask.png")
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments), "--class", "1", "--class", "2", "--method", "gradcam"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    *said, peak = done.stdout.splitlines()
    assert len(said) == 9, done.stderr
    assert int(peak) < 1200  # MiB; 6,800 if all is done on the whole image
    with Image.open(tmp_path / "mask.png") as mask:
        assert mask.size == (8064, 6048)


def test_one_source_of_weights(run, tmp_path):
    for given in ((), ("--weights", "a", "--workdir", "b")):
        code, _, err = run("cam", "picture.png", *given)
        assert (code, err) == (2, "inception-jax: Name a network: either --weights or --workdir.\n")
