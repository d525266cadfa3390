"""The programs of a predictor: uint8 images in; logits, pooled features, embeddings or endpoints out."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
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
Started = list[tuple[int, Outputs]]  # of each batch that runs: how many of its rows are images, and its outputs


def trace_forward(
    model: InceptionNet, params: Any, preprocess: Preprocess, batch: int, outputs: tuple[str, ...], mesh: Mesh
) -> jax.stages.Traced:
    """Returns the program of a predictor for `batch` images, traced: (params, images) -> outputs.

    Args:
      model, params: what `for_inference` returns; of the parameters the shapes are enough.
      preprocess: of the images.
      batch: images [batch, size, size, C]; a multiple of the number of devices, which share them.
      outputs: names of what it returns: "logits" [B, K], "pooled" [B, C], "embedding" [B, D] or endpoints
        [B, H, W, C], all float32.
      mesh: of one axis, "data".
    """
    replicated, split = NamedSharding(mesh, P()), NamedSharding(mesh, P("data"))
    forward = functools.partial(_forward, model=model, preprocess=preprocess, outputs=outputs)
    run = jax.shard_map(forward, mesh=mesh, in_specs=(P(), P("data")), out_specs=P("data"), check_vma=False)
    images = jax.ShapeDtypeStruct((batch, preprocess.size, preprocess.size, len(preprocess.mean)), np.uint8)
    with without_garbage_collection(), tracing_for(list(mesh.devices.flat)):
        return jax.jit(run, in_shardings=(replicated, split), out_shardings=split).trace(params, images)


def _forward(
    params: Any, images: jax.Array, *, model: InceptionNet, preprocess: Preprocess, outputs: tuple[str, ...]
) -> Outputs:
    output = cast(ModelOutput, model.apply({"params": params}, normalise(images, preprocess)))
    found = {**output.endpoints, "pooled": output.pooled, "embedding": output.embedding, "logits": output.logits}
    return {name: found[name].astype(jnp.float32) for name in outputs}


class Programs:
    """The compiled programs of a network: one for each bucket of batch sizes and each choice of outputs.

    A batch is padded with zeros to the next bucket: 1, 2, 4, ... times the number of devices, which share it.

    Attributes:
      model, preprocess: what is compiled.
      params: arguments of the programs, on every device.
      mesh: all devices of this process, along the axis "data".
      buckets: batch sizes, the smallest first.
      count: how many programs were compiled.
    """

    def __init__(self, model: InceptionNet, params: Any, preprocess: Preprocess, max_batch: int):
        devices = jax.local_devices()
        self.model, self.preprocess = model, preprocess
        self.mesh = Mesh(np.array(devices), ("data",))
        self.params = jax.device_put(params, NamedSharding(self.mesh, P()))
        sizes = itertools.takewhile(lambda size: size < max_batch, (2**i for i in itertools.count()))
        self.buckets = sorted({-(-size // len(devices)) * len(devices) for size in (*sizes, max_batch)})
        self._compiled: dict[tuple[int, tuple[str, ...]], jax.stages.Compiled] = {}

    @property
    def count(self) -> int:
        return len(self._compiled)

    def place(self, rows: Sequence[np.ndarray]) -> jax.Array:
        """Returns arrays of one shape as a batch on the devices, padded with zeros to the next bucket."""
        bucket = next(size for size in self.buckets if size >= len(rows))
        batch = np.zeros((bucket, *rows[0].shape), rows[0].dtype)
        batch[: len(rows)] = rows
        return jax.device_put(batch, NamedSharding(self.mesh, P("data")))

    def trace(self, bucket: int, outputs: tuple[str, ...]) -> jax.stages.Traced:
        """Returns the program of a bucket before it is compiled."""
        return trace_forward(self.model, self.params, self.preprocess, bucket, outputs, self.mesh)

    def compiled(self, bucket: int, outputs: tuple[str, ...]) -> jax.stages.Compiled:
        """Returns the program of a bucket, compiled at the first call."""
        key = bucket, outputs
        if key not in self._compiled:
            with without_garbage_collection(), tracing_for(list(self.mesh.devices.flat)):
                self._compiled[key] = self.trace(bucket, outputs).lower().compile()
        return self._compiled[key]

    def start(self, images: Sequence[np.ndarray], outputs: tuple[str, ...]) -> Started:
        """Starts the programs for images uint8 [size, size, C], in batches of up to the largest bucket.

        `fetch` waits for them.
        """
        started = []
        for first in range(0, len(images), self.buckets[-1]):
            rows = images[first : first + self.buckets[-1]]
            batch = self.place(rows)
            started.append((len(rows), self.compiled(len(batch), outputs)(self.params, batch)))
        return started


def fetch(started: Started) -> dict[str, np.ndarray]:
    """Returns the outputs of all batches by name, without the rows that pad them; {} if there was no image."""
    batches = [{name: array[:count] for name, array in found.items()} for count, found in jax.device_get(started)]
    return {name: np.concatenate([batch[name] for batch in batches]) for name in (batches[0] if batches else ())}
