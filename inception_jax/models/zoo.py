"""The models by name. An entry is a table, its numerics, its heads, and what its input looks like."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any, Literal

import jax.numpy as jnp

from inception_jax.models import (
    googlenet,
    inception_resnet,
    inception_v2,
    inception_v3,
    inception_v4,
    spec,
    xception,
)
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

BGR_MEANS_INPUT = Preprocess(224, mean=(128.0, 117.0, 104.0), std=(1.0, 1.0, 1.0))
SLIM_224_INPUT = Preprocess(224, mean=(127.5, 127.5, 127.5), std=(127.5, 127.5, 127.5))
# torchvision's ImageNet constants and the `transform_input` of its weights compose to this, too.
INCEPTION_INPUT = dataclasses.replace(SLIM_224_INPUT, size=299)
INCEPTION_BICUBIC = dataclasses.replace(INCEPTION_INPUT, interpolation="bicubic")
RESNET_INPUT = dataclasses.replace(INCEPTION_BICUBIC, crop_fraction=0.8975)

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
    ModelCard(
        name="inception_v1_slim",
        summary="TF-slim's network: torchvision's table, padded as TensorFlow does",
        paper="1409.4842",
        table=googlenet.INCEPTION_V1_SLIM,
        numerics=spec.TF._replace(kernel_init=spec.Init("truncated", 0.01)),
        aux_heads={},
        dropout=0.2,
        preprocess=SLIM_224_INPUT,
    ),
    ModelCard(
        name="bn_inception",
        summary="the paper's table in the numerics of its Caffe weights: biases beside the norm",
        paper="1502.03167",
        table=inception_v2.BN_INCEPTION,
        numerics=spec.CADENE,
        aux_heads={},
        dropout=0.0,
        preprocess=BGR_MEANS_INPUT,
    ),
    ModelCard(
        name="inception_v2",
        summary="TF-slim's BN-Inception: a separable stem, 576 channels throughout",
        paper="1502.03167",
        table=inception_v2.INCEPTION_V2,
        numerics=spec.TF_V3,
        aux_heads={},
        dropout=0.2,
        preprocess=SLIM_224_INPUT,
    ),
    ModelCard(
        name="inception_v3",
        summary="torchvision's network: average pools count padding",
        paper="1512.00567",
        table=inception_v3.INCEPTION_V3,
        numerics=spec.TORCH_V3,
        aux_heads=inception_v3.AUX,
        dropout=0.5,
        preprocess=INCEPTION_INPUT,
    ),
    ModelCard(
        name="inception_v3_tf",
        summary="TF-slim's and Keras's numerics: average pools do not count padding, no gamma",
        paper="1512.00567",
        table=inception_v3.INCEPTION_V3,
        numerics=spec.TF_V3,
        aux_heads=inception_v3.AUX,
        dropout=0.2,
        preprocess=INCEPTION_INPUT,
    ),
    ModelCard(
        name="inception_v3_fid",
        summary="the network of the FID: a max pool in Mixed_7c, features in pool3; its weights have 1008 classes",
        paper="1512.00567",
        table=inception_v3.INCEPTION_V3_FID,
        numerics=spec.TORCH_V3._replace(count_padding=False),
        aux_heads={},
        dropout=0.0,
        preprocess=INCEPTION_INPUT,
    ),
    ModelCard(
        name="inception_v4",
        summary="timm's numerics, with TF-slim's auxiliary head",
        paper="1602.07261",
        table=inception_v4.INCEPTION_V4,
        numerics=spec.TIMM._replace(kernel_init=spec.HE_SLIM),
        aux_heads=inception_v4.AUX,
        dropout=0.2,
        preprocess=INCEPTION_BICUBIC,
    ),
    ModelCard(
        name="inception_resnet_v1",
        summary="the body of facenet, with a final linear block",
        paper="1602.07261",
        table=inception_resnet.INCEPTION_RESNET_V1,
        numerics=spec.FACENET,
        aux_heads={},
        dropout=0.2,
        preprocess=INCEPTION_INPUT,
    ),
    ModelCard(
        name="inception_resnet_v2",
        summary="timm's numerics, with TF-slim's auxiliary head",
        paper="1602.07261",
        table=inception_resnet.INCEPTION_RESNET_V2,
        numerics=spec.TIMM._replace(kernel_init=spec.GLOROT),
        aux_heads=inception_resnet.V2_AUX,
        dropout=0.2,
        preprocess=RESNET_INPUT,
    ),
    ModelCard(
        name="xception",
        summary="the paper's network in Keras's numerics: pools pad as TensorFlow does",
        paper="1610.02357",
        table=xception.XCEPTION,
        numerics=spec.KERAS_XCEPTION,
        aux_heads={},
        dropout=0.5,
        preprocess=INCEPTION_INPUT,
    ),
    ModelCard(
        name="xception_timm",
        summary="timm's legacy_xception: pools pad both sides, epsilon 1e-5",
        paper="1610.02357",
        table=xception.XCEPTION,
        numerics=spec.TIMM_XCEPTION,
        aux_heads={},
        dropout=0.5,
        preprocess=RESNET_INPUT,
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
    freeze: str = "none",
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
      freeze: the rows of the table that training leaves as they are, their batch statistics included: "none",
        "backbone" (all of them; classifier and auxiliary heads train) or "up_to:ENDPOINT".

    Raises:
      ValueError: an unknown name or endpoint, or a value out of range.
    """
    card = model_card(name)
    _check(num_classes, width, dropout, bn_group_size)
    heads = {
        tap: head._replace(
            rows=spec.scale_rows(head.rows, width), hidden=head.hidden and spec.scale_features(head.hidden, width)
        )
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
        frozen_up_to=spec.last_frozen(card.table, freeze),
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
