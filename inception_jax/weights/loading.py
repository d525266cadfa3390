"""Loads weights of any source: files of ours and of other frameworks, published sets by id, Keras models."""

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
from inception_jax.models import spec, zoo
from inception_jax.models.inputs import Preprocess
from inception_jax.paths import check_regular, open_regular, user_path
from inception_jax.weights import files, graphs
from inception_jax.weights.classes import with_class_names
from inception_jax.weights.convert import convert
from inception_jax.weights.files import Weights, WeightsInfo
from inception_jax.weights.fitting import adapt
from inception_jax.weights.places import FOLDER_VARIABLE as FOLDER_VARIABLE
from inception_jax.weights.places import Found, find
from inception_jax.weights.places import weights_folder as weights_folder
from inception_jax.weights.preprocessing import parse, stated_input
from inception_jax.weights.published.cards import CARDS, WeightCard
from inception_jax.weights.published.names import near
from inception_jax.weights.readers import read_content
from inception_jax.weights.readers.archives import unpack_checkpoint
from inception_jax.weights.readers.formats import has_index
from inception_jax.weights.recognition import recognise


def load(
    source: str | Path | Weights | Any,
    name: str | None = None,
    *,
    num_classes: int | None = None,
    aux: bool | None = None,
    in_channels: int | None = None,
    reset_head: bool = False,
    raw: bool = False,
    origin: str | None = None,
    preprocess: Preprocess | str | None = None,
    key: str | None = None,
    class_names: Sequence[str] | None = None,
    unverified: bool = False,
    seed: int = 0,
) -> Weights:
    """Returns the weights of a model from any source.

    Only an id, a name or "hf-hub:..." downloads, and only a file that this machine does not have.

    Args:
      source: a file of ours, PyTorch's (.pth, .safetensors, TorchScript), Keras's (.h5, .keras), TensorFlow's (a
        checkpoint, a frozen graph), Caffe's (.caffemodel) or an ONNX graph; a live Keras model; `Weights`, whose arrays
        are shared; or a name: the id of a card ("timm/inception_v3.tv_in1k"), its name ("inception_v3.tv_in1k"), a
        model of the zoo for its default weights, "hf-hub:OWNER/NAME[@REVISION]", "local-dir:FOLDER" (see `places`).
      name: the model; None: found by the names of the tensors. Needed if they fit several models.
      num_classes: re-initialises the classifiers for this many classes; 0: features, without classifier; None: the
        classes of the source, whose head must then be one that our networks have.
      aux: True initialises auxiliary heads that the source lacks, False drops them; None: what the source has.
      in_channels: of the images: 1 (grey), 4, ...; the kernel for RGB is adapted as timm does it (`adapt` says how).
      reset_head: re-initialise the classifiers in any case.
      raw: keep outputs that are no class of ImageNet, such as a background.
      origin: whose naming the tensors follow (one of `weights.origins()`); None: found by their names.
      preprocess: the preprocessing for a third-party file, whole or as changes to that of its card or origin
        ("imagenet", "mean=0.5;std=0.5;size=299": see `preprocessing.parse`); None: that of layers in the file, of its
        card or of its origin.
      key: which of several networks in a checkpoint: the key of its dictionary, or a prefix of the names of its
        tensors, such as "model_ema" or "ema.module".
      class_names: one for each class, instead of those of the source.
      unverified: accept a third-party file whose checksum is not that of a published one; its names and shapes are
        still checked.
      seed: of initial values.

    Raises:
      UserError: the source is missing, damaged, of another model, not published, does not match its card, or cannot be
        downloaded.
    """
    if name is not None:
        _check_name(name)
    if isinstance(preprocess, str):
        parse(preprocess, None)  # refuses a mistake before a large file is read
    new_classifier = num_classes is not None or reset_head
    asked = _Foreign(name, origin, raw, preprocess, key, aux, new_classifier)
    found = find(source)
    path = found.path if found else _as_path(source)
    if path is not None:
        _check_exists(path)
    if isinstance(source, Weights) or (path is not None and files.is_ours(path)):
        asked.check_ours()
        weights = source if isinstance(source, Weights) else files.read(cast(Path, path))
        weights = _noted(weights, found.note) if found and found.note else weights
    elif path is None:
        weights = asked.convert(source, None, type(source).__name__)
    else:
        weights = _from_file(str(source), path, asked, unverified, found or Found(path, None))
    if name not in (None, weights.info.model):
        raise UserError(f"{printable(path or weights.info.source)} is of {weights.info.model}, not of {name}.")
    weights = adapt(weights, num_classes, aux, in_channels=in_channels, reset_head=reset_head, seed=seed)
    return weights if class_names is None else with_class_names(weights, class_names)


class _Foreign(NamedTuple):
    """How to convert a third-party source: the arguments of `load` that concern it."""

    name: str | None
    origin: str | None
    raw: bool
    preprocess: Preprocess | str | None
    key: str | None = None
    aux: bool | None = None
    new_classifier: bool = False  # a head that cannot be taken is left out

    def convert(self, source: Any, card: WeightCard | None, title: str) -> Weights:
        """Returns the converted tensors of a source; `title` names it in messages and in the report."""
        with _unpacked(source) as file:
            tensors, statement = read_content(file)
        left_out: tuple[str, ...] = ()
        if statement.info:
            self.check_ours()
            return graphs.of_ours(tensors, statement, title)
        name, origin = self.name or (card.model if card else None), self.origin or (card.lineage if card else None)
        if statement.operators and origin in (None, graphs.ORIGIN):
            lineage, tensors, numerics, more = graphs.lineage_of(tensors, statement, name, printable(title))
        else:
            lineage, tensors, left_out, more = recognise(tensors, statement, name, origin, self.key, printable(title))
            numerics = None
        offset = 0 if self.raw else card.label_offset if card else None
        channels = lineage.channels_of(lineage.without_foreign(tensors)[0])
        usual = (card.preprocess if card else lineage.preprocess).with_channels(channels)
        preprocess, notes = stated_input(self.preprocess, statement, usual, printable(title))
        converted = convert(
            tensors,
            lineage,
            source=title,
            preprocess=preprocess or (usual if card else None),
            label_offset=offset,
            aux=self.aux,
            layers=statement.after,
            new_classifier=self.new_classifier,
        )
        if card and not self.raw:
            _check_outputs(converted.info, card, title)
        info, of_norms = _as_stated(converted.info, numerics, statement.epsilon)
        notes += more + of_norms
        report = converted.report
        dropped, notes = (*report.dropped, *left_out), report.notes + notes
        report = dataclasses.replace(report, dropped=dropped, notes=notes)
        return dataclasses.replace(converted, info=info, report=report)

    def check_ours(self) -> None:
        """Raises a `UserError` if an argument is given that a source with metadata of ours does not take."""
        if self.origin is not None or self.raw or self.preprocess is not None or self.key is not None:
            raise UserError("origin, raw, preprocess and key are for third-party files; this source states its own.")


def _check_outputs(info: WeightsInfo, card: WeightCard, title: str) -> None:
    """Raises a `UserError` unless the source has as many outputs as its card says."""
    outputs = info.num_classes + info.label_offset if info.num_classes else 0
    if outputs != (card.outputs or 0):
        raise UserError(f"{title} has {outputs} outputs; {card.id} has {card.outputs or 'none'}.")


def _as_stated(
    info: WeightsInfo, numerics: spec.Numerics | None, epsilon: float | None
) -> tuple[WeightsInfo, tuple[str, ...]]:
    """Returns the metadata with the numerics that a file states, and notes where they are not the usual ones.

    Args:
      info: with the usual numerics.
      numerics: of a graph; None: the file holds none.
      epsilon: of its batch norms; None: it states none.
    """
    ours = info.numerics
    if numerics is not None:
        ours = ours._replace(pool_same=numerics.pool_same, count_padding=numerics.count_padding)
    if ours.norm and epsilon is not None:
        ours = ours._replace(norm=ours.norm._replace(epsilon=epsilon))
    notes = {
        f"its strided max pools drop the last window ({ours.pool_same})": ours.pool_same != info.numerics.pool_same,
        f"its average pools {'' if ours.count_padding else 'do not '}count padding": (
            ours.count_padding != info.numerics.count_padding
        ),
        f"the epsilon of its batch norms is {epsilon}": ours.norm != info.numerics.norm,
    }
    return dataclasses.replace(info, numerics=ours), tuple(note for note, is_said in notes.items() if is_said)


def _from_file(source: str, path: Path, asked: _Foreign, unverified: bool, found: Found) -> Weights:
    """Returns the weights in a published file, or with `unverified` in any file; `found` says whence the file is."""
    digests = _digests(path)
    verified = found.card or next((known for known in CARDS.values() if _matches(known, digests)), None)
    if verified and not _matches(verified, digests):
        doubt = (
            "has no checksum"
            if not verified.hashes
            else f"is {_describe(verified)}; this is {_found(verified, digests)}"
        )
        told = found.note if not verified.hashes else ""  # the file is from its publisher, who states no checksum
        if not (unverified or told):
            raise UserError(f"{printable(path)} cannot be verified: {verified.id} {doubt}. {_UNVERIFIED}")
        note = f"taken as {verified.id}: {told}" if told else f"unverified: taken as {verified.id}, which {doubt}"
    elif verified:
        note = f"published as {verified.id}"
    elif unverified:
        note = "unverified: no published file"
    else:
        sha256 = digests.get("sha256", "unknown")
        raise UserError(f"{printable(path)} (sha256 {sha256}) is none of the published files. {_UNVERIFIED}")
    weights = asked.convert(path, verified, source)
    if found.class_names:
        weights = with_class_names(weights, found.class_names)
    more = [found.note if found.note not in note else "", verified.notes if verified else ""]
    weights = _noted(weights, note, *filter(None, more))
    return dataclasses.replace(weights, info=dataclasses.replace(weights.info, sha256=digests.get("sha256", "")))


def _noted(weights: Weights, *notes: str) -> Weights:
    """Returns the weights with further notes in their report."""
    report = dataclasses.replace(weights.report, notes=weights.report.notes + notes)
    return dataclasses.replace(weights, report=report)


_UNVERIFIED = "unverified=True (--unverified) accepts it if its names and shapes fit."


def _as_path(source: Any) -> Path | None:
    """Returns the path of the file of a source; None: it is no file."""
    return user_path(source) if isinstance(source, str | os.PathLike) else None


def _check_exists(path: Path) -> None:
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
    raise UserError(f"{shown} is no file and no id of published weights.{near(str(path))}")


@contextlib.contextmanager
def _unpacked(source: Any) -> Iterator[Any]:
    """Yields the checkpoint in a .tar.gz archive of TF-slim, unpacked for the duration; any other source unchanged."""
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
    """Returns whether the file has every checksum of the card; a card may state only the first digits of one."""
    pairs = [stated.split(":") for stated in card.hashes]
    return bool(pairs) and all(digests.get(kind, "").startswith(digits) for kind, digits in pairs)


def _digests(path: Path) -> dict[str, str]:
    """Returns the checksums of a file by algorithm; {} if the path is not a file, such as a checkpoint's prefix."""
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
    """Returns those checksums of a file that the card states, as text."""
    return " ".join(f"{kind}:{digests.get(kind)}" for kind in (stated.split(":")[0] for stated in card.hashes))


def _describe(card: WeightCard) -> str:
    size = f" ({card.size:,} bytes)" if card.size else ""
    return f"{card.file}{size}" + (f", {' '.join(card.hashes)}" if card.hashes else "")
