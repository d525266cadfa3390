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


def init_variables(rng: jax.Array, model: InceptionNet, image_size: int) -> dict[str, Any]:
    """Returns {"params", "batch_stats"} drawn at random for images of `image_size` pixels. Pure."""
    variables = model.init(rng, jnp.zeros((1, image_size, image_size, 3)), train=False)
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
