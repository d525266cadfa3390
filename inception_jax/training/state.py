"""The state of a run: one tree with everything that a training step changes."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from inception_jax.models.arguments import described, in_tree
from inception_jax.models.network import InceptionNet


class TrainState(flax.struct.PyTreeNode):
    """The state of a run.

    Attributes:
      step: int32 scalar, number of finished steps.
      params: parameters, float32.
      batch_stats: running statistics of batch norm, float32.
      opt_state: state of the optimizer.
      ema: {"params", "batch_stats"} averaged over the steps (Polyak), or {} when off.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: optax.OptState
    ema: dict[str, Any]

    def __repr__(self) -> str:
        """Summarises the state, since its arrays would print as megabytes."""
        params = sum(getattr(leaf, "size", 0) for leaf in jax.tree.leaves(self.params))
        average = ", averaged variables" if self.ema else ""
        return f"TrainState(step={_shown(self.step)}, {params:,} parameters{average}; {in_tree(self)} in all)"

    @property
    def variables(self) -> dict[str, Any]:
        """The variables that `model.apply` takes."""
        return {"params": self.params, "batch_stats": self.batch_stats}


def _shown(step: Any) -> str:
    """Returns a step as text, even if it is traced, donated or not on this process."""
    if isinstance(step, jax.Array) and not isinstance(step, jax.core.Tracer):
        return str(step) if not step.is_deleted() and step.is_fully_replicated else described(step)
    return str(step) if isinstance(step, int) else described(step)


def init_variables(rng: jax.Array, model: InceptionNet, image_size: int) -> dict[str, Any]:
    """Returns {"params", "batch_stats"} drawn at random for images of `image_size` pixels. Pure."""
    variables = model.init(rng, jnp.zeros((1, image_size, image_size, model.channels)), train=False)
    return {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}


def create_state(variables: dict[str, Any], tx: optax.GradientTransformation, ema: bool) -> TrainState:
    """Returns the state at step 0, whether its variables are drawn or loaded.

    Pure: `eval_shape` it for the shapes, `jit` it with shardings for the arrays.
    """
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        opt_state=tx.init(variables["params"]),
        ema=dict(variables) if ema else {},
    )
