"""Weights: published sets and their cards, converters in and out, and our own files."""

from inception_jax.weights.cards import CARDS, WeightCard, list_cards, weight_card
from inception_jax.weights.compare import compare
from inception_jax.weights.convert import export, origins
from inception_jax.weights.files import Info, Report, Weights, save, save_tensors
from inception_jax.weights.fitting import adapt, transfer
from inception_jax.weights.folding import fold_preprocess
from inception_jax.weights.loading import load, weights_folder

__all__ = [
    "CARDS",
    "Info",
    "Report",
    "WeightCard",
    "Weights",
    "adapt",
    "compare",
    "export",
    "fold_preprocess",
    "list_cards",
    "load",
    "origins",
    "save",
    "save_tensors",
    "transfer",
    "weight_card",
    "weights_folder",
]
