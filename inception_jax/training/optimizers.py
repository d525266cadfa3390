"""Optimizers and learning-rate schedules by name."""

from __future__ import annotations

from collections.abc import Callable, Collection

import jax
import jax.numpy as jnp
import optax

from inception_jax.ops import compute_once
from inception_jax.training.config import OptimizerConfig, ScheduleConfig, steps


def make_schedule(config: ScheduleConfig, peak: float, total_steps: int, steps_per_epoch: float) -> optax.Schedule:
    """Returns the learning rate as a function of the step, after a linear warm-up.

    | name | learning rate |
    |---|---|
    | constant | `peak` |
    | exponential | times `decay_rate` every `decay_every`, in stairs; 0.96 and 8 epochs in 1409.4842, section 6 |
    | poly | from `peak` to `peak` x `end_factor` as (1 - progress)^`power`, as in Caffe |
    | cosine | half a cosine from `peak` to `peak` x `end_factor` |
    """
    warmup = steps(config.warmup, steps_per_epoch)
    rest = max(total_steps - warmup, 1)
    match config.name:
        case "constant":
            main = optax.constant_schedule(peak)
        case "exponential":
            stair = steps(config.decay_every, steps_per_epoch)
            main = optax.exponential_decay(peak, stair, config.decay_rate, staircase=True)
        case "poly":
            main = optax.polynomial_schedule(peak, peak * config.end_factor, config.power, rest)
        case "cosine":
            main = optax.cosine_decay_schedule(peak, rest, alpha=config.end_factor)
    if not warmup:
        return main
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), main], [warmup])


def make_optimizer(
    config: OptimizerConfig, schedule: optax.Schedule, frozen: Callable[[optax.Params], optax.Params] | None = None
) -> optax.GradientTransformation:
    """Returns the optimizer: gradients are clipped first, and weight decay acts on kernels only.

    `rmsprop_tf` follows TensorFlow, with which the V3 and V4 papers trained: epsilon is inside the square root, the
    accumulator starts at one, and the learning rate is applied before the momentum.

    Args:
      config: of the optimizer.
      schedule: the learning rate by step.
      frozen: returns a tree of booleans for the parameters; those marked True are neither updated nor decayed, have no
        optimizer state and do not count in the norm that is clipped. None: all are trained.
    """
    rate = _once(schedule)
    clip = optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity()
    decay = optax.add_decayed_weights(config.weight_decay, mask=kernels)
    epsilon = {"rmsprop_tf": 1.0, "adamw": 1e-8}.get(config.name, 0.0) if config.epsilon is None else config.epsilon
    match config.name:
        case "sgd":
            update = optax.chain(decay, optax.sgd(rate, config.momentum, config.nesterov))
        case "rmsprop_tf":
            rmsprop = optax.rmsprop(
                rate, config.decay, epsilon, initial_scale=1.0, eps_in_sqrt=True, momentum=config.momentum
            )
            update = optax.chain(decay, rmsprop)
        case "adamw":
            update = optax.adamw(
                rate, config.beta1, config.beta2, epsilon, weight_decay=config.weight_decay, mask=kernels
            )
        case "lars":
            update = optax.lars(
                rate,
                config.weight_decay,
                weight_decay_mask=kernels,
                trust_ratio_mask=kernels,
                momentum=config.momentum,
                nesterov=config.nesterov,
            )
    optimizer = optax.chain(clip, update)
    if frozen is None:
        return optimizer

    def labels(params: optax.Params) -> optax.Params:
        return jax.tree.map(lambda is_frozen: "frozen" if is_frozen else "trained", frozen(params))

    return optax.partition({"trained": optimizer, "frozen": optax.set_to_zero()}, labels)


def _once(schedule: optax.Schedule) -> optax.Schedule:
    """Returns a schedule whose value is computed once per step on CPUs, not again for every parameter."""
    return lambda step: compute_once(jnp.asarray(schedule(step)))[0]


def frozen_parameters(
    modules: Collection[str], paths: Collection[str]
) -> Callable[[optax.Params], optax.Params] | None:
    """Returns a function that marks frozen parameters with True, for `make_optimizer`; None if nothing is frozen.

    Args:
      modules: names of modules that are frozen whole.
      paths: "/"-joined paths of single parameters.
    """

    def frozen(params: optax.Params) -> optax.Params:
        return jax.tree_util.tree_map_with_path(
            lambda path, _: path[0].key in modules or jax.tree_util.keystr(path, simple=True, separator="/") in paths,
            params,
        )

    return frozen if modules or paths else None


def kernels(params: optax.Params) -> optax.Params:
    """Returns a tree that is True at convolution and linear kernels, False at biases and batch-norm parameters."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)
