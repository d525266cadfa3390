"""The models by name. An entry is a table, its numerics, its heads, and what its input looks like."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

import jax.numpy as jnp

from inception_jax import ops
from inception_jax.models import (
    arguments,
    googlenet,
    inception_resnet,
    inception_v2,
    inception_v3,
    inception_v4,
    inputs,
    spec,
    widths,
    xception,
)
from inception_jax.models.endpoints import Endpoint, cut, trace
from inception_jax.models.inputs import Preprocess as Preprocess
from inception_jax.models.network import InceptionNet
from inception_jax.suggestions import hint


@dataclasses.dataclass(frozen=True)
class ModelCard:
    """An entry of the zoo: all there is to know of a model before it has parameters.

    `begins_as` names the model whose weights can start this one: rows that both tables have alike take them over.
    """

    name: str
    summary: str
    paper: str
    table: spec.Table
    numerics: spec.Numerics
    aux_heads: Mapping[str, spec.AuxHead]
    dropout: float
    preprocess: Preprocess
    begins_as: str | None = None


_CARDS = (
    ModelCard(
        name="googlenet",
        summary="the paper's network in Caffe's numerics: biases, LRN, true 5x5",
        paper="1409.4842",
        table=googlenet.GOOGLENET,
        numerics=spec.CAFFE,
        aux_heads=googlenet.PAPER_AUX,
        dropout=0.4,
        preprocess=inputs.PAPER,
    ),
    ModelCard(
        name="googlenet_naive",
        summary="modules without 1x1 reductions (fig. 2a), to see what they save",
        paper="1409.4842",
        table=googlenet.GOOGLENET_NAIVE,
        numerics=spec.CAFFE,
        aux_heads=googlenet.PAPER_AUX,
        dropout=0.4,
        preprocess=inputs.PAPER,
    ),
    ModelCard(
        name="googlenet_bn",
        summary="the paper's table with batch norm in place of LRN and biases",
        paper="1409.4842",
        table=googlenet.GOOGLENET_BN,
        numerics=spec.TORCH,
        aux_heads=googlenet.PAPER_AUX,
        dropout=0.4,
        preprocess=inputs.IMAGENET,
    ),
    ModelCard(
        name="googlenet_gap",
        summary="GoogLeNet-GAP: googlenet up to 4e and a 3x3 convolution, for class activation maps of 14x14",
        paper="1512.04150",
        table=googlenet.GOOGLENET_GAP,
        numerics=spec.CAFFE,
        aux_heads=googlenet.PAPER_AUX,
        dropout=0.0,
        preprocess=inputs.PAPER,
        begins_as="googlenet",
    ),
    ModelCard(
        name="googlenet_torchvision",
        summary="torchvision's network: batch norm, 3x3 in the 5x5 branch, 2x2 pool4",
        paper="1409.4842",
        table=googlenet.GOOGLENET_TORCHVISION,
        numerics=spec.TORCH,
        aux_heads=googlenet.TORCHVISION_AUX,
        dropout=0.2,
        preprocess=inputs.IMAGENET,
    ),
    ModelCard(
        name="googlenet_cifar",
        summary="googlenet_bn behind a stem for 32 pixel images",
        paper="1409.4842",
        table=googlenet.GOOGLENET_CIFAR,
        numerics=spec.TORCH,
        aux_heads=googlenet.PAPER_AUX,
        dropout=0.4,
        preprocess=inputs.CIFAR,
    ),
    ModelCard(
        name="inception_v1_slim",
        summary="TF-slim's network: torchvision's table, padded as TensorFlow does",
        paper="1409.4842",
        table=googlenet.INCEPTION_V1_SLIM,
        numerics=spec.TF._replace(kernel_init=spec.Init("truncated", 0.01)),
        aux_heads={},
        dropout=0.2,
        preprocess=inputs.SLIM_224,
    ),
    ModelCard(
        name="bn_inception",
        summary="the paper's table in the numerics of its Caffe weights: biases beside the norm",
        paper="1502.03167",
        table=inception_v2.BN_INCEPTION,
        numerics=spec.CADENE,
        aux_heads={},
        dropout=0.0,
        preprocess=inputs.BGR_MEANS,
    ),
    ModelCard(
        name="inception_v2",
        summary="TF-slim's BN-Inception: a separable stem, 576 channels throughout",
        paper="1502.03167",
        table=inception_v2.INCEPTION_V2,
        numerics=spec.TF_V3,
        aux_heads={},
        dropout=0.2,
        preprocess=inputs.SLIM_224,
    ),
    ModelCard(
        name="inception_v3",
        summary="torchvision's network: average pools count padding",
        paper="1512.00567",
        table=inception_v3.INCEPTION_V3,
        numerics=spec.TORCH_V3,
        aux_heads=inception_v3.AUX,
        dropout=0.5,
        preprocess=inputs.SYMMETRIC_299,
    ),
    ModelCard(
        name="inception_v3_tf",
        summary="TF-slim's and Keras's numerics: average pools do not count padding, no gamma",
        paper="1512.00567",
        table=inception_v3.INCEPTION_V3,
        numerics=spec.TF_V3,
        aux_heads=inception_v3.AUX,
        dropout=0.2,
        preprocess=inputs.SLIM_299,
    ),
    ModelCard(
        name="inception_v3_fid",
        summary="the network of the FID: a max pool in Mixed_7c, features in pool3; its weights have 1008 classes",
        paper="1512.00567",
        table=inception_v3.INCEPTION_V3_FID,
        numerics=spec.TORCH_V3._replace(count_padding=False),
        aux_heads={},
        dropout=0.0,
        preprocess=inputs.FID,
    ),
    ModelCard(
        name="inception_v4",
        summary="timm's numerics, with TF-slim's auxiliary head",
        paper="1602.07261",
        table=inception_v4.INCEPTION_V4,
        numerics=spec.TIMM._replace(kernel_init=spec.HE_SLIM),
        aux_heads=inception_v4.AUX,
        dropout=0.2,
        preprocess=inputs.TIMM_299,
    ),
    ModelCard(
        name="inception_resnet_v1",
        summary="the body of facenet, with a final linear block",
        paper="1602.07261",
        table=inception_resnet.INCEPTION_RESNET_V1,
        numerics=spec.FACENET,
        aux_heads={},
        dropout=0.2,
        preprocess=inputs.SYMMETRIC_299,
    ),
    ModelCard(
        name="inception_resnet_v2",
        summary="timm's numerics, with TF-slim's auxiliary head",
        paper="1602.07261",
        table=inception_resnet.INCEPTION_RESNET_V2,
        numerics=spec.TIMM._replace(kernel_init=spec.GLOROT),
        aux_heads=inception_resnet.V2_AUX,
        dropout=0.2,
        preprocess=inputs.TIMM_299_WIDE,
    ),
    ModelCard(
        name="xception",
        summary="the paper's network in Keras's numerics: pools pad as TensorFlow does",
        paper="1610.02357",
        table=xception.XCEPTION,
        numerics=spec.KERAS_XCEPTION,
        aux_heads={},
        dropout=0.5,
        preprocess=inputs.SYMMETRIC_299,
    ),
    ModelCard(
        name="xception_timm",
        summary="timm's legacy_xception: pools pad both sides, epsilon 1e-5",
        paper="1610.02357",
        table=xception.XCEPTION,
        numerics=spec.TIMM_XCEPTION,
        aux_heads={},
        dropout=0.5,
        preprocess=inputs.TIMM_299_WIDE,
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
        near = hint(name, MODELS) or f" Models: {', '.join(MODELS)}."
        raise ValueError(f"No model is called {name!r}.{near} `inception-jax models` lists all.")
    return MODELS[name]


def endpoints(model: InceptionNet | str) -> tuple[Endpoint, ...]:
    """Returns name, stride and channels of each endpoint that a model returns, in order; a name stands for its model.

    Raises:
      ValueError: an unknown name.
    """
    net = create_model(model) if isinstance(model, str) else model
    return tuple(end for end in trace(net.table) if net.features is None or end.name in net.features)


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
    features_only: bool | str | Collection[str] = False,
    freeze: str = "none",
    implementation: ops.Implementation = "auto",
    head: spec.Head = spec.NO_HEAD,
    in_channels: int = 3,
) -> InceptionNet:
    """Returns a model of the zoo as a Flax module; parameters are float32 and come from `init`.

    Args:
      name: one of `list_models()`.
      num_classes: outputs of the classifier and of the auxiliary heads; 0: neither exists, logits are [B, 0], and the
        pooled features are the mean over height and width of the last endpoint.
      dtype: of the computation, float32 or bfloat16.
      aux: whether the auxiliary heads exist.
      width: multiplies the features of all convolutions and hidden layers, at least 16 each; not those of `head`.
      dropout: before the classifier; None takes the card's.
      numerics: how the table is read; None takes the card's lineage.
      bn_group_size: images that share their batch-norm statistics; None is the whole batch.
      features_only: endpoints (see `endpoints`) to return; the network ends at the last of them, without classifier.
        True: the last endpoint of each stride. The parameters are some of the whole model's: its variables serve, too.
      freeze: the rows of the table that training leaves as they are, their batch statistics included: "none",
        "backbone" (all of them; classifier and auxiliary heads train) or "up_to:ENDPOINT".
      implementation: of convolutions, pools and batch norms: "auto", "xla", "native" or "pallas", as
        `ops.implementation` describes them.
      head: layers between global average pooling and classifier, such as `spec.Head((spec.Conv(100, norm=False),))`,
        100 with ReLU, or `spec.Head((spec.Conv(512, relu=False),), embedding=True)`, a face embedding. An embedding
        is there without classes, too, and is returned with length 1 as `ModelOutput.embedding`.
      in_channels: of the images: 3 for RGB, 1 for grey. `ij.weights.adapt` fits weights of RGB images to others. The
        separable stem of inception_v2 makes 24 outputs of one channel, as of three.

    Raises:
      ValueError: an unknown name or endpoint, or a value out of range.
    """
    card = model_card(name)
    num_classes, aux = arguments.whole("num_classes", num_classes, 0), arguments.flag("aux", aux)
    width, dropout = _check_width(width), _check_dropout(dropout)
    in_channels = arguments.whole("in_channels", in_channels, 1)
    _check_head(head)
    arguments.check_dtype(dtype)
    ops.check_implementation(implementation)
    if bn_group_size is not None:
        bn_group_size = arguments.whole("bn_group_size", bn_group_size, 1)
    table, features = card.table, None
    if features_only is not False:
        num_classes = 0
        table, features = cut(name, card.table, features_only)
    table = spec.for_channels(table, in_channels)
    heads = card.aux_heads if aux and num_classes else {}
    return InceptionNet(
        name_in_zoo=name,
        table={key: widths.scale_width(row, width) for key, row in table.items()},
        numerics=numerics or card.numerics,
        aux_heads={tap: widths.scale_head(head, width) for tap, head in heads.items()},
        num_classes=num_classes,
        dropout=card.dropout if dropout is None else dropout,
        dtype=dtype,
        bn_group_size=bn_group_size,
        features=features,
        frozen_up_to=spec.last_frozen(table, freeze),
        implementation=implementation,
        head=head if features is None else spec.NO_HEAD,
        channels=in_channels,
    )


def _check_head(head: Any) -> None:
    if not isinstance(head, spec.Head):
        raise ValueError(f"head is {head!r}; it must be a spec.Head.")
    for row in head.rows:
        if not isinstance(row, spec.Conv) or row._replace(features=0) != spec.Conv(
            0, relu=row.relu, norm=row.norm, init=row.init
        ):
            raise ValueError(f"head has the row {row}; rows of a head are spec.Conv of 1x1 pixels.")
        arguments.whole("The features of a row of head", row.features, 1)
    if head.embedding and not head.rows:
        raise ValueError("head is an embedding without rows; it must have at least one.")


def _check_width(width: Any) -> float:
    number = arguments.real("width", width, "a number above 0")
    if number <= 0:
        raise ValueError(f"width is {width!r}; it must be above 0.")
    return number


def _check_dropout(dropout: Any) -> float | None:
    allowed = "at least 0 and below 1"
    number = None if dropout is None else arguments.real("dropout", dropout, f"a number of {allowed}")
    if number is not None and not 0 <= number < 1:
        raise ValueError(f"dropout is {dropout!r}; it must be {allowed}.")
    return number
