"""The state of a run: one tree that holds all that changes from step to step."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from inception_jax.models.network import InceptionNet


class TrainState(flax.struct.PyTreeNode):
    """The state of a run.

    Attributes:
      step: int32, steps done.
      params: parameters, float32.
      batch_stats: running statistics of batch norm, float32.
      opt_state: the optimizer's.
      ema: {"params", "batch_stats"} averaged over the steps (Polyak), or {} when off.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: optax.OptState
    ema: dict[str, Any]

    @property
    def variables(self) -> dict[str, Any]:
        """What `model.apply` takes."""
        return {"params": self.params, "batch_stats": self.batch_stats}


def create_state(
    rng: jax.Array, model: InceptionNet, tx: optax.GradientTransformation, image_size: int, ema: bool
) -> TrainState:
    """Returns the state at step 0. Pure: `eval_shape` it for the shapes, `jit` it with shardings for the arrays."""
    variables = model.init(rng, jnp.zeros((1, image_size, image_size, 3)), train=False)
    params, batch_stats = variables["params"], variables.get("batch_stats", {})
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        opt_state=tx.init(params),
        ema={"params": params, "batch_stats": batch_stats} if ema else {},
    )
