"""The zoo: names, cards and refusals."""

import pytest

from inception_jax.models import zoo
from tests.models.golden_rows import GOLDEN

NAMES = list(GOLDEN)


@pytest.mark.parametrize("name", NAMES)
def test_cards_say_what_the_input_is(name):
    card = zoo.model_card(name)
    assert card.name == name
    assert card.summary
    assert len(card.preprocess.mean) == len(card.preprocess.std) == 3
    assert all(0 <= value <= 255 for value in card.preprocess.mean)
    assert all(value > 0 for value in card.preprocess.std)


@pytest.mark.parametrize("name", NAMES)
def test_weights_of_auxiliary_losses(name):
    """0.3 in 1409.4842, section 5; TF-slim trains the heads of the later networks with 0.4."""
    card = zoo.model_card(name)
    assert {head.weight for head in card.aux_heads.values()} <= {
        0.3 if card.paper in ("1409.4842", "1512.04150") else 0.4
    }


def test_evaluation_geometry():
    assert zoo.model_card("googlenet_torchvision").preprocess.resize == 256
    assert zoo.model_card("inception_v3").preprocess.resize == 342
    assert zoo.model_card("inception_v4").preprocess.resize == 341  # timm rounds 341.7 down
    assert zoo.model_card("inception_resnet_v2").preprocess.resize == 333
    boxes = {name: card.preprocess for name, card in zoo.MODELS.items() if card.preprocess.geometry == "central_box"}
    assert {name: preprocess.crop_fraction for name, preprocess in boxes.items()} == {
        **dict.fromkeys(["inception_v1_slim", "inception_v2", "inception_v3_tf"], 0.875),
        "inception_v3_fid": 1.0,
    }


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("googlnet", "googlenet,"),
        ("googlenet_tv", "googlenet"),
        ("GoogLeNet_BN", "googlenet"),
        ("inceptionv3", "inception_v3,"),
        ("inception_resnet", "inception_resnet_v"),
        ("legacy_xception", "xception"),
    ],
)
def test_unknown_names_are_answered_with_the_nearest(name, nearest):
    with pytest.raises(ValueError, match=rf"No model is called '{name}'\. Nearest: .*{nearest}"):
        zoo.create_model(name)


def test_a_name_like_no_other_is_answered_with_all():
    with pytest.raises(ValueError, match=rf"No model is called 'zzz'\. Models: {', '.join(NAMES)}\."):
        zoo.create_model("zzz")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": -1}, "num_classes is -1; it must be at least 0"),
        ({"width": 0}, "width is 0; it must be above 0"),
        ({"width": -0.5}, "width is -0.5"),
        ({"width": float("nan")}, "width is nan"),
        ({"dropout": 1.0}, "dropout is 1.0; it must be at least 0 and below 1"),
        ({"dropout": -0.1}, "dropout is -0.1"),
        ({"bn_group_size": 0}, "bn_group_size is 0; it must be at least 1"),
    ],
)
def test_values_out_of_range_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        zoo.create_model("googlenet", **arguments)
