"""Evaluation: how often, and where, a network or an ensemble is right about a labelled set."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from inception_jax.data.sources import ImageSource
from inception_jax.data.transforms import BrokenImage
from inception_jax.errors import UserError
from inception_jax.inference.predictor import Predictor, log_mean


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What was said of every image of a set, in its order. N images, K classes.

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
        """Returns how many images of each true class (rows) were taken for each class (columns) [K, K]."""
        counts = np.zeros((len(self.class_names),) * 2, np.int64)
        np.add.at(counts, (self.labels, self.predicted), 1)
        return counts

    def mistakes(self) -> np.ndarray:
        """Returns the places in the set of the images that were taken for another class, the surest first."""
        wrong = np.flatnonzero(self.predicted != self.labels)
        return wrong[np.argsort(-self.probability[wrong], kind="stable")]

    def to_json(self, mistakes: int) -> dict[str, Any]:
        """Returns the metrics, those of each class, and the surest mistakes."""
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
    members: Sequence[Predictor],
    source: ImageSource,
    crops: int = 1,
    advance: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Returns what an ensemble says of every image of a set, each once; probabilities are averaged.

    Args:
      members: networks of the same classes; one is an ensemble, too.
      source: the images and their classes.
      crops: 1, 10 or 144 views of each image, over which each member averages.
      advance: called after each image.

    Raises:
      UserError: the classes of members and data differ, or an image is broken.
    """
    for member in members:
        _check_classes(member, source)
    labels: list[int] = []

    def images(first: bool):
        for index in range(len(source)):
            record = source[index]
            if first:
                labels.append(record["label"])
            yield record["image"]

    streams = [member.log_probabilities(images(i == 0), crops) for i, member in enumerate(members)]
    top, probability, losses = [], [], []
    for index, said in enumerate(zip(*streams, strict=True)):
        for each in said:
            if isinstance(each, BrokenImage):
                raise UserError(f"Broken image, {source.describe(index)}: {each}.") from each
        log_probabilities = log_mean(np.stack(said))
        order = np.argsort(-log_probabilities, kind="stable")[:5]
        top.append(order)
        probability.append(np.exp(log_probabilities[order[0]]))
        losses.append(-log_probabilities[labels[index]])
        advance()
    if not len(losses) == len(labels) == len(source):
        raise AssertionError(f"{len(losses)} images evaluated of {len(source)}")
    names = members[0].class_names if any(members[0].class_names) else source.class_names
    return Evaluation(tuple(names), np.array(labels), np.stack(top), np.array(probability), np.array(losses))


def _check_classes(member: Predictor, source: ImageSource) -> None:
    """Raises a `UserError` if the classes of the data are others than those of a network, or in another order."""
    what, info = member.info.source or member.info.model, member.info
    if info.num_classes != len(source.class_names):
        raise UserError(f"{source.name} has {len(source.class_names)} classes; {what} has {info.num_classes}.")
    theirs, ours = tuple(source.class_names), tuple(member.class_names)
    if theirs != ours and sorted(theirs) == sorted(ours):
        i = next(i for i, (a, b) in enumerate(zip(theirs, ours, strict=True)) if a != b)
        raise UserError(
            f"{source.name} and {what} order the same classes differently: class {i} is {theirs[i]!r} of the data, "
            f"and {ours[i]!r} of the network."
        )
