"""The Inception family, from GoogLeNet to Xception, in JAX and Flax.

Nothing is imported before it is used: `import inception_jax` costs no JAX, no device and no network.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from inception_jax import moved
from inception_jax.version import __version__

if TYPE_CHECKING:
    from inception_jax import data, demo, describe, explain, inference, models, ops, parallel, plan, training, weights
    from inception_jax.inference.predictor import Predictor
    from inception_jax.models import nnx
    from inception_jax.models.endpoints import Endpoint
    from inception_jax.models.network import InceptionNet, ModelOutput
    from inception_jax.models.zoo import MODELS, ModelCard, endpoints, model_card
    from inception_jax.weights.pretrained import Pretrained, create_model, list_models, load

_HOME = {
    "Endpoint": "inception_jax.models.endpoints",
    "InceptionNet": "inception_jax.models.network",
    "ModelOutput": "inception_jax.models.network",
    "MODELS": "inception_jax.models.zoo",
    "ModelCard": "inception_jax.models.zoo",
    "Predictor": "inception_jax.inference.predictor",
    "Pretrained": "inception_jax.weights.pretrained",
    "create_model": "inception_jax.weights.pretrained",
    "endpoints": "inception_jax.models.zoo",
    "list_models": "inception_jax.weights.pretrained",
    "load": "inception_jax.weights.pretrained",
    "model_card": "inception_jax.models.zoo",
}
_SUBPACKAGES = (
    "data",
    "demo",
    "describe",
    "explain",
    "inference",
    "models",
    "ops",
    "parallel",
    "plan",
    "training",
    "weights",
)

__all__ = [
    "__version__",
    "Endpoint",
    "InceptionNet",
    "ModelOutput",
    "MODELS",
    "ModelCard",
    "Predictor",
    "Pretrained",
    "create_model",
    "endpoints",
    "list_models",
    "load",
    "model_card",
    "data",
    "demo",
    "describe",
    "explain",
    "inference",
    "models",
    "nnx",
    "ops",
    "parallel",
    "plan",
    "training",
    "weights",
]

moved.install()


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    if name == "nnx":
        return importlib.import_module("inception_jax.models.nnx")
    if name in _SUBPACKAGES:
        return importlib.import_module(f"inception_jax.{name}")
    raise AttributeError(f"module 'inception_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
