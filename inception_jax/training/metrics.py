"""Metrics as sums and counts, which add up over batches and devices. Axis suffixes: B batch, K classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

Sums = Mapping[str, jax.Array]


def classification_sums(logits_BxK: jax.Array, label_B: jax.Array, mask_B: jax.Array) -> dict[str, jax.Array]:
    """Returns sums over the images whose mask is above 0: loss, top-1 hits, top-5 hits and the number of images."""
    _, top_BxN = jax.lax.top_k(logits_BxK, min(5, logits_BxK.shape[-1]))
    hits_BxN = top_BxN == label_B[:, None]
    loss_B = optax.softmax_cross_entropy_with_integer_labels(logits_BxK, label_B)
    seen_B = mask_B > 0
    return {
        "loss": jnp.where(seen_B, loss_B, 0).sum(),
        "top1": jnp.sum(hits_BxN[:, 0] & seen_B),
        "top5": jnp.sum(hits_BxN.any(axis=1) & seen_B),
        "count": jnp.sum(seen_B),
    }


def means(batches: Sequence[Mapping[str, float | np.ndarray]]) -> dict[str, float]:
    """Returns the mean of each metric over all images, from the sums of each batch; adds in float64."""
    totals = {name: sum(float(sums[name]) for sums in batches) for name in batches[0]}
    count = totals.pop("count")
    return {name: total / max(count, 1) for name, total in totals.items()} | {"count": int(count)}
