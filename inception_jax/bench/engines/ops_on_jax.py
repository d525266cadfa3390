"""Runs one convolution or pool in JAX, through the layers of the networks."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from inception_jax.bench import ops
from inception_jax.bench.engines import take
from inception_jax.bench.engines.on_jax import compute_dtype, set_precision
from inception_jax.bench.ops import Op
from inception_jax.models import layers, spec
from inception_jax.models.convolution import ConvNormAct


class OpsOnJax:
    """Runs ops as a network with these numerics does; the layers choose the implementation."""

    def __init__(self, numerics: spec.Numerics, batch: int, dtype: str, threads: int | None):
        del threads  # the process is bound to as many cores
        set_precision(dtype)
        self.numerics, self.batch, self.dtype = numerics, batch, compute_dtype(dtype)
        self.arguments: list[Any] = []
        self.run: Any = None
        self.calls = 0

    def prepare(self, op: Op, which: str) -> dict[str, np.ndarray]:
        """Compiles a pass ("forward" or "gradients") of an op; returns the outputs of its first batch by name."""
        params = jax.tree.map(jnp.asarray, ops.parameters(op))
        batches = [jnp.asarray(x, self.dtype) for x in ops.inputs(op, self.batch)]
        shape = jax.eval_shape(self._forward(op), params, batches[0]).shape
        cotangent = jnp.asarray(ops.cotangent(shape), self.dtype)
        function = self._forward(op) if which == "forward" else self._gradients(op)
        rest = () if which == "forward" else (cotangent,)
        self.arguments = [(params, x, *rest) for x in batches]
        self.run, self.calls = jax.jit(function).lower(*self.arguments[0]).compile(), 0
        found = self.run(*self.arguments[0])
        return named(op, found, which, ties=self.dtype == jnp.bfloat16)

    def call(self) -> None:
        jax.block_until_ready(self.run(*take(self.arguments, self.calls)))
        self.calls += 1

    def facts(self) -> dict[str, Any]:
        device = jax.devices()[0]
        return {"device": f"{device.platform}: {device.device_kind}"}

    def _forward(self, op: Op) -> Any:
        row = op.row
        if isinstance(row, spec.Pool):
            return lambda _, x: layers.pool(x, row, self.numerics)
        module = ConvNormAct(row, self.numerics, dtype=self.dtype)
        return lambda params, x: module.apply({"params": params}, x, train=True)

    def _gradients(self, op: Op) -> Any:
        def run(params: Any, x: jax.Array, cotangent: jax.Array) -> Any:
            output, backward = jax.vjp(self._forward(op), params, x)
            return output, *backward(cotangent)

        return run


def named(op: Op, found: Any, which: str, ties: bool) -> dict[str, np.ndarray]:
    """Returns the outputs of an op by name, as float32.

    Where a window of a max pool holds equal values, any of them may get the gradient. In bfloat16 there are many such
    ties; so with `ties` the gradient of a pool is summed over height and width.
    """
    if which == "forward":
        return {"output": np.asarray(found, np.float32)}
    output, params, x = found
    gradient = np.asarray(x, np.float32)
    if isinstance(op.row, spec.Pool) and ties:
        gradient = gradient.sum((1, 2))
    arrays = {f"gradient of {unit} {leaf}": array for unit, leaves in params.items() for leaf, array in leaves.items()}
    found = {"output": output, **arrays}
    return {name: np.asarray(array, np.float32) for name, array in found.items()} | {"gradient of the input": gradient}
