"""The one network of the zoo: it walks a table, taps the auxiliary heads and ends in global average pooling."""

from __future__ import annotations

import dataclasses
import functools
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from flax.core import FrozenDict

from inception_jax import ops
from inception_jax.models import arguments, layers, sizes, spec
from inception_jax.models.convolution import ConvNormAct
from inception_jax.ops.deferred_norm import Activations, apply_norm


@flax.struct.dataclass
class ModelOutput:
    """What every model returns, in every mode.

    logits     [B, K], float32 or better; [B, 0] of a network without classifier
    aux        logits [B, K] of the auxiliary heads by tap; empty when they are off or `train` is False
    endpoints  the activations [B, H, W, C] after each row of the table, by row name, or after the rows that
               `features_only` asked for; the unused ones cost nothing under jit
    pooled     [B, C], the mean over height and width of the last activations, float32 or better
    embedding  [B, D], of length 1 each, float32 or better; [B, 0] of a network without embedding

    Heads and endpoints are in the order of the table, or in that of `features_only`: JAX returns a plain dict sorted
    by its keys.
    """

    logits: jax.Array
    aux: OrderedDict[str, jax.Array]
    endpoints: OrderedDict[str, jax.Array]
    pooled: jax.Array
    embedding: jax.Array

    def __repr__(self) -> str:
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return f"ModelOutput({', '.join(f'{name}={_described(value)}' for name, value in fields.items())})"


def _described(value: Any) -> str:
    """Returns dtype and shape of an array, or of the arrays of a mapping by name."""
    if not isinstance(value, Mapping):
        return arguments.described(value)
    return f"{{{', '.join(f'{name!r}: {arguments.described(leaf)}' for name, leaf in value.items())}}}"


class InceptionNet(nn.Module):
    """A network of the Inception family, read from its table.

    Call it with normalised images [B, H, W, channels] (the model never transforms its input; see the card's
    `preprocess`).
    `train=True` uses the statistics of the batch, runs dropout (rng "dropout") and the auxiliary heads, and updates the
    collection "batch_stats". `init` always creates the parameters of the heads, if `aux` is on.

    The rows up to `frozen_up_to` run as in evaluation also in training, and no gradient goes through them: their
    batch norms normalise by the running statistics and leave them as they are.

    Raises:
      ValueError: the images are no floats [B, H, W, channels], or smaller than the table can read; in training, no
        running statistics were given, they are not mutable, or there is no rng for dropout.
    """

    name_in_zoo: str
    table: spec.Table
    numerics: spec.Numerics
    aux_heads: Mapping[str, spec.AuxHead]
    num_classes: int
    dropout: float
    dtype: Any = jnp.float32
    bn_group_size: int | None = None
    features: tuple[str, ...] | None = None  # the endpoints to return; None: all
    frozen_up_to: str | None = None  # the last row that does not train; None: all do
    implementation: ops.Implementation = "auto"  # of convolutions, pools and batch norms
    channels: int | None = 3  # of images; None: what it reads are no images
    head: spec.Head = spec.NO_HEAD  # before the classifier

    def __repr__(self) -> str:
        facts = {"num_classes": self.num_classes, "dtype": jnp.dtype(self.dtype).name, "aux": tuple(self.aux_heads)}
        chosen = {name: getattr(self, name) for name in ("bn_group_size", "features", "frozen_up_to")}
        chosen["implementation"] = self.implementation if self.implementation != "auto" else None
        chosen["channels"] = self.channels if self.channels != 3 else None
        chosen["head"] = str(self.head) if self.head.rows else None
        facts |= {"dropout": self.dropout, "rows": len(self.table)}
        facts |= {name: value for name, value in chosen.items() if value is not None}
        return f"InceptionNet({self.name_in_zoo!r}, {', '.join(f'{key}={value!r}' for key, value in facts.items())})"

    def __post_init__(self) -> None:
        # Tables are dicts; frozen, they let a module be hashed, and so be a static argument of a jitted function.
        self.table, self.aux_heads = FrozenDict(self.table), FrozenDict(self.aux_heads)
        super().__post_init__()

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> ModelOutput:
        self._check(images, train)
        # `init` draws parameters alone, on whatever machine: that needs no certain implementation.
        implementation = "auto" if self.is_initializing() else self.implementation
        conv = functools.partial(
            ConvNormAct,
            numerics=self.numerics,
            bn_group_size=self.bn_group_size,
            dtype=self.dtype,
            implementation=implementation,
        )
        pool = functools.partial(layers.pool, numerics=self.numerics, implementation=implementation)
        endpoints: OrderedDict[str, jax.Array] = OrderedDict()
        aux: OrderedDict[str, jax.Array] = OrderedDict()
        frozen = self.frozen_rows()
        x: Activations = images.astype(self.dtype)
        for name, row in self.table.items():
            trains = train and name not in frozen
            x = layers.run_row(row, x, trains, conv, pool, spec.module_name(name, row))
            if name in frozen:  # each of them: a head on a frozen row sends no gradient back either
                x = jax.lax.stop_gradient(x)
            endpoints[name] = apply_norm(x)
            if name in self.aux_heads and (train or self.is_initializing()):
                head = layers.AuxHead(
                    self.aux_heads[name], self.num_classes, self.numerics, conv, pool, self.dtype, name=f"aux_{name}"
                )
                aux[name] = head(x, train)
        last = apply_norm(x)
        pooled = last.mean((1, 2), dtype=jnp.promote_types(last.dtype, jnp.float32))
        features, embedding, logits = pooled, pooled[:, :0], pooled[:, :0]
        if self.head.rows:
            wide = functools.partial(conv, dtype=pooled.dtype)
            features = layers.Head(self.head.rows, wide, pool, name="head")(pooled, train)
        if self.head.embedding:
            embedding = layers.unit_length(features)
        if self.num_classes:
            classifier = layers.Classifier(self.num_classes, self.dropout, self.numerics.kernel_init, name="classifier")
            logits = classifier(features, train)
        if self.features is not None:
            endpoints = OrderedDict((name, endpoints[name]) for name in self.features)
        return ModelOutput(logits, aux if train else OrderedDict(), endpoints, pooled, embedding)

    @property
    def num_features(self) -> int:
        """The channels of the pooled features."""
        return sizes.chain_channels(tuple(self.table.values()), self.channels or 0)

    def reset_classifier(self, num_classes: int) -> InceptionNet:
        """Returns the network with a classifier for so many classes; 0: with none, and without auxiliary heads.

        Layers between pooling and classifier are dropped, but for an embedding. `ij.weights.reset_classifier` also
        returns variables that fit; of this network's, all but the classifiers' do.

        Raises:
          ValueError: `num_classes` is no whole number of at least 0.
        """
        return self.clone(
            num_classes=arguments.whole("num_classes", num_classes, 0),
            aux_heads=self.aux_heads if num_classes else {},
            head=self.head if self.head.embedding else spec.NO_HEAD,
        )

    def frozen_rows(self) -> tuple[str, ...]:
        """Returns the names of the rows that do not train."""
        names = tuple(self.table)
        return names[: names.index(self.frozen_up_to) + 1] if self.frozen_up_to is not None else ()

    def frozen_modules(self) -> frozenset[str]:
        """Returns what the rows that do not train are called among the parameters."""
        return frozenset(spec.module_name(name, self.table[name]) for name in self.frozen_rows())

    def minimum_input(self, train: bool = False) -> int:
        """Returns the smallest image size in pixels that the network reads; training runs the auxiliary heads, too."""
        return sizes.minimum_input(self.table, self.numerics, self.aux_heads if train else None)

    def _check(self, images: jax.Array, train: bool) -> None:
        arguments.check_images(self.name_in_zoo, images, self.channels)
        self.check_size(images.shape[1], images.shape[2], heads=train or self.is_initializing())

    def check_size(self, height: int, width: int, heads: bool) -> None:
        """Raises a `ValueError` if the network, or one of its heads where `heads`, reads no images of this size."""
        minimum = self.minimum_input(heads)
        if min(height, width) < minimum:
            hint = f"; aux=False needs {self.minimum_input()}" if minimum > self.minimum_input() else ""
            raise ValueError(
                f"{self.name_in_zoo} reads images of at least {minimum} x {minimum} pixels{hint}, "
                f"not {height} x {width}."
            )
        for size in (height, width):
            if not self._reads(size, heads):
                nearest = next(n for gap in range(size) for n in (size - gap, size + gap) if self._reads(n, heads))
                raise ValueError(
                    f"{self.name_in_zoo} cannot run at {size} pixels: branches of one block give outputs of different "
                    f"sizes. The nearest size is {nearest}."
                )

    def _reads(self, size: int, heads: bool) -> bool:
        return sizes.fits(self.table, self.numerics, self.aux_heads if heads else {}, size)
