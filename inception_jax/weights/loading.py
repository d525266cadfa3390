"""From a file, or the id of a published set, to weights that a network takes."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

from inception_jax.errors import UserError, printable
from inception_jax.models import zoo
from inception_jax.models.inputs import IMAGENET, Preprocess
from inception_jax.paths import check_regular, open_regular, user_path
from inception_jax.suggestions import hint
from inception_jax.weights import files
from inception_jax.weights.classes import with_class_names
from inception_jax.weights.convert import convert, find_lineage
from inception_jax.weights.files import Weights
from inception_jax.weights.fitting import adapt
from inception_jax.weights.preprocessing import parse, stated_input
from inception_jax.weights.published.cards import CARDS, WeightCard
from inception_jax.weights.readers import read_content
from inception_jax.weights.readers.archives import unpack_checkpoint
from inception_jax.weights.readers.formats import has_index

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
    preprocess: Preprocess | str | None = None,
    class_names: Sequence[str] | None = None,
    unverified: bool = False,
    seed: int = 0,
) -> Weights:
    """Returns the weights of a model from any source; nothing is fetched from a network.

    Args:
      source: a file of ours, PyTorch's (.pth, .safetensors), Keras's (.h5, .keras), TF-slim's (a checkpoint) or Caffe's
        (.caffemodel); a live Keras model; the id of a card, whose file lies in `weights_folder()`; or `Weights`, whose
        arrays are shared.
      name: the model, which must be the source's; needed where the tensors fit several.
      num_classes: re-initialises the classifiers for this many classes; None: the classes of the source.
      aux: True initialises auxiliary heads that the source lacks, False drops them; None: what the source has.
      reset_head: re-initialise the classifiers in any case.
      raw: keep the outputs that are no class of ImageNet, such as a background.
      origin: whose names the tensors carry (`weights.origins()`); None: found by their names.
      preprocess: how the input of a file of others is made, or what differs from how its card or its origin makes it
        ("imagenet", "mean=0.5;std=0.5;size=299": see `preprocessing.parse`); None: as layers in the file, its card or
        its origin make it.
      class_names: one for each class, in place of those that the source has.
      unverified: take a file of others that is no published one by its checksum; names and shapes are checked alone.
      seed: of what is initialised.

    Raises:
      UserError: the source is missing, damaged, of another model, not published, or not what its card says.
    """
    if name is not None:
        _check_name(name)
    if isinstance(preprocess, str):
        parse(preprocess, IMAGENET)  # a mistake in it is told before a large file is read
    asked = _Foreign(name, origin, raw, preprocess)
    path = _as_path(source)
    if path is not None:
        _check_exists(path, CARDS.get(str(source)))
    if isinstance(source, Weights) or (path is not None and files.is_ours(path)):
        if origin is not None or raw or preprocess is not None:
            raise UserError("origin, raw and preprocess are for files of others; this source says what it is.")
        weights = source if isinstance(source, Weights) else files.read(cast(Path, path))
    elif path is None:
        weights = asked.convert(source, None, type(source).__name__)
    else:
        weights = _from_file(str(source), path, asked, unverified)
    if name not in (None, weights.info.model):
        raise UserError(f"{printable(path or weights.info.source)} is of {weights.info.model}, not of {name}.")
    weights = adapt(weights, num_classes, aux, reset_head=reset_head, seed=seed)
    return weights if class_names is None else with_class_names(weights, class_names)


def weights_folder() -> Path:
    """Returns where the files of cards are kept, each in a folder named as the card's id.

    It is $INCEPTION_JAX_WEIGHTS, or ~/.cache/inception_jax/weights.
    """
    return user_path(os.environ.get(FOLDER_VARIABLE) or "~/.cache/inception_jax/weights")


class _Foreign(NamedTuple):
    """What is asked of a source of others."""

    name: str | None
    origin: str | None
    raw: bool
    preprocess: Preprocess | str | None

    def convert(self, source: Any, card: WeightCard | None, title: str) -> Weights:
        """Returns what the tensors of a source are, which a card may describe."""
        with _unpacked(source) as file:
            tensors, statement = read_content(file)
        name = self.name or (card.model if card else None)
        lineage = find_lineage(tensors, name, self.origin or (card.lineage if card else None))
        offset = 0 if self.raw else None
        if card and not self.raw:
            outputs = lineage.outputs(tensors)
            if outputs != (card.outputs or 0):
                raise UserError(f"{title} has {outputs} outputs; {card.id} has {card.outputs or 'none'}.")
            offset = card.label_offset
        usual = card.preprocess if card else lineage.preprocess
        preprocess, notes = stated_input(self.preprocess, statement, usual, printable(title))
        converted = convert(
            tensors,
            lineage,
            source=title,
            preprocess=preprocess or (usual if card else None),
            label_offset=offset,
        )
        report = dataclasses.replace(converted.report, notes=converted.report.notes + notes)
        return dataclasses.replace(converted, report=report)


def _from_file(source: str, path: Path, asked: _Foreign, unverified: bool) -> Weights:
    """Returns what a published file holds, or with `unverified` any file."""
    card = CARDS.get(source)
    digests = _digests(path)
    verified = card or next((known for known in CARDS.values() if _matches(known, digests)), None)
    if verified and not _matches(verified, digests):
        doubt = (
            "has no checksum"
            if not verified.hashes
            else f"is {_describe(verified)}; this is {_found(verified, digests)}"
        )
        if not unverified:
            raise UserError(f"{printable(path)} cannot be verified: {verified.id} {doubt}. {_ALL_THE_SAME}")
        note = f"unverified: taken as {verified.id}, which {doubt}"
    elif verified:
        note = f"published as {verified.id}"
    elif unverified:
        note = "unverified: no published file"
    else:
        sha256 = digests.get("sha256", "unknown")
        raise UserError(f"{printable(path)} (sha256 {sha256}) is none of the published files. {_ALL_THE_SAME}")
    weights = asked.convert(path, verified, source)
    notes = (*weights.report.notes, note, *([verified.notes] if verified and verified.notes else []))
    return dataclasses.replace(
        weights,
        info=dataclasses.replace(weights.info, sha256=digests.get("sha256", "")),
        report=dataclasses.replace(weights.report, notes=notes),
    )


_ALL_THE_SAME = "unverified=True (--unverified) takes it all the same, if its names and shapes fit."


def _as_path(source: Any) -> Path | None:
    """Returns where the file of a source is: that of a card has its place; None: it is no file."""
    if not isinstance(source, str | os.PathLike):
        return None
    card = CARDS.get(str(source))
    return weights_folder() / card.id / card.file if card else user_path(source)


def _check_exists(path: Path, card: WeightCard | None) -> None:
    """Raises a `UserError` unless there is a regular file, or the prefix of a TensorFlow checkpoint."""
    shown = printable(path)
    try:
        exists, folder = path.exists(), path.is_dir()
        if has_index(path):
            return
    except (OSError, ValueError) as error:
        raise UserError(f"{shown[:200]!r} cannot be read: {getattr(error, 'strerror', None) or error}.") from error
    if folder:
        raise UserError(f"{shown} is a folder; weights are a file, the id of a card, or a run with checkpoints/ in it.")
    if exists:
        return check_regular(path)
    if card:
        raise UserError(f"{card.id} needs {_describe(card)} as {shown}: fetch it from {card.url}.")
    raise UserError(f"{shown} is no file and no id of published weights.{hint(str(path), CARDS, cutoff=0.5)}")


@contextlib.contextmanager
def _unpacked(source: Any) -> Iterator[Any]:
    """Yields the checkpoint in a .tar.gz archive of TF-slim, for as long as it is needed; all else as it is."""
    if not (isinstance(source, Path) and source.name.endswith(".tar.gz") and source.is_file()):
        yield source
        return
    with tempfile.TemporaryDirectory() as folder:
        yield unpack_checkpoint(source, Path(folder))


def _check_name(name: str) -> None:
    try:
        zoo.model_card(name)
    except ValueError as error:
        raise UserError(str(error)) from error


def _matches(card: WeightCard, digests: dict[str, str]) -> bool:
    """Returns whether every checksum of the card is one of the file's, or begins it."""
    pairs = [stated.split(":") for stated in card.hashes]
    return bool(pairs) and all(digests.get(kind, "").startswith(digits) for kind, digits in pairs)


def _digests(path: Path) -> dict[str, str]:
    """Returns the checksums of a file by algorithm; none of what is no single file, such as a checkpoint's prefix."""
    if not path.is_file():
        return {}
    hashes = {kind: hashlib.new(kind, usedforsecurity=False) for kind in ("sha256", "sha384", "sha1", "md5")}
    with open_regular(path) as file:
        try:
            while block := file.read(1 << 20):
                for each in hashes.values():
                    each.update(block)
        except OSError as error:
            raise UserError(f"{printable(path)} cannot be read: {error.strerror}.") from error
    return {kind: each.hexdigest() for kind, each in hashes.items()}


def _found(card: WeightCard, digests: dict[str, str]) -> str:
    """Returns the checksums of a file that a card states, too."""
    return " ".join(f"{kind}:{digests.get(kind)}" for kind in (stated.split(":")[0] for stated in card.hashes))


def _describe(card: WeightCard) -> str:
    size = f" ({card.size:,} bytes)" if card.size else ""
    return f"{card.file}{size}" + (f", {' '.join(card.hashes)}" if card.hashes else "")
