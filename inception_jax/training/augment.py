"""Augmentations that mix the images of a batch, on the device. Axis suffixes: B batch, K classes."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def mixup(rng: jax.Array, images: jax.Array, targets_BxK: jax.Array, alpha: float) -> tuple[jax.Array, jax.Array]:
    """Blends each image and target with its neighbour's, with one Beta(alpha, alpha) weight a batch (arXiv 1710.09412).

    Args:
      rng: a JAX key.
      images: [B, H, W, C] floats.
      targets_BxK: soft targets.
      alpha: parameter of the Beta distribution; 0 returns the inputs unchanged.
    """
    if not alpha:
        return images, targets_BxK
    weight = jax.random.beta(rng, alpha, alpha)
    return _blend(images, weight), _blend(targets_BxK, weight)


def cutmix(rng: jax.Array, images: jax.Array, targets_BxK: jax.Array, alpha: float) -> tuple[jax.Array, jax.Array]:
    """Pastes a box of its neighbour into each image and mixes the targets by area (arXiv 1905.04899).

    The box has the image's aspect ratio and 1 - Beta(alpha, alpha) of its area, before clipping at the border.
    """
    if not alpha:
        return images, targets_BxK
    beta_rng, row_rng, column_rng = jax.random.split(rng, 3)
    side = jnp.sqrt(1 - jax.random.beta(beta_rng, alpha, alpha))
    height, width = images.shape[1:3]
    box = _interval(row_rng, side, height)[:, None] & _interval(column_rng, side, width)[None, :]
    share = box.mean()
    images = jnp.where(box[None, :, :, None], _neighbour(images), images)
    return images, (1 - share) * targets_BxK + share * _neighbour(targets_BxK)


def _blend(x: jax.Array, weight: jax.Array) -> jax.Array:
    return (weight * x + (1 - weight) * _neighbour(x)).astype(x.dtype)


def _neighbour(x: jax.Array) -> jax.Array:
    return jnp.roll(x, 1, axis=0)


def _interval(rng: jax.Array, share: jax.Array, size: int) -> jax.Array:
    """Returns a boolean mask [size], True on an interval of `share` of the pixels around a random centre."""
    pixels = jnp.arange(size) + 0.5
    return jnp.abs(pixels - jax.random.uniform(rng, maxval=size)) < share * size / 2
