"""Where weights are that have a name in place of a path: published sets, repositories of the hub, copies of these."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any, NamedTuple

from inception_jax.errors import UserError, printable
from inception_jax.models import zoo
from inception_jax.paths import read_bytes, user_path
from inception_jax.weights import files
from inception_jax.weights.hub import huggingface, repo_config
from inception_jax.weights.hub.download import Record, Remote, fetch
from inception_jax.weights.published.card import WeightCard
from inception_jax.weights.published.names import card_of, find_card

FOLDER_VARIABLE = "INCEPTION_JAX_WEIGHTS"
CONFIG = "config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # of a repository, the preferred first


class Found(NamedTuple):
    """A file of weights that a name stands for.

    Attributes:
      path: of the file.
      card: what the file is, by its publisher; None: the file itself says it.
      class_names: of its classes, in order; (): the publisher does not list them.
      note: whence the file is, for the report. Where it is not "", a file without published checksum is accepted.
    """

    path: Path
    card: WeightCard | None
    class_names: tuple[str, ...] = ()
    note: str = ""


def weights_folder() -> Path:
    """Returns the folder of published files: $INCEPTION_JAX_WEIGHTS, or ~/.cache/inception_jax/weights.

    The file of a card lies in a subfolder with the id of the card, those of a repository of the Hugging Face hub in
    hf-hub/OWNER/NAME/REVISION.
    """
    return user_path(os.environ.get(FOLDER_VARIABLE) or "~/.cache/inception_jax/weights")


def find(source: Any) -> Found | None:
    """Returns the file that a name stands for, downloaded if this machine does not have it; None: it is no such name.

    Args:
      source: the id or the name of published weights, such as "inception_v3.tv_in1k"; a model of the zoo, for its
        default weights; "hf-hub:OWNER/NAME" or "hf-hub:OWNER/NAME@REVISION"; "local-dir:FOLDER". Anything else is none.

    Raises:
      UserError: the file cannot be downloaded, or the repository or the folder does not say what it holds.
    """
    if not isinstance(source, str):
        return None
    scheme, _, rest = source.partition(":")
    if scheme in ("hf-hub", "hf_hub"):  # timm takes both
        return _repository(rest)
    if scheme == "local-dir":
        return _folder(user_path(rest))
    card = find_card(source)
    if card is None and source in zoo.MODELS and not Path(source).exists():
        card = card_of(source)  # raises: none is published
    return None if card is None else fetch_card(card)


def card_path(card: WeightCard) -> Path:
    """Returns where the file of a card lies, or is put."""
    return weights_folder() / card.id / card.file


def cached_path(card: WeightCard) -> Path | None:
    """Returns the file of a card on this machine, without looking whether it is damaged; None: it is not here."""
    if (path := card_path(card)).is_file():
        return path
    on_hub = huggingface.parse_card_url(card.url)
    return on_hub and huggingface.in_client_cache(on_hub)


def fetch_card(card: WeightCard) -> Found:
    """Returns the file of a card, downloaded if it is not there or is damaged.

    Raises:
      UserError: it cannot be downloaded.
    """
    try:
        return _fetched(card)
    except UserError as error:
        if card.hashes:
            raise
        raise UserError(
            f"{error} No checksum is published, so loading what you put there takes --unverified."
        ) from error


def _fetched(card: WeightCard) -> Found:
    path = card_path(card)
    on_hub = huggingface.parse_card_url(card.url)
    version = " ".join(card.hashes)
    if on_hub is None:
        remote = Remote(card.id, card.file, card.urls, card.size, card.hashes, card.licence, version)
        return Found(path, card, note=_note(card, fetch(path, lambda: remote, version)))
    if path.exists() and Record.read(path) is None:  # put there by hand
        return Found(path, card)
    got = huggingface.get(on_hub, path, card.licence, refresh=False)
    if got.sha256:
        card = dataclasses.replace(card, hashes=(f"sha256:{got.sha256}",))
    return Found(got.path, card, note=got.note)


def _note(card: WeightCard, record: Record | None) -> str:
    """Returns whence the file of a card is, if no checksum of it is published."""
    if record is None or card.hashes:
        return ""
    return f"no checksum is published; downloaded from {record.url} at {record.fetched}, sha256 {record.sha256}"


def _repository(text: str) -> Found:
    """Returns the weights in a repository of the hub, "OWNER/NAME" or "OWNER/NAME@REVISION"."""
    repo, at, revision = text.partition("@")
    parts = [*repo.split("/"), *revision.split("/")] if at else repo.split("/")
    if repo.count("/") != 1 or not all(parts) or any(part in (".", "..") for part in parts):
        raise UserError(f"hf-hub:{printable(text)} names no repository; allowed: hf-hub:OWNER/NAME[@REVISION].")
    wanted = huggingface.HubFile(repo, CONFIG, revision or "main")
    title, folder = f"hf-hub:{text}", weights_folder() / "hf-hub" / repo / wanted.revision
    config, unreachable = None, None
    try:
        config = huggingface.get(wanted, folder / CONFIG)
    except huggingface.Missing:
        pass
    except huggingface.Unreachable as error:
        unreachable = error
    pinned = wanted._replace(revision=config.commit) if config and config.commit else wanted
    for name in WEIGHTS:
        try:
            got = huggingface.get(pinned._replace(file=name), folder / name)
        except huggingface.Missing:
            continue
        if unreachable and not files.is_ours(got.path):  # which needs no config
            raise unreachable
        hashes = (f"sha256:{got.sha256}",) if got.sha256 else ()
        note = got.note or f"{title} at commit {got.commit}"
        return _described(title, got.path, config.path if config else None, hashes, note)
    raise UserError(f"{printable(title)} holds neither {' nor '.join(WEIGHTS)}.")


def _folder(folder: Path) -> Found:
    """Returns the weights in a folder that is laid out as a repository of the hub."""
    shown = printable(folder)
    if not folder.is_dir():
        raise UserError(f"local-dir:{shown} is no folder.")
    path = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if path is None:
        raise UserError(f"local-dir:{shown} holds neither {' nor '.join(WEIGHTS)}.")
    config = folder / CONFIG
    return _described(f"local-dir:{folder}", path, config if config.is_file() else None)


def _described(title: str, path: Path, config: Path | None, hashes: tuple[str, ...] = (), note: str = "") -> Found:
    """Returns the weights at `path`: a file of ours says what it is, for another the config beside it does."""
    if files.is_ours(path):
        return Found(path, None, note=note)
    if config is None:
        raise UserError(f"{printable(title)} has no {CONFIG}, which would say what network it holds.")
    card, class_names = repo_config.parse(read_bytes(config, repo_config.LARGEST), title, hashes)
    return Found(path, card, class_names, note or f"as {config} says")
