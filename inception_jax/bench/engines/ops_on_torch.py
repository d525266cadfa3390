"""Runs one convolution or pool in PyTorch, in channels_last."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from inception_jax.bench import ops, originals
from inception_jax.bench.engines import take
from inception_jax.bench.ops import Op
from inception_jax.models import spec


class OpsOnTorch:
    """Runs ops with the functions of `torch.nn.functional`."""

    def __init__(self, numerics: spec.Numerics, batch: int, dtype: str, threads: int | None):
        self.torch = torch = originals.require("torch")
        self.numerics, self.batch = numerics, batch
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.dtype = torch.bfloat16 if dtype == "bfloat16" else torch.float32
        torch.set_float32_matmul_precision("high" if dtype == "tf32" else "highest")
        torch.backends.cudnn.allow_tf32 = dtype == "tf32"
        torch.backends.cudnn.benchmark = True
        if threads:
            torch.set_num_threads(threads)
        self.run: Callable[[Any], Any] = lambda x: x
        self.batches: list[Any] = []
        self.calls = 0

    def prepare(self, op: Op, which: str) -> dict[str, np.ndarray]:
        """Prepares an op and runs its first batch; returns as `OpsOnJax.prepare` does, in the same layout."""
        from inception_jax.bench.engines.ops_on_jax import named

        torch = self.torch
        gradients = which != "forward"
        self.batches = [self._to_torch(x).requires_grad_(gradients) for x in ops.inputs(op, self.batch)]
        arrays = ops.parameters(op)
        params = {
            unit: {leaf: self._parameter(array).requires_grad_(gradients) for leaf, array in leaves.items()}
            for unit, leaves in arrays.items()
        }
        leaves = [params[unit][leaf] for unit in arrays for leaf in arrays[unit]]
        forward, self.calls = self._forward(op, params), 0
        if not gradients:
            self.run = torch.no_grad()(forward)
            return named(op, self._ours(self.run(self.batches[0])), which, ties=False)
        with torch.no_grad():
            n, c, h, w = forward(self.batches[0]).shape
        cotangent = self._to_torch(ops.cotangent((n, h, w, c)))

        def run(x: Any) -> Any:
            output = forward(x)
            return output, *torch.autograd.grad(output, [x, *leaves], cotangent)

        self.run = run
        output, x, *rest = run(self.batches[0])
        found = iter(rest)
        grads = {unit: {leaf: _to_ours(next(found)) for leaf in arrays[unit]} for unit in arrays}
        return named(op, (self._ours(output), grads, self._ours(x)), which, ties=self.dtype == torch.bfloat16)

    def call(self) -> None:
        self.run(take(self.batches, self.calls))
        if self.device.type == "cuda":
            self.torch.cuda.synchronize()
        self.calls += 1

    def facts(self) -> dict[str, Any]:
        cuda = self.device.type == "cuda"
        return {"device": f"cuda: {self.torch.cuda.get_device_name()}" if cuda else "cpu"}

    def _forward(self, op: Op, params: Any) -> Callable[[Any], Any]:
        functional, row, pads = self.torch.nn.functional, op.row, ops.padding(op, self.numerics)
        if isinstance(row, spec.Pool):
            return self._pool(row, pads[0])
        padding, before = _padding(pads)

        def convolve(x: Any, unit: str, **settings: Any) -> Any:
            return functional.conv2d(x, params[unit]["kernel"], params[unit].get("bias"), **settings)

        def run(x: Any) -> Any:
            x = functional.pad(x, before) if before else x
            if isinstance(row, spec.Conv):
                return convolve(x, "conv", stride=row.stride, padding=padding)
            x = convolve(x, "depthwise", stride=row.stride, padding=padding, groups=op.channels)
            return convolve(x, "pointwise")

        return run

    def _pool(self, row: spec.Pool, pads: tuple[int, int]) -> Callable[[Any], Any]:
        functional, (low, high) = self.torch.nn.functional, pads
        ceil = low == 0 and high > 0  # windows may reach beyond the high edge; PyTorch pads there with ceil_mode
        padding, before = (0, ()) if ceil else (low, (0, high - low, 0, high - low) if high > low else ())
        settings = {"stride": row.stride, "padding": padding, "ceil_mode": ceil}

        def run(x: Any) -> Any:
            if row.kind == "max":
                x = functional.pad(x, before, value=-float("inf")) if before else x
                return functional.max_pool2d(x, row.window, **settings)
            counted = self.numerics.count_padding
            return functional.avg_pool2d(x, row.window, count_include_pad=counted, **settings)

        return run

    def _to_torch(self, x: np.ndarray) -> Any:
        theirs = self.torch.from_numpy(x).permute(0, 3, 1, 2).to(self.device, self.dtype)
        return theirs.contiguous(memory_format=self.torch.channels_last)

    def _parameter(self, array: np.ndarray) -> Any:
        array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array
        theirs = self.torch.from_numpy(array.copy()).to(self.device, self.dtype)
        return theirs.contiguous(memory_format=self.torch.channels_last) if array.ndim == 4 else theirs

    def _ours(self, x: Any) -> Any:
        return _to_numpy(x.permute(0, 2, 3, 1))


def _to_ours(gradient: Any) -> np.ndarray:
    return _to_numpy(gradient.permute(2, 3, 1, 0) if gradient.ndim == 4 else gradient)


def _to_numpy(tensor: Any) -> np.ndarray:
    return tensor.detach().float().cpu().numpy()


def _padding(pads: list[tuple[int, int]]) -> tuple[tuple[int, int], tuple[int, ...]]:
    """Splits padding: what a convolution adds on both sides, and the rest on the high sides, for `pad` before it."""
    (top, bottom), (left, right) = pads
    before = (0, right - left, 0, bottom - top) if right > left or bottom > top else ()
    return (top, left), before
