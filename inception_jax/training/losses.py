"""Losses, as pure functions. Axis suffixes: B batch, K classes."""

from __future__ import annotations

from collections.abc import Mapping

import chex
import jax
import jax.numpy as jnp
import optax

from inception_jax.models.network import ModelOutput


def soft_targets(label_B: jax.Array, num_classes: int, label_smoothing: float) -> jax.Array:
    """Returns targets [B, K] = (1 - e) onehot + e / K (arXiv 1512.00567, section 7)."""
    return optax.smooth_labels(jax.nn.one_hot(label_B, num_classes), label_smoothing)


def inception_loss(
    output: ModelOutput, targets_BxK: jax.Array, aux_weights: Mapping[str, float]
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns L_main + sum over heads of weight * L_aux per image [B], and its terms by name (1409.4842, section 5).

    Args:
      output: of the model in training.
      targets_BxK: soft targets.
      aux_weights: weight of each auxiliary loss; "aux_4a" is that of the head on endpoint 4a.
    """
    terms = {"main": optax.softmax_cross_entropy(output.logits, targets_BxK)}
    total_B = terms["main"]
    for tap, logits_BxK in output.aux.items():
        terms[f"aux_{tap}"] = optax.softmax_cross_entropy(logits_BxK, targets_BxK)
        total_B += aux_weights[f"aux_{tap}"] * terms[f"aux_{tap}"]
    return total_B, terms


def masked_sum(values_B: jax.Array, mask_B: jax.Array) -> jax.Array:
    """Returns the sum of `values_B` where `mask_B` is above 0; the other values may be anything, even NaN."""
    chex.assert_equal_shape([values_B, mask_B])
    return jnp.where(mask_B > 0, values_B, 0).sum()
