"""Weights of RGB images for images of other channels; tests/parity/test_channels.py compares with timm."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from flax import traverse_util

from inception_jax.errors import UserError
from inception_jax.models import inputs, spec, zoo
from inception_jax.weights import adapt, compare, export, load
from inception_jax.weights.channels import with_channels
from inception_jax.weights.convert import convert
from inception_jax.weights.preprocessing import parse
from tests.weights import synthetic
from tests.weights.test_files import tiny

KERNEL = "params/conv1/conv/kernel"


@functools.cache
def _without_heads(name="googlenet_cifar"):
    return adapt(tiny(name), aux=False)


def _first_row(weights, channels, images):
    """Returns the activations after the first row, for images that are normalised as the weights say."""
    model = weights.create_model(aux=False)
    name = next(iter(model.table))
    half = model.clone(table={name: model.table[name]}, num_classes=0)
    assert half.channels == channels
    normalised = inputs.normalise(images, weights.info.preprocess)
    return half.apply(weights.variables, normalised).endpoints[name]


def test_the_rule():
    source = _without_heads()
    kernel = source.flat()[KERNEL]
    red, green, blue = np.moveaxis(kernel, 2, 0)
    grey, two, four, six = (with_channels(source, n) for n in (1, 2, 4, 6))
    np.testing.assert_array_equal(grey.flat()[KERNEL], kernel.sum(2, keepdims=True))
    np.testing.assert_allclose(np.moveaxis(two.flat()[KERNEL], 2, 0), np.stack([red, green]) * 1.5, rtol=1e-6)
    np.testing.assert_allclose(np.moveaxis(four.flat()[KERNEL], 2, 0), np.stack([red, green, blue, red]) * 0.75)
    np.testing.assert_array_equal(six.flat()[KERNEL], np.concatenate([kernel, kernel], 2) / 2)
    for each, count in ((grey, 1), (two, 2), (four, 4), (six, 6)):
        assert (each.info.in_channels, each.create_model().channels) == (count, count)
        assert all(np.array_equal(each.flat()[name], array) for name, array in source.flat().items() if name != KERNEL)
    mean = inputs.CIFAR.mean
    assert grey.info.preprocess.mean == (pytest.approx(sum(mean) / 3),)
    assert four.info.preprocess.mean == (*mean, mean[0])
    assert six.info.preprocess.std == inputs.CIFAR.std * 2
    assert "1 channel, the first kernel is summed over R, G and B, and mean and std are averaged" in str(grey.report)
    assert "4 channels, the first kernel is repeated (R, G, B, R) and multiplied by 3/4, and mean" in str(four.report)
    assert with_channels(source, None) is with_channels(source, 3) is source


@pytest.mark.parametrize("channels", [1, 2, 4, 6])
def test_a_separable_stem(channels):
    """What it computes is the sum of a convolution of each channel: that of colour i is seen where others are black."""
    source = _without_heads("inception_v2")
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype(np.uint8)
    shape = zoo.create_model("inception_v2", in_channels=channels).table["Conv2d_1a_7x7"]
    assert shape.multiplier == (24 if channels == 1 else 8)
    given = images[..., :1] if channels == 1 else images[..., np.arange(channels) % 3]
    adapted = with_channels(source, channels)
    # The colours that the channels stand for, weighted as often as they are there; the stem has a bias and a ReLU.
    flat = dict(source.flat())
    weight = np.bincount(np.arange(channels) % 3, minlength=3) * 3 / channels if channels > 1 else np.ones(3)
    name = "params/Conv2d_1a_7x7/pointwise/kernel"
    flat[name] = flat[name] * np.repeat(weight, 8).reshape(1, 1, 24, 1).astype(np.float32)
    tree = traverse_util.unflatten_dict({tuple(path.split("/")): array for path, array in flat.items()})
    weighted = dataclasses.replace(source, variables=tree)
    as_rgb = np.repeat(given, 3, -1) if channels == 1 else images
    expected = _first_row(weighted, 3, as_rgb)
    np.testing.assert_allclose(_first_row(adapted, channels, given), expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", ["googlenet_cifar", "inception_v2"])
@pytest.mark.parametrize("channels", [1, 6])
def test_grey_images_have_the_outputs_that_they_had(name, channels):
    source = _without_heads(name)
    equal = dataclasses.replace(source.info.preprocess, mean=(120.0,) * 3, std=(60.0,) * 3)
    source = dataclasses.replace(source, info=dataclasses.replace(source.info, preprocess=equal))
    grey = np.random.default_rng(0).integers(0, 256, (2, 71, 71, 1)).astype(np.uint8)
    expected = _first_row(source, 3, np.repeat(grey, 3, -1))
    found = _first_row(with_channels(source, channels), channels, np.repeat(grey, channels, -1))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_what_is_refused():
    source = _without_heads()
    for count in (0, -1, 257):
        with pytest.raises(UserError, match=rf"in_channels is {count}; it must be 1 \.\.\. 256"):
            adapt(source, in_channels=count)
    with pytest.raises(
        UserError, match="in_channels is 3; a test reads images of 4 channels, and only weights for RGB"
    ):
        with_channels(with_channels(source, 4), 3)
    for wrong in (0, 1.5, "gray"):
        with pytest.raises(ValueError, match="in_channels is "):
            zoo.create_model("googlenet_cifar", in_channels=wrong)


def test_bgr_is_flipped_before():
    its = synthetic.lineage("caffe", "googlenet")
    tensors = synthetic.tensors(its, 5)
    adapted = with_channels(convert(tensors, its), 4).flat()["params/conv1/conv/kernel"]
    blue, green, red = np.moveaxis(tensors["conv1/7x7_s2/0"].transpose(2, 3, 1, 0), 2, 0)
    np.testing.assert_allclose(np.moveaxis(adapted, 2, 0), np.stack([red, green, blue, red]) * 0.75, rtol=1e-6)


@pytest.mark.parametrize(
    ("origin", "model"), [("torchvision", "googlenet_torchvision"), ("slim", "inception_v2"), ("caffe", "googlenet")]
)
@pytest.mark.parametrize("channels", [1, 4])
def test_files_of_other_channels(origin, model, channels):
    """Such as timm writes them after training with in_chans=1."""
    its = synthetic.lineage(origin, model)
    made = synthetic.model_of(its, 5, aux=False)
    made = made.clone(table=spec.for_channels(made.table, channels), channels=channels)
    rng = np.random.default_rng(0)
    tensors = {slot.name: np.abs(rng.standard_normal(slot.their_shape, np.float32)) for slot in its.slots(made)}
    weights = convert(tensors, its)
    assert (weights.info.in_channels, weights.create_model().channels) == (channels, channels)
    assert f"its images have {channels} channels" in str(weights.report)
    assert ("BGR" in str(weights.report)) is False
    back = export(weights, origin)
    assert all(np.array_equal(back[name], tensor) for name, tensor in tensors.items())


def test_preprocessing_of_other_channels():
    four = inputs.IMAGENET.with_channels(4)
    assert parse("mean=0.1,0.2,0.3,0.4;std=0.5", four).mean == (25.5, 51.0, 76.5, 102.0)
    assert parse("mean=0.1,0.2,0.3,0.4;std=0.5", four).std == (127.5,) * 4
    assert parse("inception", four).mean == (127.5,) * 4
    assert parse("mean=0.5", inputs.IMAGENET.with_channels(1)).mean == (127.5,)
    with pytest.raises(UserError, match="allowed: one or 4 numbers"):
        parse("mean=0.1,0.2,0.3", four)
    with pytest.raises(UserError, match="allowed: one number"):
        parse("mean=0.1,0.2,0.3", inputs.IMAGENET.with_channels(1))
    parse("mean=0.1,0.2,0.3,0.4", None)  # only the syntax
    with pytest.raises(UserError, match="states 'mean=x'"):
        parse("mean=x", None)


def test_comparison_and_loading(tmp_path):
    grey = load(_without_heads(), in_channels=1)
    images = np.zeros((1, 32, 32, 1), np.float32)
    logits = jax.jit(grey.create_model().apply)(grey.variables, images).logits
    np.savez(tmp_path / "dump.npz", images=images, logits=logits)
    assert [each.endpoint for each in compare(grey, tmp_path / "dump.npz")] == ["logits"]
    with pytest.raises(UserError, match=r"must be floats \[B, H, W, 3\]"):
        compare(_without_heads(), tmp_path / "dump.npz")
