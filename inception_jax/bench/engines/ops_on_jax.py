"""One convolution or pool in JAX, by the modules of the networks."""

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
    """Runs one op after the other, as a network with these numerics does: the layers choose how."""

    def __init__(self, numerics: spec.Numerics, batch: int, dtype: str, threads: int | None):
        del threads  # the process has as many cores
        set_precision(dtype)
        self.numerics, self.batch, self.dtype = numerics, batch, compute_dtype(dtype)
        self.arguments: list[Any] = []
        self.run: Any = None
        self.calls = 0

    def prepare(self, op: Op, part: str) -> dict[str, np.ndarray]:
        """Compiles an op, and returns what it makes of its first batch: "output" and, with gradients, all of them."""
        params = jax.tree.map(jnp.asarray, ops.parameters(op))
        batches = [jnp.asarray(maps, self.dtype) for maps in ops.inputs(op, self.batch)]
        shape = jax.eval_shape(self._forward(op), params, batches[0]).shape
        above = jnp.asarray(ops.cotangent(shape), self.dtype)
        function = self._forward(op) if part == "forward" else self._gradients(op)
        rest = () if part == "forward" else (above,)
        self.arguments = [(params, maps, *rest) for maps in batches]
        self.run, self.calls = jax.jit(function).lower(*self.arguments[0]).compile(), 0
        found = self.run(*self.arguments[0])
        return named(op, found, part, ties=self.dtype == jnp.bfloat16)

    def call(self) -> None:
        jax.block_until_ready(self.run(*take(self.arguments, self.calls)))
        self.calls += 1

    def facts(self) -> dict[str, Any]:
        device = jax.devices()[0]
        return {"device": f"{device.platform}: {device.device_kind}"}

    def _forward(self, op: Op) -> Any:
        row = op.row
        if isinstance(row, spec.Pool):
            return lambda _, maps: layers.pool(maps, row, self.numerics)
        module = ConvNormAct(row, self.numerics, dtype=self.dtype)
        return lambda params, maps: module.apply({"params": params}, maps, train=True)

    def _gradients(self, op: Op) -> Any:
        def run(params: Any, maps: jax.Array, above: jax.Array) -> Any:
            output, back = jax.vjp(self._forward(op), params, maps)
            return output, *back(above)

        return run


def named(op: Op, found: Any, part: str, ties: bool) -> dict[str, np.ndarray]:
    """Returns what an op made by name, as float32; of the gradient of a pool with `ties` the sums over each map.

    Where equal values share a window, any of them may get the gradient; in bfloat16 many do.
    """
    if part == "forward":
        return {"output": np.asarray(found, np.float32)}
    output, params, maps = found
    gradient = np.asarray(maps, np.float32)
    if isinstance(op.row, spec.Pool) and ties:
        gradient = gradient.sum((1, 2))
    arrays = {f"gradient of {unit} {leaf}": array for unit, leaves in params.items() for leaf, array in leaves.items()}
    found = {"output": output, **arrays}
    return {name: np.asarray(array, np.float32) for name, array in found.items()} | {"gradient of the maps": gradient}
