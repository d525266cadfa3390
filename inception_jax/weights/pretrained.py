"""Models with their weights, in one line: `load`, and `create_model(..., pretrained=True)`."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, overload

import jax.numpy as jnp

from inception_jax.errors import UserError, printable
from inception_jax.models import zoo
from inception_jax.models.network import InceptionNet
from inception_jax.suggestions import hint
from inception_jax.weights import loading
from inception_jax.weights.files import Report, Weights, WeightsInfo
from inception_jax.weights.published.names import card_of, find_card
from inception_jax.weights.published.names import list_models as list_models

MODEL_OPTIONS = ("dtype", "features_only", "freeze", "dropout", "bn_group_size", "implementation")
"""The arguments of `create_model` that do not change what variables a model has."""


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A model and its weights. It unpacks into two: `model, variables = ij.load("inception_v3.tv_in1k")`.

    Attributes:
      model: the Flax module.
      variables: for `model.apply`: {"params", "batch_stats"}, NumPy float32.
      info: all that it takes to use them: classes and their names, preprocessing, source.
      report: what was loaded, re-initialised and left out.
    """

    model: InceptionNet
    variables: dict[str, Any]
    info: WeightsInfo
    report: Report

    def __iter__(self) -> Iterator[Any]:
        """Yields the model, then the variables."""
        return iter((self.model, self.variables))

    @property
    def weights(self) -> Weights:
        """The weights alone, as `ij.Predictor` and `ij.weights` take them."""
        return Weights(self.info, self.variables, self.report)


def load(source: str | Path | Weights | Any, /, **options: Any) -> Pretrained:
    """Returns a model with its weights, downloaded if this machine does not have them.

    A Flax module holds no variables, so what timm returns as one object are two here. They unpack:

      model, variables = ij.load("inception_v3.tv_in1k")
      output = model.apply(variables, images)  # images as `ij.load(...).info.preprocess` says

    Args:
      source: "inception_v3.tv_in1k" and the other names of `ij.list_models(pretrained=True)`; a model of the zoo, for
        its default weights; the id of a card; "hf-hub:OWNER/NAME[@REVISION]"; "local-dir:FOLDER"; or what else
        `ij.weights.load` takes: a file, a Keras model, `Weights`.
      options: arguments of `ij.weights.load` (num_classes, aux, preprocess, unverified, ...), and of `ij.create_model`:
        dtype, features_only, freeze, dropout, bn_group_size, implementation.

    Raises:
      UserError: as `ij.weights.load`; or an option is unknown or out of range.
    """
    ours = _options(options)
    loaded = loading.load(source, **{key: value for key, value in options.items() if key not in ours})
    try:
        model = loaded.create_model(**ours)
    except ValueError as error:
        raise UserError(str(error)) from error
    return Pretrained(model, loaded.variables, loaded.info, loaded.report)


@overload
def create_model(
    name: str,
    num_classes: int | None = None,
    dtype: Any = jnp.float32,
    aux: bool | None = None,
    *,
    pretrained: Literal[False] = False,
    **options: Any,
) -> InceptionNet: ...


@overload
def create_model(
    name: str,
    num_classes: int | None = None,
    dtype: Any = jnp.float32,
    aux: bool | None = None,
    *,
    pretrained: Literal[True],
    **options: Any,
) -> Pretrained: ...


def create_model(
    name: str,
    num_classes: int | None = None,
    dtype: Any = jnp.float32,
    aux: bool | None = None,
    *,
    pretrained: bool = False,
    **options: Any,
) -> InceptionNet | Pretrained:
    """Returns a model of the zoo as a Flax module; with `pretrained`, the pair of `load`: the module and its variables.

    Args:
      name: one of `ij.list_models()`, or with a tag one of `ij.list_models(pretrained=True)`. With `pretrained` a name
        without a tag stands for its default weights, and everything that `load` takes is allowed.
      num_classes: outputs of the classifier and of the auxiliary heads, 0: neither exists. None: 1000; with
        `pretrained`, those of the weights. Another number than theirs re-initialises the classifiers.
      dtype: of the computation, float32 or bfloat16.
      aux: whether the auxiliary heads exist. None: yes; with `pretrained`, if the weights have them.
      pretrained: load the weights that `name` stands for, downloaded if this machine does not have them.
      options: the further arguments of `models.zoo.create_model` (width, dropout, features_only, in_channels, ...), or
        with `pretrained` those of `load`.

    Raises:
      ValueError: an unknown name or endpoint, or a value out of range.
      UserError: with `pretrained`, as `load`.
    """
    if pretrained:
        if isinstance(name, str) and _is_plain(name):
            card_of(name)  # an unknown one is no file
        given = {"num_classes": num_classes, "aux": aux}
        return load(name, dtype=dtype, **{key: value for key, value in given.items() if value is not None}, **options)
    if name not in zoo.MODELS and (card := find_card(name)):
        name = card.model
    classes, heads = 1000 if num_classes is None else num_classes, True if aux is None else aux
    return zoo.create_model(name, classes, dtype, heads, **options)


def _is_plain(name: str) -> bool:
    """Returns whether a text can only be a name of published weights: no place of another kind, and no file."""
    return not name.startswith(("hf-hub:", "hf_hub:", "local-dir:")) and not Path(name).is_file()


def _options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options of `load` that are for `create_model`.

    Raises:
      UserError: an option is neither for it nor for `ij.weights.load`.
    """
    known = [*list(inspect.signature(loading.load).parameters)[1:], *MODEL_OPTIONS]
    for option in options:
        if option not in known:
            shown = printable(option)
            raise UserError(f"load has no option {shown!r}.{hint(shown, known)} Allowed: {', '.join(known)}.")
    return {key: value for key, value in options.items() if key in MODEL_OPTIONS}
