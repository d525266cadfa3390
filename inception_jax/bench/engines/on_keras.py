"""The Keras application of a model on JAX: its stateless calls under jit, as Keras trains with this backend."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import safetensors.numpy

from inception_jax.bench import case as cases
from inception_jax.bench import originals
from inception_jax.bench.case import Case
from inception_jax.bench.engines import take
from inception_jax.bench.engines.on_jax import JaxEngine, set_precision
from inception_jax.errors import UserError
from inception_jax.models.inputs import normalise
from inception_jax.models.zoo import model_card
from inception_jax.weights.naming.lineages import LINEAGES


class KerasEngine(JaxEngine):
    """A Keras network with the weights of the case; it gets normalised images."""

    def __init__(self, case: Case, folder: Path):
        if case.heads:
            raise UserError("Keras's applications have no auxiliary heads; measure without them.")
        super().__init__(case)
        os.environ["KERAS_BACKEND"] = "jax"
        keras = originals.require("keras")
        keras.config.set_dtype_policy("mixed_bfloat16" if case.dtype == "bfloat16" else "float32")
        set_precision(case.dtype)
        self.net = originals.keras_original(case.model, case.size, case.num_classes)
        tensors = safetensors.numpy.load_file(folder / "keras.safetensors")
        for name, variable in named_variables(self.net, case.model).items():
            if name in tensors:  # batch norms of some networks have no scale (gamma)
                variable.assign(tensors[name])
        self.optimizer = keras.optimizers.SGD(cases.LEARNING_RATE, cases.MOMENTUM)
        self.optimizer.build(self.net.trainable_variables)
        groups = (self.net.trainable_variables, self.net.non_trainable_variables, self.optimizer.variables)
        self.state = tuple([jnp.array(variable.value) for variable in group] for group in groups)
        preprocess = model_card(case.model).preprocess
        images = [jnp.asarray(normalise(pixels, preprocess)) for pixels in cases.images(case)]
        self.batches = list(zip(images, map(jnp.asarray, cases.labels(case)), strict=True))
        self.loss: Any = None

    def trace(self) -> jax.stages.Traced:
        if self.case.mode == "inference":
            return jax.jit(self._logits).trace(self.state, self.batches[0][0])
        return jax.jit(self._step, donate_argnums=0).trace(self.state, *self.batches[0])

    def call(self) -> None:
        assert self.compiled is not None
        images, labels = take(self.batches, self.calls)
        if self.case.mode == "inference":
            jax.block_until_ready(self.compiled(self.state, images))
        else:
            self.state, self.loss = jax.block_until_ready(self.compiled(self.state, images, labels))
        self.calls += 1

    def outputs(self) -> dict[str, Any]:
        """Returns logits, or the loss and variables of the first step; in training call it once, after `build`."""
        assert self.compiled is not None
        if self.case.mode == "inference":
            return {"logits": np.asarray(self.compiled(self.state, self.batches[0][0]), np.float32)}
        if self.calls != 1:
            raise AssertionError("outputs are those of the first step")
        trainable, rest, _ = self.state
        values = [
            *zip(self.net.trainable_variables, trainable, strict=True),
            *zip(self.net.non_trainable_variables, rest, strict=True),
        ]
        by_path = {variable.path: np.asarray(value) for variable, value in values}
        names = named_variables(self.net, self.case.model)
        return {"loss": float(self.loss), "variables": {name: by_path[each.path] for name, each in names.items()}}

    def facts(self) -> dict[str, Any]:
        return super().facts() | ({} if self.loss is None else {"loss": float(self.loss)})

    def _logits(self, state: Any, images: jax.Array) -> jax.Array:
        return self.net.stateless_call(state[0], state[1], images, training=False)[0]

    def _step(self, state: Any, images: jax.Array, labels: jax.Array) -> Any:
        def loss(trainable: Any) -> Any:
            logits, rest = self.net.stateless_call(trainable, state[1], images, training=True)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), labels)
            return losses.mean(), rest

        (value, rest), gradients = jax.value_and_grad(loss, has_aux=True)(state[0])
        trainable, optimizer = self.optimizer.stateless_apply(state[2], gradients, state[0])
        return (trainable, rest, optimizer), value


def named_variables(net: Any, model: str) -> dict[str, Any]:
    """Returns the variables of a live network by the names that `weights.export` gives them."""
    lineage = next(each for each in LINEAGES if (each.origin, each.model) == ("keras", model))
    live = {f"{layer.name}/{variable.name}": variable for layer in net.layers for variable in layer.weights}
    return lineage.without_foreign(live)[0]
