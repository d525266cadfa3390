"""Engines of this package: the programs that `Predictor` and `train.py` run."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from inception_jax import weights
from inception_jax.bench import case as cases
from inception_jax.bench.case import Case
from inception_jax.bench.engines import WEIGHTS, Engine, best, ceiling_sizes, take
from inception_jax.bench.timing import Clock, timed, turn
from inception_jax.errors import UserError
from inception_jax.inference.export_stablehlo import load_exported
from inception_jax.inference.predictor import Predictor
from inception_jax.ops.implementation import resolve
from inception_jax.ops.platforms import tracing_for, without_garbage_collection
from inception_jax.parallel.mesh import batch_sharding, create_mesh, shard_batch
from inception_jax.training.compilation import CompilationLog, trace_train_step
from inception_jax.training.config import TrainConfig
from inception_jax.training.experiment import build
from inception_jax.training.finetune import Start

PRECISIONS = {"float32": "highest", "tf32": "tensorfloat32", "bfloat16": None}  # JAX's precision of float32 products


def create(case: Case, folder: Path) -> Engine:
    """Returns the engine of a case on the only device that JAX sees.

    Raises:
      UserError: JAX sees several devices, or the device does not have this precision.
    """
    if jax.device_count() > 1:
        hint = "CUDA_VISIBLE_DEVICES=0 or TPU_VISIBLE_CHIPS=0 leaves one"
        raise UserError(f"JAX sees {jax.device_count()} devices, but one is to be measured: {hint}.")
    set_precision(case.dtype)
    return JaxInference(case, folder) if case.mode == "inference" else JaxTraining(case, folder)


def set_precision(dtype: str) -> None:
    """Sets the precision of float32 products to that of a `Case.dtype`; on CPUs it is always float32."""
    platform = jax.default_backend()
    if dtype == "tf32" and platform != "gpu":
        raise UserError(f"tf32 is a number format of GPUs; JAX runs on {platform}.")
    jax.config.update("jax_default_matmul_precision", _precision(dtype))


def _precision(dtype: str) -> str | None:
    return None if jax.default_backend() == "cpu" else PRECISIONS[dtype]


def compute_dtype(dtype: str) -> Any:
    """Returns the dtype that a network computes in for a `Case.dtype`."""
    return jnp.bfloat16 if dtype == "bfloat16" else jnp.float32


class JaxEngine:
    """The common base of engines on JAX: phases, ceilings, facts."""

    def __init__(self, case: Case):
        self.case = case
        self.calls = 0
        self.lowered: jax.stages.Lowered | None = None
        self.compiled: jax.stages.Compiled | None = None
        self.log = CompilationLog()

    def trace(self) -> jax.stages.Traced:
        raise NotImplementedError

    def call(self) -> None:
        raise NotImplementedError

    def build(self, clock: Clock = time.perf_counter) -> dict[str, float]:
        with (
            self.log,
            without_garbage_collection(),
            tracing_for(jax.devices()[:1]),
        ):  # as `compile_steps` and `Predictor` do
            traced, tracing = timed(self.trace, clock)
            lowered, lowering = timed(traced.lower, clock)
            self.compiled, compiling = timed(lowered.compile, clock)
        self.lowered = lowered
        return {"trace": tracing, "lower": lowering, "compile": compiling, "first_call": timed(self.call, clock)[1]}

    def program(self) -> dict[str, str]:
        """Returns the texts of the program that JAX passes to XLA (StableHLO) and of the compiled one (HLO)."""
        assert self.lowered is not None
        assert self.compiled is not None
        return {"stablehlo": self.lowered.as_text(), "hlo": self.compiled.as_text() or ""}

    def ceilings(self, clock: Clock = time.perf_counter) -> dict[str, float]:
        return measure_ceilings(compute_dtype(self.case.dtype), clock)

    def facts(self) -> dict[str, Any]:
        device = jax.devices()[0]
        statistics = device.memory_stats() or {}
        memory = {"device_peak": statistics["peak_bytes_in_use"]} if "peak_bytes_in_use" in statistics else {}
        if self.compiled is not None and (analysis := self.compiled.memory_analysis()) is not None:
            memory["program_temporaries"] = analysis.temp_size_in_bytes
            memory["program_arguments"] = analysis.argument_size_in_bytes
        return {
            "device": f"{device.platform}: {device.device_kind}",
            "flags": {
                "jax_default_matmul_precision": _precision(self.case.dtype),
                "implementation": resolve(self.case.implementation, device.platform, alone=True),
            },
            "memory": memory,
            "cache_hits": self.log.hits,
        }


class JaxInference(JaxEngine):
    """The program of a `Predictor` for logits."""

    def __init__(self, case: Case, folder: Path):
        super().__init__(case)
        dtype = compute_dtype(case.dtype)
        self.predictor = Predictor.from_weights(
            folder / WEIGHTS, max_batch=case.batch, dtype=dtype, implementation=case.implementation
        )
        self.batches = [self.predictor.place(list(batch)) for batch in cases.images(case)]

    def trace(self) -> jax.stages.Traced:
        return self.predictor.trace(self.case.batch)

    def call(self) -> None:
        jax.block_until_ready(self._run(take(self.batches, self.calls)))
        self.calls += 1

    def outputs(self) -> dict[str, Any]:
        return {"logits": np.asarray(self._run(self.batches[0])["logits"])}

    def _run(self, batch: jax.Array) -> dict[str, jax.Array]:
        assert self.compiled is not None
        return self.compiled(self.predictor.params, batch)


class JaxExported:
    """A file that `inception-jax export` wrote, loaded and run, without tracing the network."""

    def __init__(self, case: Case, file: Path):
        self.case, self.file = case, file
        self.images = cases.images(case)[0]

    def build(self, clock: Clock = time.perf_counter) -> dict[str, float]:
        exported, loading = timed(lambda: load_exported(self.file), clock)
        self.logits, calling = timed(lambda: np.asarray(exported(self.images)["logits"]), clock)
        return {"load": loading, "first_call": calling}

    def outputs(self) -> dict[str, Any]:
        return {"logits": self.logits}


class JaxTraining(JaxEngine):
    """The training step of train.py, with SGD with momentum."""

    def __init__(self, case: Case, folder: Path):
        super().__init__(case)
        loaded = weights.load(folder / WEIGHTS)
        config = TrainConfig.parse(train_config(case, str(folder / WEIGHTS)))
        mesh = create_mesh(1, 1, jax.devices())
        self.setup = build(config, Start(loaded.info, loaded), case.num_classes, case.batch, mesh)
        self.state = self.setup.init_state()
        ones, numbers = np.ones(case.batch, np.float32), np.arange(case.batch, dtype=np.int32)
        self.batches = [
            shard_batch({"image": images, "label": labels, "mask": ones, "index": numbers}, batch_sharding(mesh))
            for images, labels in zip(cases.images(case), cases.labels(case), strict=True)
        ]
        self.sums: dict[str, jax.Array] = {}

    def trace(self) -> jax.stages.Traced:
        return trace_train_step(self.setup)

    def call(self) -> None:
        assert self.compiled is not None
        self.state, self.sums = self.compiled(self.state, take(self.batches, self.calls))
        jax.block_until_ready((self.state, self.sums))
        self.calls += 1

    def outputs(self) -> dict[str, Any]:
        """Returns the loss and variables of the first step; call it once, after `build`."""
        if self.calls != 1:
            raise AssertionError("outputs are those of the first step")
        flat = traverse_util.flatten_dict(jax.device_get(self.state.variables))
        return {"loss": self._loss(), "variables": flat}

    def facts(self) -> dict[str, Any]:
        return super().facts() | {"loss": self._loss()}

    def _loss(self) -> float:
        return float(self.sums["loss"] / self.sums["count"])


def train_config(case: Case, weights_file: str) -> dict[str, Any]:
    """Returns the config of a run whose training step does just what those of the other engines do."""
    never, always = "0 steps", "1000000 steps"
    return {
        "seed": case.seed,
        "batch_size": case.batch,
        "duration": always,
        "platform": None,
        "grad_accum_steps": 1,
        "ema_decay": None,
        "log_every": always,
        "eval_every": never,
        "checkpoint_every": never,
        "keep_checkpoints": 1,
        "model": {
            "name": case.model,
            "width": 1.0,
            "aux": case.heads,
            "dropout": 0.0,
            "dtype": "bfloat16" if case.dtype == "bfloat16" else "float32",
            "bn_group_size": None,
            "bn_decay": None,
            "implementation": case.implementation,
        },
        "finetune": {"weights": weights_file, "freeze": "none", "reset_head": False, "unverified": False, "key": None},
        "data": {
            "name": "none", "data_dir": None, "train_split": "train", "eval_split": "test",
            "image_size": case.size, "exif": False, "augmentation": "none", "crop_area": (1.0, 1.0), "crop_pad": 0,
            "flip": False, "photometric": False, "mixup": 0.0, "cutmix": 0.0, "on_error": "raise", "max_skipped": 0,
            "workers": 0, "threads": 1, "buffer": 1,
        },
        "loss": {"label_smoothing": 0.0, "aux_weights": {}},
        "optimizer": {
            "name": "sgd", "learning_rate": cases.LEARNING_RATE, "momentum": cases.MOMENTUM, "nesterov": False,
            "decay": 0.9, "epsilon": None, "beta1": 0.9, "beta2": 0.999, "weight_decay": 0.0, "clip_norm": None,
        },
        "schedule": {
            "name": "constant", "warmup": never, "decay_rate": 1.0, "decay_every": always,
            "power": 1.0, "end_factor": 0.0,
        },
        "mesh": {"data": 1, "fsdp": 1},
    }  # fmt: skip


def measure_ceilings(dtype: Any, clock: Clock) -> dict[str, float]:
    """Returns FLOP/s of a large matrix product, and bytes/s read and written by scaling a large array in place."""
    rows, size = ceiling_sizes(jax.default_backend() == "cpu")
    key = jax.random.key(0)
    a, b = (jax.random.normal(k, (rows, rows), dtype) for k in jax.random.split(key))
    product = jax.jit(jnp.matmul)
    seconds = best(turn(lambda: product(a, b).block_until_ready(), 0.5, clock))
    scale = jax.jit(lambda x, factor: x * factor, donate_argnums=0)
    array, one = jnp.ones(size // jnp.dtype(dtype).itemsize, dtype), jnp.ones((), dtype)

    def rescale() -> None:
        nonlocal array
        array = scale(array, one).block_until_ready()

    return {"flops": 2 * rows**3 / seconds, "bandwidth": 2 * size / best(turn(rescale, 0.5, clock))}
