"""Weights: cards of published sets, converters from and to other frameworks, and the package's own file format.

Modules are imported on first use: the process that reads a third-party file needs only `readers`, and no JAX.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from inception_jax.lazy import submodule, submodules

if TYPE_CHECKING:
    from inception_jax.weights.comparison import compare
    from inception_jax.weights.convert import export
    from inception_jax.weights.files import Report, Weights, WeightsInfo, save, save_tensors
    from inception_jax.weights.fitting import adapt, reset_classifier, transfer
    from inception_jax.weights.folding import fold_preprocess
    from inception_jax.weights.loading import load
    from inception_jax.weights.places import weights_folder
    from inception_jax.weights.published.cards import CARDS, WeightCard, list_cards, weight_card
    from inception_jax.weights.recognition import origins

_HOME = {
    "CARDS": "published.cards",
    "Report": "files",
    "WeightCard": "published.cards",
    "Weights": "files",
    "WeightsInfo": "files",
    "adapt": "fitting",
    "compare": "comparison",
    "export": "convert",
    "fold_preprocess": "folding",
    "list_cards": "published.cards",
    "load": "loading",
    "origins": "recognition",
    "reset_classifier": "fitting",
    "save": "files",
    "save_tensors": "files",
    "transfer": "fitting",
    "weight_card": "published.cards",
    "weights_folder": "places",
}

__all__ = [
    "CARDS",
    "Report",
    "WeightCard",
    "Weights",
    "WeightsInfo",
    "adapt",
    "compare",
    "export",
    "fold_preprocess",
    "list_cards",
    "load",
    "origins",
    "reset_classifier",
    "save",
    "save_tensors",
    "transfer",
    "weight_card",
    "weights_folder",
]


if not TYPE_CHECKING:  # with a `__getattr__`, a type checker would accept any name

    def __getattr__(name: str) -> Any:
        if name in _HOME:
            return getattr(importlib.import_module(f"inception_jax.weights.{_HOME[name]}"), name)
        return submodule(__name__, name)

    def __dir__() -> list[str]:
        return sorted({*__all__, *submodules(__name__)})
