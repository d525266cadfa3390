"""Maps of classes: what they add up to, how they agree with each other, and what is refused."""

import functools

import jax
import numpy as np
import pytest
from PIL import Image

from inception_jax.errors import UserError
from inception_jax.explain import cam, subnetworks
from inception_jax.models import spec, zoo
from inception_jax.models.endpoints import trace
from tests.parity import fixtures


def _pictures(count, width=30, height=24):
    return list(np.random.default_rng(0).integers(0, 256, (count, height, width, 3), np.uint8))


def _close(found, expected, tolerance=1e-5):
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def test_the_average_of_a_map_is_the_logit_less_the_bias(small):
    pictures = _pictures(9)  # more than a bucket
    found = cam.cam(small, pictures, k=3)
    assert found.maps.shape == (9, 3, 8, 8)
    np.testing.assert_array_equal(found.classes, np.argsort(-found.logits)[:, :3])
    bias = np.asarray(small.params["classifier"]["linear"]["bias"])
    scores = np.take_along_axis(found.logits, found.classes, 1) - bias[found.classes]
    _close(found.maps.mean((2, 3)), scores)
    _close(found.logits, small.logits(pictures))


def test_grad_cam_at_the_last_map_is_cam_over_the_pixels_of_the_map(small):
    pictures = _pictures(3)
    classes = [[0, 7], [3, 3], [9, 1]]
    plain, graded = cam.cam(small, pictures, classes), cam.grad_cam(small, pictures, classes=classes)
    np.testing.assert_array_equal(graded.classes, classes)
    _close(graded.maps, plain.maps / (8 * 8))
    assert plain.maps.std() > 0


def test_grad_cam_at_an_endpoint_is_its_gradient(small):
    """Channels weighted by the mean gradient, which a step of all pixels of a channel measures."""
    (picture,) = _pictures(1)
    found = cam.grad_cam(small, [picture], "4e", [4]).maps[0, 0]
    assert found.shape == (8, 8)
    maps = small.endpoints([picture], ["4e"])["4e"]
    channels, step = maps.shape[-1], 1e-3
    steps = step * np.eye(channels, dtype=np.float32)[:, None, None]
    run = jax.jit(functools.partial(subnetworks.from_endpoint, small.model, "4e"))
    logits = np.asarray(run({"params": small.params}, np.concatenate([maps + steps, maps - steps])))[:, 4]
    gradients = (logits[:channels] - logits[channels:]) / (2 * step)  # summed over the pixels
    _close(found, maps[0] @ (gradients / found.size), 0.02)


def test_file_and_array_have_the_same_map(small, tmp_path):
    (picture,) = _pictures(1)
    Image.fromarray(picture).save(tmp_path / "picture.png")
    for method in (cam.cam, cam.grad_cam):
        found = method(small, [tmp_path / "picture.png", picture], classes=2).maps
        np.testing.assert_array_equal(found[0], found[1])


def test_occlusion_is_the_fall_of_the_logit(small):
    pictures = _pictures(2)
    found = cam.occlusion(small, pictures, window=8, k=2)  # 3 x 3 squares, 4 pixels apart
    assert found.maps.shape == (2, 2, 16, 16)
    _close(found.logits, small.logits(pictures))
    pixels = np.stack([small.prepare(picture) for picture in pictures]).astype(np.float32)
    preprocess = small.info.preprocess
    images = (pixels - np.float32(preprocess.mean)) / np.float32(preprocess.std)
    images[:, :8, 8:] = 0
    with jax.disable_jit():
        covered = np.asarray(small.model.apply({"params": small.params}, images).logits)
    expected = np.take_along_axis(found.logits - covered, found.classes, 1)
    _close(found.maps[:, :, 0, 15], expected, 1e-4)  # the only square over this corner


def test_classes_by_name(small):
    pictures = _pictures(2)
    assert cam.cam(small, pictures, "house cat").classes.tolist() == [[0], [0]]
    assert cam.cam(small, pictures, ["class 5", "3"]).classes.tolist() == [[5, 3], [5, 3]]
    assert cam.cam(small, pictures, [[8], [9]]).classes.tolist() == [[8], [9]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda p, x: cam.cam(p, x, "clas 5"),
            r"There is no class 'clas 5'\. Nearest: class 5.*\. Indices are 0 \.\.\. 9",
        ),
        (lambda p, x: cam.cam(p, x, 10), r"There is no class 10\. Indices are 0 \.\.\. 9"),
        (lambda p, x: cam.cam(p, x, -1), r"There is no class -1"),
        (lambda p, x: cam.cam(p, x, "crane"), r"Several classes are called 'crane': give one of the indices \[1, 2\]"),
        (
            lambda p, x: cam.cam(p, x, [[1], [2], [3]]),
            r"classes are \[3, 1\]; for 2 images they must broadcast to \[2, K",
        ),
        (lambda p, x: cam.cam(p, x, k=11), r"k is 11; it must be 1 \.\.\. 10"),
        (lambda p, x: cam.cam(p, []), "There are no images"),
        (
            lambda p, x: cam.grad_cam(p, x, "5c"),
            r"googlenet_cifar has no endpoint '5c'\. Nearest: .*5b.*All: conv1, 3a",
        ),
        (lambda p, x: cam.occlusion(p, x, window=17), r"window is 17; it must be 1 \.\.\. 16 pixels"),
    ],
)
def test_what_is_refused(small, call, message):
    with pytest.raises(UserError, match=message):
        call(small, _pictures(2))


@pytest.mark.parametrize("name", ["googlenet_gap", "inception_v3_fid", "inception_resnet_v1"])
def test_the_last_map_is_what_is_averaged(name):
    model = zoo.create_model(name)
    last = subnetworks.averaged_endpoint(model)
    rest = list(model.table)[list(model.table).index(last) + 1 :]
    assert rest == (["pool3"] if name == "inception_v3_fid" else [])


@pytest.mark.parametrize(
    ("name", "endpoint"), [("googlenet_gap", "norm2"), ("inception_v3_fid", "Mixed_7c"), ("xception", "block3")]
)
def test_networks_can_be_split(name, endpoint):
    """By shapes: the first part ends, and the second begins, with the map of the whole."""
    model = zoo.create_model(name, 5, width=0.1, aux=False)
    images = jax.ShapeDtypeStruct((1, 96, 96, 3), np.float32)
    variables = fixtures.shapes(model, 96)
    maps = jax.eval_shape(functools.partial(subnetworks.to_endpoint, model, endpoint), variables, images)
    logits = jax.eval_shape(functools.partial(subnetworks.from_endpoint, model, endpoint), variables, maps)
    assert (maps.shape[-1], logits.shape) == ({end.name: end.channels for end in trace(model.table)}[endpoint], (1, 5))


@pytest.mark.parametrize("endpoint", ["4e", "5b"])
def test_the_parts_compose_to_the_whole_bit_for_bit(small, endpoint):
    variables = {"params": small.params}
    images = np.asarray(fixtures.image(16, "float32"))
    run = jax.jit
    whole = run(small.model.apply)(variables, images)
    maps = run(functools.partial(subnetworks.to_endpoint, small.model, endpoint))(variables, images)
    np.testing.assert_array_equal(maps, whole.endpoints[endpoint])
    logits = run(functools.partial(subnetworks.from_endpoint, small.model, endpoint))(variables, maps)
    np.testing.assert_array_equal(logits, whole.logits)


def test_googlenet_gap_is_googlenet_up_to_4e_and_one_convolution():
    gap, whole = zoo.MODELS["googlenet_gap"], zoo.MODELS["googlenet"]
    upto_4e = list(whole.table)[: list(whole.table).index("4e") + 1]
    assert list(gap.table) == [*upto_4e, "CAM_conv"]
    assert all(gap.table[row] == whole.table[row] for row in upto_4e)
    assert gap.table["CAM_conv"] == spec.Conv(1024, (3, 3))
