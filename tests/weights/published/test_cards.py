"""The cards of published weights: complete, consistent with the zoo, and read without a network."""

import dataclasses
import json
import re
import subprocess
import sys

import pytest

from inception_jax.models import inputs, zoo
from inception_jax.weights.published import cards
from inception_jax.weights.published.card import WeightCard

CARDS = list(cards.CARDS.values())
DIGITS = {"md5": 32, "sha1": 40, "sha256": 64, "sha384": 96}

each_card = pytest.mark.parametrize("card", CARDS, ids=lambda card: card.id)


def test_every_publisher_is_there():
    counts = {"torchvision": 3, "timm": 8, "cadene": 3, "pytorch_fid": 1, "facenet_pytorch": 2}
    counts |= {"keras": 4, "keras1": 2, "slim": 10, "caffe": 1}
    assert {lineage: sum(card.lineage == lineage for card in CARDS) for lineage in counts} == counts
    assert len(CARDS) == sum(counts.values())


def test_no_set_is_published_twice():
    for field in ("id", "url"):
        assert len({getattr(card, field) for card in CARDS}) == len(CARDS)
    hashes = [digest for card in CARDS for digest in card.hashes]
    assert len(set(hashes)) == len(hashes)


@each_card
def test_a_model_of_the_zoo_reads_the_input(card):
    assert card.id.split("/")[0] == {"keras1": "keras"}.get(card.lineage, card.lineage)
    assert card.preprocess.size >= zoo.create_model(card.model).minimum_input(train=False)
    assert json.loads(json.dumps(dataclasses.asdict(card.preprocess)))["geometry"] == card.preprocess.geometry


@each_card
def test_file_address_and_hashes_belong_together(card):
    assert re.fullmatch(r"https?://[\w.-]+/\S+", card.url)
    assert card.url.endswith(f"/{card.file}")
    for digest in card.hashes:
        algorithm, digits = digest.split(":")
        assert re.fullmatch(r"[0-9a-f]+", digits)
        if len(digits) < DIGITS[algorithm]:
            assert algorithm == "sha256"
            assert len(digits) >= 8
            assert f"-{digits}." in card.file
    assert card.size is None or card.size > 10**7
    assert card.megabytes is None or card.megabytes > 10


@each_card
def test_outputs_and_the_place_of_the_first_class_agree(card):
    assert card.outputs in (None, 1000, 1001, 1008, 8631, 10575)
    assert card.label_offset == (1 if card.outputs == 1001 else 0)
    assert (card.outputs == 1008) == (card.model == "inception_v3_fid") == ("449" in card.notes)


@each_card
def test_accuracies_are_in_range_and_have_an_origin(card):
    assert (card.top1 is None) == (card.top5 is None)
    if card.top1 is not None:
        assert 65 < card.top1 < card.top5 < 97
        assert card.origin
        assert card.outputs is not None


def test_the_order_of_channels_and_the_means_of_caffe():
    assert {card.id: card.preprocess.mean for card in CARDS if card.channels == "BGR"} == {
        "caffe/bvlc_googlenet": (123.0, 117.0, 104.0),
        "cadene/bn_inception": (128.0, 117.0, 104.0),
    }


def test_the_geometry_of_each_publisher():
    def cut(card: WeightCard) -> tuple[str, float | int]:
        made = card.preprocess
        return made.geometry, made.crop_fraction if made.geometry == "central_box" else made.resize

    found = {
        lineage: {cut(card) for card in CARDS if card.lineage == lineage} for lineage in {c.lineage for c in CARDS}
    }
    assert found == {
        "torchvision": {("short_side", 256), ("short_side", 342)},
        "timm": {("short_side", 341), ("short_side", 333)},
        "cadene": {("short_side", 256), ("short_side", 341)},
        "keras": {("short_side", 342)},
        "keras1": {("short_side", 342)},
        "slim": {("central_box", 0.875)},
        "caffe": {("central_box", 0.875)},
        "pytorch_fid": {("central_box", 1.0)},
        "facenet_pytorch": {("short_side", 160)},
    }


def test_the_input_transform_of_torchvision_is_folded_into_the_constants():
    """Its weights expect x * (std / 0.5) + (mean - 0.5) / 0.5 of the ImageNet-normalised x of a pixel share."""
    ours = cards.weight_card("torchvision/inception_v3").preprocess
    for pixel in (0, 100, 255):
        for channel in range(3):
            mean, std = inputs.IMAGENET.mean[channel] / 255, inputs.IMAGENET.std[channel] / 255
            theirs = (pixel / 255 - mean) / std * (std / 0.5) + (mean - 0.5) / 0.5
            assert (pixel - ours.mean[channel]) / ours.std[channel] == pytest.approx(theirs, abs=1e-12)


def test_cards_by_model():
    assert cards.list_cards() == CARDS
    assert [card.id for card in cards.list_cards("bn_inception")] == ["cadene/bn_inception"]
    assert cards.list_cards("googlenet_naive") == []
    with pytest.raises(ValueError, match=r"No model is called 'vgg'\."):
        cards.list_cards("vgg")


@pytest.mark.parametrize(
    ("id", "nearest"),
    [
        ("torchvision/googlnet", " Nearest: torchvision/googlenet,"),
        ("timm/inception_v4", " Nearest: timm/inception_v4.tf_in1k."),
        ("bvlc_googlenet", " Nearest: caffe/bvlc_googlenet."),
        ("zzz", " `inception-jax weights` lists all."),
    ],
)
def test_unknown_ids_are_answered_with_the_nearest(id, nearest):
    with pytest.raises(ValueError, match=re.escape(f"No published weights are called {id!r}.{nearest}")):
        cards.weight_card(id)


WITHOUT_SOCKETS = """
import sys
def refuse(event, arguments):
    if event.startswith("socket."):
        raise PermissionError(event)
sys.addaudithook(refuse)
"""


def test_importing_and_creating_models_touches_no_network():
    code = (
        "import inception_jax\n"
        "from inception_jax.describe import models_page\n"
        "from inception_jax.weights.published import cards\n"
        "models = [inception_jax.create_model(name) for name in inception_jax.list_models()]\n"
        "print(len(models), len(cards.list_cards()))"
    )
    done = subprocess.run([sys.executable, "-c", WITHOUT_SOCKETS + code], capture_output=True, text=True)
    assert done.stdout == f"{len(zoo.MODELS)} {len(CARDS)}\n", done.stderr


def test_the_check_for_a_touched_network_can_fail():
    code = "import urllib.request; urllib.request.urlopen('http://localhost:9')"
    done = subprocess.run([sys.executable, "-c", WITHOUT_SOCKETS + code], capture_output=True, text=True)
    assert "PermissionError: socket." in done.stderr
