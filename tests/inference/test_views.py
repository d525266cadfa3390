"""What a network learnt, as images; and the commands that draw."""

import numpy as np
import pytest
from PIL import Image

from inception_jax.cli import views as commands
from inception_jax.errors import UserError
from inception_jax.inference import cam, views

PICTURE = np.random.default_rng(0).integers(0, 256, (24, 30, 3), np.uint8)


def test_first_filters_are_kernels_around_grey(small):
    found = views.first_filters(small.weights.variables)
    kernel = small.weights.variables["params"]["conv1"]["conv"]["kernel"]
    assert found.shape == (16, 3, 3, 3)
    assert found.min() >= 0
    assert np.all(np.abs(found - 0.5).max((1, 2, 3)) == 0.5)
    np.testing.assert_allclose((found[5] - 0.5) * 2 * np.abs(kernel[..., 5]).max(), kernel[..., 5], atol=1e-7)


def test_activations_are_the_channels_that_are_asked_for(small):
    maps = small.endpoints([PICTURE], ["4e"])["4e"][0]
    shown, found = views.activations(small, PICTURE, "4e", [3, 1])
    assert shown == [3, 1]
    np.testing.assert_array_equal(found, maps[..., [3, 1]].transpose(2, 0, 1))
    strongest, _ = views.activations(small, PICTURE, "4e")
    assert len(strongest) == 64
    assert maps.max((0, 1)).argmax() in strongest
    with pytest.raises(UserError, match=r"channel is 64; 4e of googlenet_cifar has 0 \.\.\. 63"):
        views.activations(small, PICTURE, "4e", [64])
    with pytest.raises(UserError, match=r"no endpoint '4f'"):
        views.activations(small, PICTURE, "4f")


def test_maximising_a_channel_raises_it(small):
    found = views.maximise(small, "4e", 3, steps=20, seed=1)
    assert found.image.shape == (16, 16, 3)
    assert 0 <= found.image.min() < found.image.max() <= 1
    assert len(found.objectives) == 21
    assert found.objectives[-1] > 2 * found.objectives[0] > 0
    again = views.maximise(small, "4e", 3, steps=20, seed=1)
    np.testing.assert_array_equal(again.image, found.image)
    with pytest.raises(UserError, match=r"channel is -1; 4e of googlenet_cifar has 0 \.\.\. 63"):
        views.maximise(small, "4e", -1)
    with pytest.raises(UserError, match="steps is 0"):
        views.maximise(small, "4e", 1, steps=0)


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
        (("cam", "picture.png", "-o", "out.xyz"), "Cannot write out.xyz: "),
        (("cam", "picture.png", "-o", "none/out.png"), "Cannot write none/out.png: No such file or directory."),
        (("cam", "picture.png", "--masks", "mask.jpg"), "mask.jpg: masks are written as .png files."),
        (("cam", "picture.png", "--threshold", "1.5"), "threshold is 1.5; it must be at least 0 and below 1."),
        (("views", "activations"), "activations needs --endpoint, one of conv1, 3a, "),
        (("views", "activations", "--endpoint", "3a"), "activations needs --image."),
    ],
)
def test_commands_refuse_in_one_line(command, arguments, message):
    code, _, err = command(*arguments)
    assert (code, err.count("\n")) == (2, 1)
    assert message in err


def test_one_source_of_weights(run, tmp_path):
    for given in ((), ("--weights", "a", "--workdir", "b")):
        code, _, err = run("cam", "picture.png", *given)
        assert (code, err) == (2, "inception-jax: Name a network: either --weights or --workdir.\n")
