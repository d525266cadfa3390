"""Compiles the two steps of a run, counts what XLA compiled, and keeps it between runs."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from inception_jax.models.inputs import Preprocess
from inception_jax.models.network import InceptionNet
from inception_jax.parallel.mesh import batch_sharding, replicated
from inception_jax.parallel.reduce import on_each_device
from inception_jax.training.config import TrainConfig
from inception_jax.training.experiment import Experiment
from inception_jax.training.state import TrainState
from inception_jax.training.step import GradientFn, batch_gradients, batch_loss, eval_step, train_step

COMPILE = "/jax/core/compile/backend_compile_duration"
HIT, MISS = "/jax/compilation_cache/cache_hits", "/jax/compilation_cache/cache_misses"


def compile_steps(experiment: Experiment) -> tuple[jax.stages.Compiled, jax.stages.Compiled]:
    """Returns the compiled training and evaluation steps; they can run nothing else, so nothing compiles twice."""
    jitted_step, jitted_eval = jit_steps(
        experiment.config,
        experiment.model,
        experiment.preprocess,
        experiment.aux_weights,
        experiment.tx,
        experiment.mesh,
        experiment.abstract_state,
    )
    state = experiment.abstract_state
    batch = abstract_batch(experiment.config.batch_size, experiment.preprocess.size, batch_sharding(experiment.mesh))
    return jitted_step.lower(state, batch).compile(), jitted_eval.lower(state.variables, batch).compile()


def jit_steps(
    config: TrainConfig,
    model: InceptionNet,
    preprocess: Preprocess,
    aux_weights: Mapping[str, float],
    tx: optax.GradientTransformation,
    mesh: Mesh,
    abstract_state: TrainState,
) -> tuple[jax.stages.Wrapped, jax.stages.Wrapped]:
    """Returns the jitted training and evaluation steps for the devices of `mesh`, which need not be of this machine.

    Args:
      config: of the run.
      model, preprocess: the network, and how its input is made.
      aux_weights: of the losses of its heads, such as "aux_4a".
      tx: the optimizer.
      mesh: of the devices.
      abstract_state: shapes, dtypes and shardings of the state.
    """
    loss_fn = functools.partial(
        batch_loss,
        model=model,
        preprocess=preprocess,
        label_smoothing=config.loss.label_smoothing,
        aux_weights=aux_weights,
        mixup=config.data.mixup,
        cutmix=config.data.cutmix,
    )
    gradients: GradientFn = functools.partial(
        batch_gradients, loss_fn=loss_fn, grad_accum_steps=config.grad_accum_steps
    )
    if mesh.size > 1 and groups_fit_devices(config, mesh.size):
        gradients = on_each_device(
            gradients, mesh, jax.tree.map(lambda leaf: leaf.sharding.spec, abstract_state.params)
        )
    step_fn = functools.partial(train_step, gradients=gradients, tx=tx, seed=config.seed, ema_decay=config.ema_decay)
    state_shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract_state)
    jitted_step = jax.jit(
        step_fn,
        in_shardings=(state_shardings, batch_sharding(mesh)),
        out_shardings=(state_shardings, replicated(mesh)),
        donate_argnames="state",
    )
    jitted_eval = jax.jit(
        functools.partial(eval_step, model=model, preprocess=preprocess), out_shardings=replicated(mesh)
    )
    return jitted_step, jitted_eval


def groups_fit_devices(config: TrainConfig, devices: int) -> bool:
    """Returns whether each group of images that batch norm normalises together lies on one device."""
    group = config.model.bn_group_size
    images = config.batch_size // devices // config.grad_accum_steps
    return group is None or (group != "global" and images % group == 0)


def abstract_batch(
    batch_size: int, image_size: int, sharding: jax.sharding.Sharding
) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of a global batch (see `data.loader.Batch`)."""
    shapes = {
        "image": ((batch_size, image_size, image_size, 3), np.uint8),
        "label": ((batch_size,), np.int32),
        "mask": ((batch_size,), np.float32),
        "index": ((batch_size,), np.int32),
    }
    return {name: jax.ShapeDtypeStruct(shape, dtype, sharding=sharding) for name, (shape, dtype) in shapes.items()}


def use_compilation_cache(folder: str) -> None:
    """Keeps compiled programs in `folder`, for later runs to load; call it before anything compiles."""
    jax.config.update("jax_compilation_cache_dir", str(Path(folder).expanduser().absolute()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


class CompilationLog:
    """Counts compilations, and their seconds, between entering and leaving."""

    def __init__(self):
        self.seconds, self.hits, self.misses = 0.0, 0, 0
        self.compilations: list[str] = []

    def __enter__(self) -> CompilationLog:
        jax.monitoring.register_event_duration_secs_listener(self._on_duration)
        jax.monitoring.register_event_listener(self._on_event)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        jax.monitoring.unregister_event_duration_listener(self._on_duration)
        jax.monitoring.unregister_event_listener(self._on_event)

    def __str__(self) -> str:
        return f"{self.seconds:.1f} s (cache: {self.hits} hits, {self.misses} misses)"

    def _on_duration(self, event: str, duration_secs: float, **details: Any) -> None:
        if event == COMPILE:
            self.seconds += duration_secs
            self.compilations.append(str(details.get("fun_name")))

    def _on_event(self, event: str, **_details: Any) -> None:
        self.hits += event == HIT
        self.misses += event == MISS
