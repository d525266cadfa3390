"""Compiles the training and the evaluation step of a run, caches the programs on disk, and counts compilations."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np

from inception_jax.ops.implementation import resolve
from inception_jax.ops.platforms import tracing_for, without_garbage_collection
from inception_jax.parallel.mesh import batch_sharding, replicated
from inception_jax.parallel.reduce import on_each_device
from inception_jax.training.config import TrainConfig
from inception_jax.training.experiment import Setup
from inception_jax.training.step import GradientFn, batch_gradients, batch_loss, eval_step, train_step

COMPILE = "/jax/core/compile/backend_compile_duration"
HIT, MISS = "/jax/compilation_cache/cache_hits", "/jax/compilation_cache/cache_misses"


def compile_steps(experiment: Setup) -> tuple[jax.stages.Compiled, jax.stages.Compiled]:
    """Returns the compiled training and evaluation steps.

    They accept only the shapes and shardings of this run, so that a change of these is an error, not a compilation.
    """
    with without_garbage_collection(), tracing_for(list(experiment.mesh.devices.flat)):
        return trace_train_step(experiment).lower().compile(), trace_eval_step(experiment).lower().compile()


def trace_train_step(setup: Setup) -> jax.stages.Traced:
    """Returns `train_step` traced for the shapes and shardings of a run; the state is donated."""
    config, mesh = setup.config, setup.mesh
    loss_fn = functools.partial(
        batch_loss,
        model=setup.model,
        preprocess=setup.preprocess,
        label_smoothing=config.loss.label_smoothing,
        aux_weights=setup.aux_weights,
        mixup=config.data.mixup,
        cutmix=config.data.cutmix,
    )
    gradients: GradientFn = functools.partial(
        batch_gradients, loss_fn=loss_fn, grad_accum_steps=config.grad_accum_steps
    )
    if mesh.size > 1 and groups_fit_devices(config, mesh.size):
        specs = jax.tree.map(lambda leaf: leaf.sharding.spec, setup.abstract_state.params)
        gradients = on_each_device(gradients, mesh, specs)
    step_fn = functools.partial(
        train_step, gradients=gradients, tx=setup.tx, seed=config.seed, ema_decay=config.ema_decay
    )
    state_shardings = jax.tree.map(lambda leaf: leaf.sharding, setup.abstract_state)
    jitted_step = jax.jit(
        step_fn,
        in_shardings=(state_shardings, batch_sharding(mesh)),
        out_shardings=(state_shardings, replicated(mesh)),
        donate_argnames="state",
    )
    with without_garbage_collection(), tracing_for(list(mesh.devices.flat)):
        return jitted_step.trace(setup.abstract_state, _batch(setup))


def trace_eval_step(setup: Setup) -> jax.stages.Traced:
    """Returns `eval_step` traced for the shapes and shardings of a run."""
    step_fn = functools.partial(eval_step, model=setup.model, preprocess=setup.preprocess)
    jitted_step = jax.jit(step_fn, out_shardings=replicated(setup.mesh))
    with without_garbage_collection(), tracing_for(list(setup.mesh.devices.flat)):
        return jitted_step.trace(setup.abstract_state.variables, _batch(setup))


def implementation_of_step(setup: Setup) -> str:
    """Returns which implementation the training step holds: "xla", "native" or "pallas"."""
    alone = setup.mesh.size == 1 or groups_fit_devices(setup.config, setup.mesh.size)
    return resolve(setup.model.implementation, setup.mesh.devices.flat[0].platform, alone)


def groups_fit_devices(config: TrainConfig, devices: int) -> bool:
    """Returns whether each group of images that batch norm normalises together lies on one device."""
    group = config.model.bn_group_size
    images = config.batch_size // devices // config.grad_accum_steps
    return group is None or (group != "global" and images % group == 0)


def _batch(setup: Setup) -> dict[str, jax.ShapeDtypeStruct]:
    return abstract_batch(setup.config.batch_size, setup.preprocess.size, batch_sharding(setup.mesh))


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
    """Caches compiled programs in `folder` for later runs; call it before anything compiles. "" turns the cache off."""
    if not folder:
        return
    jax.config.update("jax_compilation_cache_dir", str(Path(folder).expanduser().absolute()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


def use_deterministic_kernels(wanted: bool) -> None:
    """Makes XLA avoid GPU kernels that sum in varying order, if `wanted`; call it before a device starts.

    CPUs and TPUs have no such kernels. `summary.json` of a run records the flags.
    """
    if wanted:
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_deterministic_ops=true".strip()


class CompilationLog:
    """Counts the compilations inside a `with` block, and their seconds.

    Attributes:
      seconds: spent compiling.
      hits, misses: of the compilation cache.
      compilations: names of the compiled functions.
    """

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
