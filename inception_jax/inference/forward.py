"""The program of a predictor: uint8 images in, logits, averages or endpoints out; and what is made of logits."""

from __future__ import annotations

import functools
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from inception_jax.models.inputs import Preprocess, normalise
from inception_jax.models.network import InceptionNet, ModelOutput
from inception_jax.ops.platforms import tracing_for, without_garbage_collection

Outputs = dict[str, jax.Array]


def trace_forward(
    model: InceptionNet, params: Any, preprocess: Preprocess, batch: int, outputs: tuple[str, ...], mesh: Mesh
) -> jax.stages.Traced:
    """Returns the program of a predictor for `batch` images, traced: (params, images) -> outputs.

    Args:
      model, params: what `for_inference` returns; of the parameters the shapes are enough.
      preprocess: of the images.
      batch: a multiple of the devices, which share it.
      outputs: names of what it returns.
      mesh: of one axis, "data".
    """
    replicated, split = NamedSharding(mesh, P()), NamedSharding(mesh, P("data"))
    forward = functools.partial(_forward, model=model, preprocess=preprocess, outputs=outputs)
    run = jax.shard_map(forward, mesh=mesh, in_specs=(P(), P("data")), out_specs=P("data"), check_vma=False)
    images = jax.ShapeDtypeStruct((batch, preprocess.size, preprocess.size, 3), np.uint8)
    with without_garbage_collection(), tracing_for(list(mesh.devices.flat)):
        return jax.jit(run, in_shardings=(replicated, split), out_shardings=split).trace(params, images)


def _forward(
    params: Any, images: jax.Array, *, model: InceptionNet, preprocess: Preprocess, outputs: tuple[str, ...]
) -> Outputs:
    """Returns logits [B, K], pooled [B, C] or endpoints [B, H, W, C] of uint8 images [B, H, W, 3], in float32."""
    output = cast(ModelOutput, model.apply({"params": params}, normalise(images, preprocess)))
    last = next(reversed(output.endpoints.values()))
    pooled = last.mean((1, 2), dtype=jnp.float32)
    found = {**output.endpoints, "pooled": pooled, "logits": output.logits}
    return {name: found[name].astype(jnp.float32) for name in outputs}


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Returns the logarithms of the softmax over the last axis, in float64."""
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def log_mean(log_probabilities: np.ndarray) -> np.ndarray:
    """Returns the logarithms [K] of the mean of probabilities [N, K], given as logarithms."""
    return np.logaddexp.reduce(log_probabilities, axis=0) - np.log(len(log_probabilities))
