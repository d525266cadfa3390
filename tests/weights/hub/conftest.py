"""Servers, an empty cache, and quick attempts, for the tests of downloads."""

import pytest

from inception_jax.weights import places
from inception_jax.weights.hub import transfer
from tests.weights.hub.servers import Site, asked_hub, serving


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Shortens the pauses, and removes settings of the machine."""
    monkeypatch.setattr(transfer, "PAUSE", 0.0)
    for name in ("HF_HUB_OFFLINE", "HF_ENDPOINT", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder of published files, empty."""
    monkeypatch.setenv(places.FOLDER_VARIABLE, str(tmp_path / "weights"))
    return tmp_path / "weights"


@pytest.fixture
def site():
    with serving(Site()) as site:
        yield site


@pytest.fixture
def hub(monkeypatch, tmp_path, folder):
    """A hub that its client asks in place of huggingface.co."""
    with asked_hub(monkeypatch, tmp_path) as hub:
        yield hub
