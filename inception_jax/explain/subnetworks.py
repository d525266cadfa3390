"""Cuts a network at an endpoint, so that `jax.grad` can differentiate with respect to the activations there.

Both halves are networks themselves, with some of the rows of the table, and run with the parameters of the whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import jax

from inception_jax.errors import UserError
from inception_jax.models import spec
from inception_jax.models.endpoints import trace
from inception_jax.models.network import InceptionNet, ModelOutput
from inception_jax.suggestions import hint

Variables = Mapping[str, Any]


def to_endpoint(model: InceptionNet, name: str, variables: Variables, images: jax.Array) -> jax.Array:
    """Returns the activations [B, H, W, C] at an endpoint for normalised images, in evaluation.

    Raises:
      UserError: the model has no such endpoint.
    """
    first, _ = _tables(model, name)
    half = model.clone(table=first, aux_heads={}, num_classes=0, features=(name,), frozen_up_to=None, head=spec.NO_HEAD)
    return cast(ModelOutput, half.apply(variables, images)).endpoints[name]


def from_endpoint(model: InceptionNet, name: str, variables: Variables, activations: jax.Array) -> jax.Array:
    """Returns the logits [B, K] that follow from the activations [B, H, W, C] at an endpoint, in evaluation.

    Raises:
      UserError: the model has no such endpoint.
    """
    _, rest = _tables(model, name)
    half = model.clone(table=rest, aux_heads={}, features=(), frozen_up_to=None, channels=None)
    return cast(ModelOutput, half.apply(variables, activations)).logits


def averaged_endpoint(model: InceptionNet) -> str:
    """Returns the endpoint whose activations are averaged for the classifier.

    It is the last one, except in the network of the FID, whose last endpoint is the average itself.
    """
    ends = [end.name for end in trace(model.table)]
    while model.table[ends[-1]] == spec.AdaptivePool(1):
        ends.pop()
    return ends[-1]


def check_linear(model: InceptionNet, source: str) -> None:
    """Raises a `UserError` unless the classifier reads the averages of the last activations themselves."""
    if model.head.rows:
        raise UserError(
            f"{source or model.name_in_zoo} has {model.head} before the classifier, so it has no class activation "
            "maps; Grad-CAM works (--method gradcam, `explain.cam.grad_cam`)."
        )


def check_endpoint(model: InceptionNet, name: str) -> None:
    """Raises a `UserError` that offers the nearest, if the model has no such endpoint."""
    if name not in model.table:
        near = hint(name, model.table)
        raise UserError(f"{model.name_in_zoo} has no endpoint {name!r}.{near} All: {', '.join(model.table)}.")


def _tables(model: InceptionNet, name: str) -> tuple[spec.Table, spec.Table]:
    check_endpoint(model, name)
    names = list(model.table)
    end = names.index(name) + 1
    first, rest = ({key: model.table[key] for key in half} for half in (names[:end], names[end:]))
    return first, rest
