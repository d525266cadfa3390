"""What a config.json in timm's layout says, and what of it is refused."""

import json

import pytest

from inception_jax.errors import UserError
from inception_jax.models import inputs
from inception_jax.weights.hub.repo_config import parse

# As timm 1.0.31 writes it for inception_v3.tv_in1k.
TIMM = {
    "architecture": "inception_v3",
    "num_classes": 1000,
    "num_features": 2048,
    "pretrained_cfg": {
        "tag": "tv_in1k",
        "custom_load": False,
        "input_size": [3, 299, 299],
        "fixed_input_size": False,
        "interpolation": "bicubic",
        "crop_pct": 0.875,
        "crop_mode": "center",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "num_classes": 1000,
        "pool_size": [8, 8],
        "first_conv": "Conv2d_1a_3x3.conv",
        "classifier": "fc",
        "license": "apache-2.0",
    },
}


def config(**changes):
    return {**TIMM, **changes}


def stated(**changes):
    return config(pretrained_cfg={**TIMM["pretrained_cfg"], **changes})


def read(values, *more):
    return parse(json.dumps(values).encode(), "hf-hub:a/b", *more)


def test_the_preprocessing_is_that_of_the_card():
    """Also of timm's wider crop, which both round down."""
    card, names = read(TIMM, ("sha256:00",))
    assert card.preprocess == inputs.TIMM_299
    assert (card.model, card.lineage, card.outputs, names) == ("inception_v3", "timm", 1000, ())
    assert (card.id, card.hashes, card.licence) == ("hf-hub:a/b", ("sha256:00",), "apache-2.0")
    wide = read(stated(crop_pct=0.8975) | {"architecture": "legacy_xception"}).card
    assert (wide.preprocess, wide.model) == (inputs.TIMM_299_WIDE, "xception_timm")
    imagenet = read(stated(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])).card.preprocess
    assert (imagenet.mean, imagenet.std) == (inputs.IMAGENET.mean, inputs.IMAGENET.std)


def test_other_geometries_and_channels():
    assert read(stated(crop_mode="squash", crop_pct=1.0)).card.preprocess.geometry == "central_box"
    grey = read(stated(mean=[0.5], std=[0.25]) | {"model_args": {"in_chans": 1}}).card.preprocess
    assert (grey.mean, grey.std) == ((127.5,), (63.75,))
    assert read(stated(input_size=[3, 224, 224])).card.preprocess.size == 224


def test_missing_values_are_those_of_timm():
    preprocess = read({"architecture": "inception_v4"}).card.preprocess
    assert (preprocess.size, preprocess.interpolation, preprocess.crop_fraction) == (224, "bicubic", 0.875)
    assert preprocess.mean == inputs.IMAGENET.mean


def test_class_names():
    two = config(num_classes=2, label_names=["n1", "n2"])
    assert read(two).class_names == ("n1", "n2")
    assert read({**two, "label_descriptions": {"n1": "cat", "n2": "dog"}}).class_names == ("cat", "dog")
    assert read(config(num_classes=2, label_names={"0": "a", "1": "b"})).class_names == ("a", "b")
    assert read(config(num_classes=0, label_names=["a"])).class_names == ()
    assert read(config(num_classes=0)).card.outputs is None


def test_the_layout_of_earlier_versions_is_flat():
    card = read({"architecture": "inception_v3", "num_classes": 7, "input_size": [3, 299, 299], "mean": [0.5] * 3}).card
    assert (card.outputs, card.preprocess.size, card.preprocess.mean[0]) == (7, 299, 127.5)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([], "config.json does not say what network it is of: it has no `architecture`."),
        ({"architecture": "inception_v5"}, "the network 'inception_v5' cannot be loaded. Nearest: inception_v"),
        ({"architecture": "vit_base"}, "'vit_base' cannot be loaded. Of timm, these can: inception_v3, inception_v4"),
        (config(num_classes="10"), "config.json states num_classes '10'; allowed: 0 ... 1,000,000."),
        (config(num_classes=3, label_names=["a"]), "label_names '1 names'; allowed: 3 texts, one for each class."),
        (stated(input_size=[3, 299, 224]), "input_size '[3, 299, 224]'; allowed: a square of 1 ... 4096 pixels"),
        (stated(input_size="299"), "input_size '299'; allowed: [channels, height, width]."),
        (stated(crop_mode="border"), "crop_mode 'border'; allowed: center or squash."),
        (stated(interpolation="lanczos"), "interpolation 'lanczos'; allowed: bilinear or bicubic."),
        (stated(crop_pct=1.5), "crop_pct '1.5'; allowed: a number above 0 and at most 1."),
        (stated(mean=[0.5, 0.5]), "mean '[0.5, 0.5]'; allowed: 3 numbers."),
        (stated(std=[0.5, 0.5, 0.0]), "std '[0.5, 0.5, 0.0]'; allowed: 3 numbers above 0."),
        (stated(mean="grey"), "mean 'grey'; allowed: numbers."),
    ],
)
def test_what_cannot_be_represented_is_one_line(values, words):
    with pytest.raises(UserError) as info:
        read(values)
    assert words in str(info.value)
    assert str(info.value).startswith("hf-hub:a/b: ")
    assert "\n" not in str(info.value)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100_000])
def test_content_that_is_no_json(content):
    with pytest.raises(UserError, match=r"hf-hub:a/b: config.json is no JSON"):
        parse(content, "hf-hub:a/b")
