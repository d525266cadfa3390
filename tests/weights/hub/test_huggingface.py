"""Files of a hub on the loopback interface, asked by the hub's own client."""

import hashlib
import json
import shutil

import pytest

from inception_jax.errors import UserError
from inception_jax.weights.hub import huggingface
from inception_jax.weights.hub.huggingface import HubFile, Missing, get

WEIGHTS = hashlib.shake_128(b"hub").digest(40_000)
SHA256 = hashlib.sha256(WEIGHTS).hexdigest()
WANTED = HubFile("me/net", "model.safetensors")


@pytest.fixture
def repository(hub):
    return hub.add("me/net", {"model.safetensors": WEIGHTS, "config.json": b"{}"}, license="mit")


@pytest.fixture
def target(tmp_path):
    return tmp_path / "net" / "model.safetensors"


def downloads(hub):
    return [path for method, path, _ in hub.requests if method == "GET" and "/resolve/" in path]


def refused(*arguments):
    with pytest.raises(UserError) as info:
        get(*arguments)
    assert "\n" not in str(info.value)
    return str(info.value)


def test_a_large_file_is_compared_with_the_sha256_of_the_hub(hub, repository, target, capsys):
    got = get(WANTED, target)
    assert (got.path, got.sha256, got.commit, got.note) == (target, SHA256, repository.commit, "")
    assert target.read_bytes() == WEIGHTS
    first = capsys.readouterr().err.splitlines()[0]
    assert first == "hf-hub:me/net@main/model.safetensors: model.safetensors, 0.0 MB, licence: mit"
    assert get(WANTED, target).sha256 == SHA256
    assert len(downloads(hub)) == 1


def test_the_current_version_is_downloaded(hub, repository, target):
    get(WANTED, target)
    new = WEIGHTS[::-1]
    repository.files["model.safetensors"].content = new
    assert get(WANTED, target).sha256 == hashlib.sha256(new).hexdigest()
    assert target.read_bytes() == new


def test_without_refresh_the_hub_is_not_asked(hub, repository, target):
    get(WANTED, target)
    before = len(hub.requests)
    assert get(WANTED, target, refresh=False).sha256 == SHA256
    assert len(hub.requests) == before
    target.write_bytes(b"damaged")
    assert get(WANTED, target, refresh=False).sha256 == SHA256
    assert target.read_bytes() == WEIGHTS


def test_small_files_have_no_sha256(hub, repository, target):
    got = get(WANTED._replace(file="config.json"), target.with_name("config.json"))
    assert (got.path.read_bytes(), got.sha256) == (b"{}", "")


def test_a_hub_that_gives_other_bytes_than_it_states(hub, repository, target):
    repository.files["model.safetensors"].headers = {"X-Linked-Etag": f'"{"0" * 64}"'}
    words = refused(WANTED, target)
    assert f"gives another file: its sha256 is {SHA256}, not {'0' * 64}" in words


def test_a_download_from_a_hub_is_continued(hub, repository, target):
    repository.files["model.safetensors"].cuts = [15_000]
    get(WANTED, target)
    assert hub.asked("Range") == ["bytes=15000-"]


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (HubFile("me/none", "a"), "there is no such repository, or it is private and HF_TOKEN does not open it."),
        (HubFile("me/net", "a", "v9"), "the repository has no such revision."),
        (HubFile("me/net", "a"), "the repository has no such file."),
        (HubFile("me/n e t", "a"), "Repo id must use alphanumeric chars"),
    ],
)
def test_what_is_not_there(hub, repository, target, wanted, words):
    assert f"{wanted.title}: {words}" in refused(wanted, target)


def test_a_missing_file_is_told_from_other_errors(hub, repository, target):
    with pytest.raises(Missing):
        get(WANTED._replace(file="none"), target)


def test_private_and_gated_repositories(hub, repository, target, monkeypatch):
    repository.private = True
    get(WANTED, target)  # with the token
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    other = target.with_name("other.safetensors")
    assert "or it is private and HF_TOKEN does not open it" in refused(WANTED, other)
    repository.private, repository.gated = False, True
    assert "its terms must be accepted on the page of the repository" in refused(WANTED, other)


def test_without_a_network(hub, repository, target, monkeypatch):
    url = f"{hub.url}/me/net/resolve/main/model.safetensors"
    by_hand = f"Download model.safetensors from {url} and put it at {target}."
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert refused(WANTED, target) == f"{WANTED.title} cannot be downloaded: HF_HUB_OFFLINE is set. {by_hand}"
    monkeypatch.delenv("HF_HUB_OFFLINE")
    get(WANTED, target)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    got = get(WANTED, target)
    assert (got.sha256, got.note) == (SHA256, f"{WANTED.title} was not compared with the hub: HF_HUB_OFFLINE is set")
    target.write_bytes(b"damaged")
    assert refused(WANTED, target).startswith(f"{target} is damaged, and {WANTED.title} cannot be downloaded: HF_HUB_")


def test_a_hub_that_cannot_be_reached(hub, repository, target, monkeypatch):
    get(WANTED, target)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert "was not compared with the hub: the hub cannot be reached: " in get(WANTED, target).note
    assert "the hub cannot be reached: " in refused(WANTED, target.with_name("other"))


def test_a_site_that_is_no_hub(site, hub, target, monkeypatch):
    """A proxy that asks for a password answers every address with its page, and HTTP 200."""
    from tests.weights.hub.servers import File

    site.files["/me/net/resolve/main/model.safetensors"] = File(b"<html>", kind="text/html", tag="")
    monkeypatch.setenv("HF_ENDPOINT", site.url)
    assert f"{site.url} answers, but not as a hub does: a proxy, or a wrong HF_ENDPOINT. Download" in refused(
        WANTED, target
    )


def test_a_hub_that_is_broken(hub, repository, target):
    hub.find = lambda path: (500, {"error": "out of order"}, {})
    assert "the hub answers HTTP 500: " in refused(WANTED, target)


def test_the_cache_of_the_client_serves(hub, repository, target, monkeypatch):
    """It is timm's client, too: what it has is neither downloaded again nor copied."""
    import huggingface_hub

    path = huggingface_hub.hf_hub_download("me/net", "model.safetensors", endpoint=hub.url)
    before = len(downloads(hub))
    got = get(WANTED, target)
    assert (str(got.path), got.sha256) == (path, SHA256)
    assert len(downloads(hub)) == before
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert str(get(WANTED, target).path) == path
    blob = got.path.resolve()
    shutil.copy(blob, blob.with_suffix(".copy"))
    blob.unlink()
    blob.write_bytes(b"damaged")
    assert "cannot be downloaded: HF_HUB_OFFLINE is set" in refused(WANTED, target)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    assert get(WANTED, target).path == target
    assert target.read_bytes() == WEIGHTS


def test_addresses_of_cards():
    url = "https://huggingface.co/timm/inception_v3.tv_in1k/resolve/main/model.safetensors"
    assert huggingface.parse_card_url(url) == HubFile("timm/inception_v3.tv_in1k", "model.safetensors", "main")
    assert huggingface.parse_card_url("https://example.org/model.safetensors") is None


def test_a_file_that_someone_put_there(hub, repository, target):
    target.parent.mkdir()
    target.write_bytes(b"mine")
    got = get(WANTED, target)
    assert (got.sha256, got.note) == ("", f"{target} was put there, not downloaded")
    assert target.read_bytes() == b"mine"


def test_records_are_plain(hub, repository, target):
    get(WANTED, target)
    record = json.loads(target.with_name(".model.safetensors.record").read_text())
    assert record["url"] == f"{hub.url}/me/net/resolve/{repository.commit}/model.safetensors"
    assert record["sha256"] == record["version"] == SHA256
    assert "hf_test" not in json.dumps(record)
