"""Names of weights: which card, repository or folder they stand for, and where its file is put."""

import dataclasses
import fnmatch
import hashlib
import json

import pytest

import inception_jax as ij
from inception_jax import weights
from inception_jax.errors import UserError
from inception_jax.weights import places
from inception_jax.weights.hub.download import Record
from inception_jax.weights.published import cards, names
from tests.weights.hub.servers import File
from tests.weights.hub.test_repo_config import TIMM
from tests.weights.test_files import tiny

CONTENT = hashlib.shake_128(b"card").digest(30_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def card(site, folder, monkeypatch):
    """A card whose file a site serves, by its checksum."""
    site.files["/net.pth"] = File(CONTENT)
    changes = {"url": f"{site.url}/net.pth", "mirrors": (), "hashes": (f"sha256:{SHA256[:8]}",)}
    card = dataclasses.replace(cards.weight_card("torchvision/googlenet"), **changes)
    monkeypatch.setitem(cards.CARDS, card.id, card)
    return card


@pytest.fixture
def on_hub(hub, monkeypatch):
    """The repository of a card of timm, on the hub of the tests."""
    return hub.add(
        "timm/inception_v3.tv_in1k", {"model.safetensors": CONTENT, "config.json": json.dumps(TIMM).encode()}
    )


# Names.


def test_every_card_has_a_name_and_every_network_with_cards_a_default():
    assert sorted(names.NAMES.values()) == sorted(cards.CARDS)
    for name, id in names.NAMES.items():
        model, _, tag = name.partition(".")
        assert tag, name
        assert names.find_card(model).model == cards.CARDS[id].model, name
        assert names.find_card(name) is names.find_card(id) is cards.CARDS[id]
    for model in {card.model for card in cards.CARDS.values()}:
        assert names.find_card(model).model == model


def test_names_of_timm_are_its_own():
    of_timm = {id.removeprefix("timm/"): id for id in cards.CARDS if id.startswith("timm/")}
    assert {name: id for name, id in names.NAMES.items() if id.startswith("timm/")} == of_timm
    assert names.find_card("inception_v3").id == "timm/inception_v3.tv_in1k"  # timm's default
    assert names.find_card("tf_inception_v3").id == "timm/inception_v3.tf_in1k"
    assert names.find_card("nothing") is None


def test_lists_of_models():
    assert ij.list_models() == list(ij.MODELS)
    assert ij.list_models("inception_v[34]") == ["inception_v3", "inception_v4"]
    assert ij.list_models(["xception*", "googlenet"]) == ["googlenet", "xception", "xception_timm"]
    assert ij.list_models("inception*", exclude_filters="*resnet*") == fnmatch.filter(ij.MODELS, "inception_v*")
    assert ij.list_models(pretrained=True) == list(names.NAMES)
    found = ij.list_models("inception_v3", pretrained=True)  # a pattern without a tag is for any tag
    assert found[0] == "inception_v3.tv_in1k"
    assert all(name.startswith("inception_v3.") for name in found)
    assert ij.list_models("*.tf_in1k", pretrained=True)[0] == "inception_v3.tf_in1k"
    assert ij.list_models("vgg*") == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("googlenet_bn", "No weights of googlenet_bn are published. Models with published weights: googlenet, "),
        ("inception_v3.tv_in1", "called 'inception_v3.tv_in1'. Nearest: inception_v3.tv_in1k. `inception-jax weights`"),
        ("inception_v3.tf", "Nearest: inception_v3.tf_in1k, inception_v3.tf_adv_in1k"),
        ("timm/inception_v3", "Nearest: timm/inception_v3.tv_in1k, "),
        ("zzz", "No published weights are called 'zzz'. `inception-jax weights` lists all."),
    ],
)
def test_names_without_weights(name, words):
    with pytest.raises(UserError) as info:
        ij.create_model(name, pretrained=True)
    assert words in str(info.value)
    assert "\n" not in str(info.value)


def test_a_network_without_weights_is_not_taken_for_a_file():
    with pytest.raises(UserError, match="No weights of googlenet_bn are published"):
        ij.load("googlenet_bn")


# Cards.


def test_the_file_of_a_card_is_downloaded_to_its_folder(card, folder):
    found = places.find(card.id)
    assert (found.path, found.card, found.note) == (folder / card.id / "net.pth", card, "")
    assert found.path.read_bytes() == CONTENT
    assert places.find("googlenet_torchvision").path == found.path  # the default of the network


def test_a_card_without_checksum_says_whence_its_file_is(card, folder, monkeypatch):
    monkeypatch.setitem(cards.CARDS, card.id, dataclasses.replace(card, hashes=()))
    found = places.find(card.id)
    record = Record.read(found.path)
    assert found.note == (f"no checksum is published; downloaded from {card.url} at {record.fetched}, sha256 {SHA256}")
    record_file = found.path.with_name(".net.pth.record")
    record_file.unlink()
    assert places.find(card.id).note == ""  # now it is a file that someone put there


def test_every_card_is_downloaded_or_says_why_not(folder, monkeypatch):
    """Without a network: each names its file, its address and its place, in one line."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for card in cards.CARDS.values():
        with pytest.raises(UserError) as info:
            places.fetch_card(card)
        words = str(info.value)
        assert "\n" not in words
        assert f"Download {card.file}" in words
        assert f"and put it at {folder / card.id / card.file}." in words
        assert words.endswith("takes --unverified.") == (not card.hashes)
        assert any(url in words for url in card.urls)


def test_addresses_with_encryption_are_first():
    for card in cards.CARDS.values():
        encrypted = [url.startswith("https:") for url in card.urls]
        assert encrypted == sorted(encrypted, reverse=True)
        assert set(card.urls) == {card.url, *card.mirrors}
        assert all(url.endswith(f"/{card.file}") for url in card.urls)
    assert cards.weight_card("slim/inception_v3").urls[0].startswith("https://storage.googleapis.com/")
    assert cards.weight_card("keras/xception").urls[0] == cards.weight_card("keras/xception").url


def test_a_card_on_the_hub(on_hub, hub, folder, monkeypatch):
    found = places.find("inception_v3.tv_in1k")
    assert found.path == folder / "timm/inception_v3.tv_in1k/model.safetensors"
    assert found.card.hashes == (f"sha256:{SHA256}",)
    before = len(hub.requests)
    assert places.find("inception_v3.tv_in1k").card == found.card
    assert len(hub.requests) == before  # a published set does not change


def test_a_file_of_the_hub_that_someone_put_there(folder, monkeypatch):
    path = folder / "timm/inception_v3.tv_in1k/model.safetensors"
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    found = places.find("inception_v3.tv_in1k")
    assert (found.path, found.note, found.card.hashes) == (path, "", ())


# Repositories and folders.


def test_a_repository_in_the_layout_of_timm(on_hub, folder):
    found = places.find("hf-hub:timm/inception_v3.tv_in1k")
    assert found.path == folder / "hf-hub/timm/inception_v3.tv_in1k/main/model.safetensors"
    assert (found.card.model, found.card.hashes) == ("inception_v3", (f"sha256:{SHA256}",))
    assert found.note == f"hf-hub:timm/inception_v3.tv_in1k at commit {on_hub.commit}"
    pinned = places.find(f"hf_hub:timm/inception_v3.tv_in1k@{on_hub.commit}")
    assert pinned.path == folder / f"hf-hub/timm/inception_v3.tv_in1k/{on_hub.commit}/model.safetensors"


def test_a_repository_without_a_network(on_hub, hub, folder, monkeypatch, ours):
    """A file of ours needs no config; for another the message says where its config belongs."""
    hub.add("me/net", {"model.safetensors": (ours / "model.safetensors").read_bytes()})
    places.find("hf-hub:me/net")
    places.find("hf-hub:timm/inception_v3.tv_in1k")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "was not compared with the hub: HF_HUB_OFFLINE is set" in places.find("hf-hub:me/net").note
    found = places.find("hf-hub:timm/inception_v3.tv_in1k")
    assert found.card.hashes == (f"sha256:{SHA256}",)
    config = found.path.with_name("config.json")
    config.unlink()
    with pytest.raises(UserError, match=f"config.json cannot be downloaded: HF_HUB_OFFLINE is set.*put it at {config}"):
        places.find("hf-hub:timm/inception_v3.tv_in1k")
    with pytest.raises(UserError, match=r"model.safetensors cannot be downloaded: HF_HUB_OFFLINE is set"):
        places.find("hf-hub:me/other")


def test_a_repository_is_a_folder_too(on_hub, folder):
    places.find("hf-hub:timm/inception_v3.tv_in1k")
    found = places.find(f"local-dir:{folder}/hf-hub/timm/inception_v3.tv_in1k/main")
    assert (found.card.model, found.card.hashes, found.class_names) == ("inception_v3", (), ())
    assert found.note.endswith("main/config.json says")


def test_pickles_where_there_is_nothing_else(hub, on_hub):
    on_hub.files["pytorch_model.bin"] = on_hub.files.pop("model.safetensors")
    assert places.find("hf-hub:timm/inception_v3.tv_in1k").path.name == "pytorch_model.bin"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("hf-hub:timm", "hf-hub:timm names no repository; allowed: hf-hub:OWNER/NAME[@REVISION]."),
        ("hf-hub:timm/x/y", "hf-hub:timm/x/y names no repository"),
        ("hf-hub:timm/../x@main", "names no repository"),
        ("hf-hub:timm/x@..", "names no repository"),
        ("hf-hub:me/empty", "hf-hub:me/empty holds neither model.safetensors nor pytorch_model.bin."),
        ("hf-hub:me/bare", "hf-hub:me/bare has no config.json, which would say what network it holds."),
        ("hf-hub:me/none", "there is no such repository"),
        ("local-dir:nowhere", "local-dir:nowhere is no folder."),
        ("local-dir:.", "local-dir:. holds neither model.safetensors nor pytorch_model.bin."),
    ],
)
def test_what_holds_no_weights(hub, source, words):
    hub.add("me/empty", {"README.md": b""})
    hub.add("me/bare", {"model.safetensors": CONTENT})
    with pytest.raises(UserError) as info:
        places.find(source)
    assert words in str(info.value)
    assert "\n" not in str(info.value)


# Models with their weights.


@pytest.fixture
def ours(tmp_path):
    """A folder with a file of ours."""
    folder = tmp_path / "ours"
    folder.mkdir()
    weights.save(folder / "model.safetensors", tiny())
    return folder


def test_a_model_and_its_variables(ours):
    loaded = ij.load(f"local-dir:{ours}")
    model, variables = loaded
    assert (model, variables) == (loaded.model, loaded.variables)
    assert (model.name_in_zoo, loaded.info) == ("googlenet_cifar", tiny().info)
    assert loaded.weights.info is loaded.info
    assert loaded.report.notes == ()


def test_options_of_weights_and_of_models(ours):
    loaded = ij.load(
        ours / "model.safetensors", num_classes=3, aux=False, seed=1, dtype="bfloat16", features_only=("4e",)
    )
    assert (loaded.info.num_classes, loaded.info.aux) == (3, False)
    assert (loaded.model.features, str(loaded.model.dtype)) == (("4e",), "bfloat16")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"num_clases": 3},
            "load has no option 'num_clases'. Nearest: num_classes, in_channels, class_names. Allowed: name, ",
        ),
        ({"width": 0.5}, "load has no option 'width'"),
        ({"features_only": "9z"}, "9z"),
    ],
)
def test_options_that_are_none(ours, options, words):
    with pytest.raises(UserError, match=words):
        ij.load(ours / "model.safetensors", **options)


def test_pretrained_models(ours, monkeypatch):
    model, variables = ij.create_model(f"local-dir:{ours}", num_classes=4, aux=False, pretrained=True, dropout=0.1)
    assert (model.num_classes, model.dropout) == (4, 0.1)
    assert len(variables["params"]["classifier"]["linear"]["bias"]) == 4
    assert ij.create_model(str(ours / "model.safetensors"), pretrained=True).info.num_classes == tiny().info.num_classes


def test_models_without_weights_are_as_before(site):
    assert ij.create_model("googlenet_bn") == ij.models.zoo.create_model("googlenet_bn")
    model = ij.create_model("googlenet_bn", 7, aux=False, width=0.5)
    assert (model.num_classes, model.aux_heads) == (7, {})
    assert ij.create_model("legacy_xception.tf_in1k", 10).name_in_zoo == "xception_timm"
    with pytest.raises(ValueError, match="No model is called 'vgg'"):
        ij.create_model("vgg")
