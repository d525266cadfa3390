"""The training and the evaluation step: pure functions, compiled by `compilation`. Axis suffixes: B batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax

from inception_jax.models.inputs import Preprocess, normalise
from inception_jax.models.network import InceptionNet, ModelOutput
from inception_jax.ops import compute_once
from inception_jax.parallel import mesh
from inception_jax.training import augment, losses, metrics
from inception_jax.training.state import TrainState

Batch = Mapping[str, jax.Array]
Sums = dict[str, jax.Array]
LossFn = Callable[[Any, Any, Batch, jax.Array], tuple[jax.Array, tuple[Any, Sums]]]
GradientFn = Callable[[Any, Any, Batch, jax.Array], tuple[Any, Any, Sums]]


def batch_loss(
    params: Any,
    batch_stats: Any,
    batch: Batch,
    rng: jax.Array,
    *,
    model: InceptionNet,
    preprocess: Preprocess,
    label_smoothing: float,
    aux_weights: Mapping[str, float],
    mixup: float,
    cutmix: float,
) -> tuple[jax.Array, tuple[Any, Sums]]:
    """Returns the loss summed over the images of a batch, its new batch statistics, and sums to report."""
    mixup_rng, cutmix_rng, dropout_rng = jax.random.split(rng, 3)
    images = normalise(batch["image"], preprocess)
    targets_BxK = losses.soft_targets(batch["label"], model.num_classes, label_smoothing)
    images, targets_BxK = augment.mixup(mixup_rng, images, targets_BxK, mixup)
    images, targets_BxK = augment.cutmix(cutmix_rng, images, targets_BxK, cutmix)
    output, updated = model.apply(
        {"params": params, "batch_stats": batch_stats},
        images,
        train=True,
        rngs={"dropout": dropout_rng},
        mutable=["batch_stats"],
    )
    loss_B, terms = losses.inception_loss(output, targets_BxK, aux_weights)
    sums = metrics.classification_sums(output.logits, batch["label"], batch["mask"])
    sums |= {f"loss_{name}": losses.masked_sum(term_B, batch["mask"]) for name, term_B in terms.items()}
    sums["loss"] = losses.masked_sum(loss_B, batch["mask"])
    return sums["loss"], (updated.get("batch_stats", {}), sums)


def batch_gradients(
    params: Any, batch_stats: Any, batch: Batch, rng: jax.Array, *, loss_fn: LossFn, grad_accum_steps: int
) -> tuple[Any, Any, Sums]:
    """Returns the gradients of the summed loss, the new batch statistics, and the sums of a batch.

    Args:
      params, batch_stats, batch, rng: see `batch_loss`.
      loss_fn: `batch_loss` with its keywords bound.
      grad_accum_steps: parts of the batch to run one after the other; batch norm then sees one part at a time.
    """

    def run_part(batch_stats, part, part_rng):
        grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
        (_, (batch_stats, sums)), grads = grad_fn(params, batch_stats, part, part_rng)
        return grads, batch_stats, sums

    return accumulate(run_part, batch_stats, batch, rng, grad_accum_steps)


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    gradients: GradientFn,
    tx: optax.GradientTransformation,
    seed: int,
    ema_decay: float | None,
) -> tuple[TrainState, Sums]:
    """Runs one optimizer step.

    Args:
      state: donated by the loop.
      batch: uint8 images [B, H, W, 3], label, mask and index [B].
      gradients: `batch_gradients` with its keywords bound, on the whole batch or `on_each_device`.
      tx: the optimizer.
      seed: all randomness of step s is fold_in(seed, s).
      ema_decay: of the averaged variables, or None.

    Returns:
      The next state, and sums over the images of the batch: those of `metrics`, every loss term, and two norms.
    """
    rng = jax.random.fold_in(jax.random.key(seed), state.step)
    grads, batch_stats, sums = gradients(state.params, state.batch_stats, batch, rng)
    count = sums["count"]
    images = jnp.maximum(count, 1)
    grad_norm = norm(grads) / images
    grads = jax.tree.map(lambda grad: grad / images, grads)
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    state = state.replace(
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        batch_stats=batch_stats,
        opt_state=opt_state,
    )
    if ema_decay is not None:
        state = state.replace(ema=update_ema(state.ema, state.variables, state.step, ema_decay))
    norms = {"grad_norm": grad_norm, "param_norm": norm(state.params)}
    return state, sums | {name: norm * count for name, norm in norms.items()}  # summed over images, as the others


def norm(tree: Any) -> jax.Array:
    """Returns the norm of all numbers of a tree; small leaves are one vector, since each sum takes time to compile."""
    leaves = jax.tree.leaves(tree)
    small = [leaf.ravel() for leaf in leaves if leaf.size < mesh.SMALLEST_SHARDED]
    large = [leaf for leaf in leaves if leaf.size >= mesh.SMALLEST_SHARDED]
    leaves = [*large, jnp.concatenate(small)] if small else large
    return jnp.sqrt(sum(jnp.square(leaf).sum() for leaf in leaves))


def accumulate(run_part: Any, batch_stats: Any, batch: Batch, rng: jax.Array, parts: int) -> tuple[Any, Any, Sums]:
    """Runs (batch_stats, part, rng) -> (grads, batch_stats, sums) on each part of a batch; adds up grads and sums."""
    if parts == 1:  # not a scan of one part: XLA runs convolutions in loops many times slower on CPU
        return run_part(batch_stats, batch, rng)

    def add_part(carry, numbered_part):
        (totals, batch_stats), (number, part) = carry, numbered_part
        grads, batch_stats, sums = run_part(batch_stats, part, jax.random.fold_in(rng, number))
        return (jax.tree.map(jnp.add, totals, (grads, sums)), batch_stats), None

    # Strided parts, so that each device keeps its own images.
    split = jax.tree.map(lambda x: jnp.moveaxis(x.reshape(-1, parts, *x.shape[1:]), 1, 0), dict(batch))
    grads, _, sums = jax.eval_shape(run_part, batch_stats, jax.tree.map(lambda x: x[0], split), rng)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), (grads, sums))
    ((grads, sums), batch_stats), _ = jax.lax.scan(add_part, (zeros, batch_stats), (jnp.arange(parts), split))
    return grads, batch_stats, sums


def update_ema(ema: Any, variables: Any, step: jax.Array, decay: float) -> Any:
    """Returns the average after `step` steps; its decay grows from 0 as (step - 1) / (step + 9), up to `decay`."""
    (keep,) = compute_once(jnp.minimum(decay, (step - 1) / (step + 9)))
    # In this form the average of what does not change is that very number, down to the sign of a zero.
    return jax.tree.map(lambda new, old: new - keep * (new - old), variables, ema)


def eval_step(variables: Any, batch: Batch, *, model: InceptionNet, preprocess: Preprocess) -> Sums:
    """Returns `metrics.classification_sums` of a batch, by the main classifier alone."""
    output = cast(ModelOutput, model.apply(variables, normalise(batch["image"], preprocess), train=False))
    return metrics.classification_sums(output.logits, batch["label"], batch["mask"])
