"""The models by name. An entry is a table, its numerics, its heads, and what its input looks like."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any, Literal

import jax.numpy as jnp

from inception_jax.models import googlenet, spec
from inception_jax.models.network import InceptionNet


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """How an image becomes the input of a model: (pixel - mean) / std on RGB pixels in 0 ... 255.

    Evaluation resizes the short side to round(size / crop_fraction) pixels and cuts a centre square of `size`.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    crop_fraction: float = 0.875
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"

    @property
    def resize(self) -> int:
        """The short side, in pixels, before the centre crop."""
        return round(self.size / self.crop_fraction)


@dataclasses.dataclass(frozen=True)
class ModelCard:
    """An entry of the zoo: all there is to know of a model before it has parameters."""

    name: str
    summary: str
    paper: str
    table: spec.Table
    numerics: spec.Numerics
    aux_heads: Mapping[str, spec.AuxHead]
    dropout: float
    preprocess: Preprocess


PAPER_INPUT = Preprocess(224, mean=(123.0, 117.0, 104.0), std=(1.0, 1.0, 1.0))
IMAGENET_INPUT = Preprocess(224, mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))
CIFAR_INPUT = Preprocess(32, mean=(125.3, 123.0, 113.9), std=(63.0, 62.1, 66.7), crop_fraction=1.0)

_CARDS = (
    ModelCard(
        name="googlenet",
        summary="the paper's network in Caffe's numerics: biases, LRN, true 5x5",
        paper="1409.4842",
        table=googlenet.GOOGLENET,
        numerics=spec.CAFFE,
        aux_heads=googlenet.PAPER_AUX,
        dropout=0.4,
        preprocess=PAPER_INPUT,
    ),
    ModelCard(
        name="googlenet_naive",
        summary="modules without 1x1 reductions (fig. 2a), to see what they save",
        paper="1409.4842",
        table=googlenet.GOOGLENET_NAIVE,
        numerics=spec.CAFFE,
        aux_heads=googlenet.PAPER_AUX,
        dropout=0.4,
        preprocess=PAPER_INPUT,
    ),
    ModelCard(
        name="googlenet_bn",
        summary="the paper's table with batch norm in place of LRN and biases",
        paper="1409.4842",
        table=googlenet.GOOGLENET_BN,
        numerics=spec.TORCH,
        aux_heads=googlenet.PAPER_AUX,
        dropout=0.4,
        preprocess=IMAGENET_INPUT,
    ),
    ModelCard(
        name="googlenet_torchvision",
        summary="torchvision's network: batch norm, 3x3 in the 5x5 branch, 2x2 pool4",
        paper="1409.4842",
        table=googlenet.GOOGLENET_TORCHVISION,
        numerics=spec.TORCH,
        aux_heads=googlenet.TORCHVISION_AUX,
        dropout=0.2,
        preprocess=IMAGENET_INPUT,
    ),
    ModelCard(
        name="googlenet_cifar",
        summary="googlenet_bn behind a stem for 32 pixel images",
        paper="1409.4842",
        table=googlenet.GOOGLENET_CIFAR,
        numerics=spec.TORCH,
        aux_heads=googlenet.PAPER_AUX,
        dropout=0.4,
        preprocess=CIFAR_INPUT,
    ),
)
MODELS: dict[str, ModelCard] = {card.name: card for card in _CARDS}


def list_models() -> list[str]:
    """Returns the names of the zoo."""
    return list(MODELS)


def model_card(name: str) -> ModelCard:
    """Returns the card of a model.

    Raises:
      ValueError: no model has this name; the message offers the nearest.
    """
    if name not in MODELS:
        nearest = difflib.get_close_matches(name, MODELS, n=3, cutoff=0.4) or list(MODELS)
        raise ValueError(f"No model is called {name!r}. Nearest: {', '.join(nearest)}. All: inception-jax models.")
    return MODELS[name]


def create_model(
    name: str,
    num_classes: int = 1000,
    dtype: Any = jnp.float32,
    aux: bool = True,
    *,
    width: float = 1.0,
    dropout: float | None = None,
    numerics: spec.Numerics | None = None,
    bn_group_size: int | None = None,
) -> InceptionNet:
    """Returns a model of the zoo as a Flax module; parameters are float32 and come from `init`.

    Args:
      name: one of `list_models()`.
      num_classes: outputs of the classifier and of the auxiliary heads.
      dtype: of the computation; bfloat16 on accelerators.
      aux: whether the auxiliary heads exist.
      width: multiplies the features of all convolutions and hidden layers, at least 16 each.
      dropout: before the classifier; None takes the card's.
      numerics: how the table is read; None takes the card's lineage.
      bn_group_size: images that share their batch-norm statistics; None is the whole batch.

    Raises:
      ValueError: an unknown name, or a value out of range.
    """
    card = model_card(name)
    _check(num_classes, width, dropout, bn_group_size)
    heads = {
        tap: head._replace(rows=spec.scale_rows(head.rows, width), hidden=spec.scale_features(head.hidden, width))
        for tap, head in (card.aux_heads.items() if aux else ())
    }
    return InceptionNet(
        name_in_zoo=name,
        table={key: spec.scale_width(row, width) for key, row in card.table.items()},
        numerics=numerics or card.numerics,
        aux_heads=heads,
        num_classes=num_classes,
        dropout=card.dropout if dropout is None else dropout,
        dtype=dtype,
        bn_group_size=bn_group_size,
    )


def _check(num_classes: int, width: float, dropout: float | None, bn_group_size: int | None) -> None:
    if num_classes < 1:
        raise ValueError(f"num_classes is {num_classes}; it must be at least 1.")
    if not 0 < width < float("inf"):
        raise ValueError(f"width is {width}; it must be above 0.")
    if dropout is not None and not 0 <= dropout < 1:
        raise ValueError(f"dropout is {dropout}; it must be at least 0 and below 1.")
    if bn_group_size is not None and bn_group_size < 1:
        raise ValueError(f"bn_group_size is {bn_group_size}; it must be at least 1.")
