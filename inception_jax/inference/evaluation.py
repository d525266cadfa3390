"""Evaluation of a network or an ensemble on a labelled set: accuracy, loss, confusion, mistakes."""

from __future__ import annotations

import collections
import dataclasses
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from inception_jax.classes import check_same_classes
from inception_jax.data.sources import ImageSource
from inception_jax.data.transforms import BrokenImage
from inception_jax.errors import UserError, printable
from inception_jax.inference.prediction import log_mean, mean_log_probabilities
from inception_jax.inference.predictor import Predictor

logger = logging.getLogger(__name__)


class ActivationObserver(Protocol):
    """Receives the activations of every image of an evaluation; `explain.wsol.Localiser` is one.

    Attributes:
      endpoint: the endpoint whose activations it receives.
    """

    endpoint: str

    def see(self, record: dict[str, Any], last: np.ndarray, top: np.ndarray, exif: bool = False) -> None:
        """Receives one image: its record, its activations [H, W, C] and its likeliest classes, the likeliest first."""


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The predictions for every image of a set, in its order. N images, K classes.

    Attributes:
      class_names: [K].
      labels: the true classes [N].
      top: the likeliest classes [N, 5], or all if they are fewer, the likeliest first.
      probability: of the likeliest class [N].
      losses: minus the logarithm of the probability of the true class [N].
    """

    class_names: tuple[str, ...]
    labels: np.ndarray
    top: np.ndarray
    probability: np.ndarray
    losses: np.ndarray

    @property
    def predicted(self) -> np.ndarray:
        """The likeliest class of each image [N]."""
        return self.top[:, 0]

    def metrics(self) -> dict[str, float]:
        """Returns top-1, top-5, the mean loss, and the number of images."""
        hits = self.top == self.labels[:, None]
        means = {"top1": hits[:, 0].mean(), "top5": hits.any(axis=1).mean(), "loss": self.losses.mean()}
        return {name: float(mean) for name, mean in means.items()} | {"count": len(self.labels)}

    def confusion(self) -> np.ndarray:
        """Returns the confusion matrix [K, K]: images of each true class (rows) by predicted class (columns)."""
        counts = np.zeros((len(self.class_names),) * 2, np.int64)
        np.add.at(counts, (self.labels, self.predicted), 1)
        return counts

    def mistakes(self) -> np.ndarray:
        """Returns the indices of the misclassified images, those with the highest probability first."""
        wrong = np.flatnonzero(self.predicted != self.labels)
        return wrong[np.argsort(-self.probability[wrong], kind="stable")]

    def to_json(self, mistakes: int) -> dict[str, Any]:
        """Returns the metrics, the accuracy of each class, and the `mistakes` surest mistakes."""
        confusion = self.confusion()
        classes = [
            {"class": name, "count": int(row.sum()), "top1": float(row[i] / row.sum()) if row.sum() else None}
            for i, (name, row) in enumerate(zip(self.class_names, confusion, strict=True))
        ]
        listed = [
            {
                "index": int(i),
                "class": self.class_names[self.labels[i]],
                "predicted": self.class_names[self.predicted[i]],
                "probability": float(self.probability[i]),
            }
            for i in self.mistakes()[:mistakes]
        ]
        return {**self.metrics(), "classes": classes, "mistakes": listed}


def evaluate(
    members: Predictor | Sequence[Predictor],
    source: ImageSource,
    crops: int = 1,
    advance: Callable[[], None] = lambda: None,
    localiser: ActivationObserver | None = None,
) -> Evaluation:
    """Returns the predictions of a network, or of an ensemble, for every image of a set.

    An ensemble averages the probabilities of its members, and each member those of the crops of an image.

    Args:
      members: one network, or several with the same classes.
      source: the images and their classes.
      crops: crops of each image: 1, 10 or 144, as `multi_crop.crops` cuts them.
      advance: called after each image.
      localiser: receives the activations; it needs one network and one crop.

    Raises:
      UserError: there is no member, the classes of members or data differ, an image is broken, or there is a localiser
        and more than one network or crop.
    """
    members = [members] if isinstance(members, Predictor) else list(members)
    if not members:
        raise UserError("There is no network to evaluate.")
    for member in members:
        _check_alike(members[0], member)
        _check_classes(member, source)
    if localiser and (crops, len(members)) != (1, 1):
        raise UserError(f"Localisation takes one network and one crop, not {len(members)} and {crops}.")
    ahead: collections.deque[dict[str, Any]] = collections.deque()  # records that are read and not yet predicted

    def images(first: bool) -> Iterator[bytes]:
        for index in range(len(source)):
            record = source[index]
            if first:
                ahead.append(record)
            yield record["image"]

    outputs = ("logits", localiser.endpoint) if localiser else ("logits",)
    streams = [member.outputs(images(i == 0), outputs, crops, source.exif) for i, member in enumerate(members)]
    labels: list[int] = []
    top, probability, losses = [], [], []
    for outputs_of_members in zip(*streams, strict=True):
        record = ahead.popleft()
        found = [_unbroken(each, source, len(labels)) for each in outputs_of_members]
        log_probabilities = log_mean(np.stack([mean_log_probabilities(each["logits"]) for each in found]))
        order = np.argsort(-log_probabilities, kind="stable")[:5]
        if localiser:
            localiser.see(record, found[0][localiser.endpoint][0], order, source.exif)
        labels.append(record["label"])
        top.append(order)
        probability.append(np.exp(log_probabilities[order[0]]))
        losses.append(-log_probabilities[record["label"]])
        advance()
    if len(labels) != len(source):
        raise AssertionError(f"{len(labels)} images evaluated of {len(source)}")
    names = members[0].class_names if any(members[0].class_names) else source.class_names
    return Evaluation(tuple(names), np.array(labels), np.stack(top), np.array(probability), np.array(losses))


def _unbroken(found: dict[str, np.ndarray] | BrokenImage, source: ImageSource, index: int) -> dict[str, np.ndarray]:
    if isinstance(found, BrokenImage):
        raise UserError(f"Broken image, {source.describe(index)}: {found}.") from found
    return found


def _check_alike(first: Predictor, other: Predictor) -> None:
    """Raises a `UserError` if two networks differ in their classes, so that probabilities cannot be averaged."""
    one, two = (each.info.source or each.info.model for each in (first, other))
    way_out = "Only networks of the same classes in the same order are averaged."
    if first.info.num_classes != other.info.num_classes:
        counts = f"has {first.info.num_classes} classes and {printable(two)} has {other.info.num_classes}"
        raise UserError(f"{printable(one)} {counts}. {way_out}")
    if any(first.class_names) and any(other.class_names):  # without names, the order is assumed to be the same
        check_same_classes(one, first.class_names, two, other.class_names, way_out)


def _check_classes(member: Predictor, source: ImageSource) -> None:
    """Checks that the classes of the data are those of a network; warns if the network does not name its classes.

    Raises:
      UserError: the classes differ, or their order.
    """
    what, info = member.info.source or member.info.model, member.info
    if info.num_classes != len(source.class_names):
        raise UserError(f"{source.name} has {len(source.class_names)} classes; {what} has {info.num_classes}.")
    if any(member.class_names):
        way_out = "Evaluate on data with the classes of the network, in its order."
        check_same_classes(source.name, source.class_names, what, member.class_names, way_out)
        return
    logger.warning(
        "%s does not say what its %d classes are; they are taken for those of %s, in order.",
        printable(what),
        info.num_classes,
        printable(source.name),
    )
