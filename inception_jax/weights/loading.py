"""From a file, or the id of a published set, to weights that a network takes."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from inception_jax.errors import UserError
from inception_jax.models import zoo
from inception_jax.weights import files
from inception_jax.weights.cards import CARDS, WeightCard
from inception_jax.weights.convert import adapt, convert, find_lineage
from inception_jax.weights.files import Weights
from inception_jax.weights.readers import read_tensors

FOLDER_VARIABLE = "INCEPTION_JAX_WEIGHTS"


def load(
    source: str | Path | Weights | Any,
    name: str | None = None,
    *,
    num_classes: int | None = None,
    aux: bool | None = None,
    reset_head: bool = False,
    raw: bool = False,
    origin: str | None = None,
    unverified: bool = False,
    seed: int = 0,
) -> Weights:
    """Returns the weights of a model from any source; nothing is fetched from a network.

    Args:
      source: a file of ours, PyTorch's (.pth, .safetensors), Keras's (.h5, .keras), TF-slim's (a checkpoint) or Caffe's
        (.caffemodel); a live Keras model; the id of a card, whose file lies in `weights_folder()`; or `Weights`.
      name: the model, which must be the source's; needed where the tensors fit several.
      num_classes: re-initialises the classifiers for this many classes; None: the classes of the source.
      aux: True initialises auxiliary heads that the source lacks, False drops them; None: what the source has.
      reset_head: re-initialise the classifiers in any case.
      raw: keep the outputs that are no class of ImageNet, such as a background.
      origin: whose names the tensors carry (`weights.origins()`); None: found by their names.
      unverified: take a file of others that is no published one by its checksum; names and shapes are checked alone.
      seed: of what is initialised.

    Raises:
      UserError: the source is missing, damaged, of another model, not published, or not what its card says.
    """
    if name is not None:
        _check_name(name)
    if isinstance(source, Weights):
        weights = source
    elif not isinstance(source, str | Path):
        weights = _from_tensors(source, name, origin, raw, None, type(source).__name__)
    elif files.is_ours(Path(source)):
        weights = files.read(source)
    else:
        weights = _from_file(source, name, origin, raw, unverified)
    if name not in (None, weights.info.model):
        raise UserError(f"{weights.info.source or source} is of {weights.info.model}, not of {name}.")
    return adapt(weights, num_classes, aux, reset_head=reset_head, seed=seed)


def weights_folder() -> Path:
    """Returns where the files of cards are kept, each in a folder named as the card's id.

    It is $INCEPTION_JAX_WEIGHTS, or ~/.cache/inception_jax/weights.
    """
    return Path(os.environ.get(FOLDER_VARIABLE) or "~/.cache/inception_jax/weights").expanduser()


def _from_file(source: str | Path, name: str | None, origin: str | None, raw: bool, unverified: bool) -> Weights:
    """Returns what a published file holds, or with `unverified` any file."""
    card = CARDS.get(str(source))
    path = weights_folder() / card.id / card.file if card else Path(source)
    if card and not path.exists():
        raise UserError(f"{card.id} needs {_describe(card)} as {path}: fetch it from {card.url}.")
    digests = _digests(path)
    if card and not unverified:
        _check_card(card, path, digests)
    card = card or next((known for known in CARDS.values() if _matches(known, digests)), None)
    if card is None and not unverified:
        raise UserError(
            f"{path} (sha256 {digests.get('sha256', 'unknown')}) is none of the published files. unverified=True "
            "(--unverified) takes it all the same, if its names and shapes fit."
        )
    weights = _from_tensors(path, name or (card.model if card else None), origin, raw, card, str(source))
    return dataclasses.replace(
        weights,
        info=dataclasses.replace(weights.info, sha256=digests.get("sha256", "")),
        report=dataclasses.replace(
            weights.report,
            notes=(*weights.report.notes, f"published as {card.id}" if card else "unverified: no published file"),
        ),
    )


def _from_tensors(
    source: Any, name: str | None, origin: str | None, raw: bool, card: WeightCard | None, source_name: str
) -> Weights:
    with _unpacked(source) as file:
        tensors = read_tensors(file)
    lineage = find_lineage(tensors, name, origin or (card.lineage if card else None))
    offset = 0 if raw else (card.label_offset if card else None)
    return convert(
        tensors, lineage, source=source_name, preprocess=card.preprocess if card else None, label_offset=offset
    )


@contextlib.contextmanager
def _unpacked(source: Any) -> Iterator[Any]:
    """Yields the checkpoint in a .tar.gz archive of TF-slim, for as long as it is needed; all else as it is."""
    if not (isinstance(source, Path) and source.name.endswith(".tar.gz") and source.is_file()):
        yield source
        return
    with tempfile.TemporaryDirectory() as folder:
        try:
            with tarfile.open(source) as archive:
                archive.extractall(folder, filter="data")
        except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
            raise UserError(f"{source} cannot be unpacked: {error}.") from error
        checkpoints = sorted(path for pattern in ("*.ckpt", "*.index") for path in Path(folder).rglob(pattern))
        if len(checkpoints) != 1:
            raise UserError(f"{source} holds {len(checkpoints)} checkpoints; it must hold one.")
        yield checkpoints[0]


def _check_name(name: str) -> None:
    try:
        zoo.model_card(name)
    except ValueError as error:
        raise UserError(str(error)) from error


def _check_card(card: WeightCard, path: Path, digests: dict[str, str]) -> None:
    if not card.hashes:
        raise UserError(
            f"{card.id} is published without a checksum: unverified=True (--unverified) takes {path} as it is."
        )
    if not _matches(card, digests):
        found = ", ".join(f"{kind}:{digests.get(kind)}" for kind in (stated.split(":")[0] for stated in card.hashes))
        raise UserError(f"{path} ({found}) is not {card.id}: {_describe(card)}.")


def _matches(card: WeightCard, digests: dict[str, str]) -> bool:
    """Returns whether every checksum of the card is one of the file's, or begins it."""
    pairs = [stated.split(":") for stated in card.hashes]
    return bool(pairs) and all(digests.get(kind, "").startswith(digits) for kind, digits in pairs)


def _digests(path: Path) -> dict[str, str]:
    """Returns the checksums of a file by algorithm; none of what is no single file, such as a checkpoint's prefix."""
    if not path.is_file():
        return {}
    hashes = {kind: hashlib.new(kind, usedforsecurity=False) for kind in ("sha256", "sha384", "sha1", "md5")}
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            for each in hashes.values():
                each.update(block)
    return {kind: each.hexdigest() for kind, each in hashes.items()}


def _describe(card: WeightCard) -> str:
    size = f" ({card.size:,} bytes)" if card.size else ""
    return f"{card.file}{size}" + (f", {' '.join(card.hashes)}" if card.hashes else "")
