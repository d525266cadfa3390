"""The training and the evaluation step, as pure functions. Axis suffixes: B batch, K classes."""

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
    """Returns the loss summed over a batch, and (new batch statistics, sums of metrics).

    Args:
      params, batch_stats: variables of the model.
      batch: "image" uint8 [B, H, W, 3], "label" int32 [B], "mask" float32 [B].
      rng: key of the augmentations and of dropout.
      model, preprocess: the network, and how its input is normalised.
      label_smoothing: e of (1 - e) onehot + e / K.
      aux_weights: weight of each auxiliary loss.
      mixup, cutmix: alpha of each; 0 turns it off.
    """
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
    """Returns the gradients of the summed loss, the new batch statistics, and the sums of metrics of a batch.

    Args:
      params, batch_stats, batch, rng: see `batch_loss`.
      loss_fn: `batch_loss` with its keywords bound.
      grad_accum_steps: number of microbatches, run one after the other; batch norm sees one at a time.
    """

    def run_microbatch(batch_stats, microbatch, rng):
        grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
        (_, (batch_stats, sums)), grads = grad_fn(params, batch_stats, microbatch, rng)
        return grads, batch_stats, sums

    return accumulate(run_microbatch, batch_stats, batch, rng, grad_accum_steps)


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
      state: the loop donates it.
      batch: "image" uint8 [B, H, W, 3], "label", "mask" and "index" [B].
      gradients: `batch_gradients` with its keywords bound, for the global batch or wrapped by `on_each_device`.
      tx: the optimizer.
      seed: all randomness of step s is fold_in(seed, s).
      ema_decay: of the averaged variables, or None.

    Returns:
      The next state, and sums over the images of the batch: `metrics.classification_sums`, each loss term, and the
      norms of the mean gradient and of the new parameters.
    """
    rng = jax.random.fold_in(jax.random.key(seed), state.step)
    grads, batch_stats, sums = gradients(state.params, state.batch_stats, batch, rng)
    count = sums["count"]
    images = jnp.maximum(count, 1)
    grad_norm = global_norm(grads) / images
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
    # Times the count, since the caller divides all sums by it.
    norms = {"grad_norm": grad_norm * count, "param_norm": global_norm(state.params) * count}
    return state, sums | norms


def global_norm(tree: Any) -> jax.Array:
    """Returns `optax.tree.norm` of a tree; its small leaves are joined first, since each sum takes time to compile."""
    leaves = jax.tree.leaves(tree)
    small = [leaf.ravel() for leaf in leaves if leaf.size < mesh.SMALLEST_SHARDED]
    large = [leaf for leaf in leaves if leaf.size >= mesh.SMALLEST_SHARDED]
    return optax.tree.norm([*large, jnp.concatenate(small)] if small else large)


def accumulate(
    run_microbatch: Any, batch_stats: Any, batch: Batch, rng: jax.Array, microbatches: int
) -> tuple[Any, Any, Sums]:
    """Runs a function on each microbatch in turn; returns summed gradients, the last batch statistics, summed metrics.

    Args:
      run_microbatch: (batch_stats, microbatch, rng) -> (gradients, batch_stats, sums).
      batch_stats: before the first microbatch.
      batch: arrays [B, ...]; B is a multiple of `microbatches`.
      rng: key; microbatch i gets fold_in(rng, i), a single one gets `rng` itself.
      microbatches: their number.
    """
    if microbatches == 1:  # not a scan of length 1: XLA runs convolutions in loops many times slower on CPU
        return run_microbatch(batch_stats, batch, rng)

    def add(carry, numbered):
        (totals, batch_stats), (number, microbatch) = carry, numbered
        grads, batch_stats, sums = run_microbatch(batch_stats, microbatch, jax.random.fold_in(rng, number))
        return (jax.tree.map(jnp.add, totals, (grads, sums)), batch_stats), None

    # Strided microbatches, so that each device keeps its own images.
    split = jax.tree.map(lambda x: jnp.moveaxis(x.reshape(-1, microbatches, *x.shape[1:]), 1, 0), dict(batch))
    grads, _, sums = jax.eval_shape(run_microbatch, batch_stats, jax.tree.map(lambda x: x[0], split), rng)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), (grads, sums))
    ((grads, sums), batch_stats), _ = jax.lax.scan(add, (zeros, batch_stats), (jnp.arange(microbatches), split))
    return grads, batch_stats, sums


def update_ema(ema: Any, variables: Any, step: jax.Array, decay: float) -> Any:
    """Returns d ema + (1 - d) variables, d = min(decay, (step - 1) / (step + 9)): the average after `step` steps."""
    (keep,) = compute_once(jnp.minimum(decay, (step - 1) / (step + 9)))
    # Written so that the average of a constant is exactly that constant, down to the sign of a zero.
    return jax.tree.map(lambda new, old: new - keep * (new - old), variables, ema)


def eval_step(variables: Any, batch: Batch, *, model: InceptionNet, preprocess: Preprocess) -> Sums:
    """Returns `metrics.classification_sums` of a batch, by the main classifier."""
    output = cast(ModelOutput, model.apply(variables, normalise(batch["image"], preprocess), train=False))
    return metrics.classification_sums(output.logits, batch["label"], batch["mask"])
