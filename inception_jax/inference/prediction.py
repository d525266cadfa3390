"""From logits to classes and their probabilities. Logarithms are natural, and computed in float64."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy.special import log_softmax

from inception_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class ClassScore:
    """A class and its probability; the label is empty where no name is known."""

    index: int
    label: str
    probability: float


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The likeliest classes of an image, the likeliest first."""

    classes: tuple[ClassScore, ...]


def likeliest(logits: np.ndarray, class_names: Sequence[str], k: int | None = None) -> Prediction:
    """Returns the k likeliest classes of logits or log-probabilities [K].

    Args:
      logits: of all classes.
      class_names: of all classes.
      k: how many classes; None: 5, or all if there are fewer.

    Raises:
      UserError: k is out of range.
    """
    k = min(5, len(logits)) if k is None else k
    if not 1 <= k <= len(logits):
        raise UserError(f"k is {k}; it must be 1 ... {len(logits)}.")
    log_probabilities = log_softmax(np.asarray(logits, np.float64), axis=-1)
    probabilities = np.exp(log_probabilities)
    order = np.argsort(-log_probabilities, kind="stable")[:k]
    return Prediction(tuple(ClassScore(int(i), class_names[i], float(probabilities[i])) for i in order))


def mean_log_probabilities(logits: np.ndarray) -> np.ndarray:
    """Returns the logarithms [K] of the probabilities of logits [N, K], averaged over N crops."""
    return log_mean(log_softmax(np.asarray(logits, np.float64), axis=-1))


def log_mean(log_probabilities: np.ndarray) -> np.ndarray:
    """Returns the logarithms [K] of the mean of probabilities [N, K] that are given as logarithms."""
    return np.logaddexp.reduce(log_probabilities, axis=0) - np.log(len(log_probabilities))
