"""Times each distinct convolution and pool of a network, in JAX and in PyTorch."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from inception_jax.bench import timing
from inception_jax.bench.compare import TOLERANCES, check
from inception_jax.bench.model import PACKAGES, Announce, Effort
from inception_jax.bench.records import Check, Row, find_flags, find_hardware, find_versions
from inception_jax.bench.worker import Worker
from inception_jax.models import sizes, spec, zoo

OpRow = spec.Conv | spec.SeparableConv | spec.Pool
PASSES = ("forward", "gradients")  # "gradients" is the forward pass and the gradients by input and parameters
FACTORIES = {
    "jax": "inception_jax.bench.engines.ops_on_jax:OpsOnJax",
    "torch-channels-last": "inception_jax.bench.engines.ops_on_torch:OpsOnTorch",
}


@dataclasses.dataclass(frozen=True)
class Op:
    """A convolution or pool with an input of one shape.

    Attributes:
      row: of a table, without the norm and the ReLU that follow a convolution.
      size, channels: of the input, [B, size, size, channels].
    """

    row: OpRow
    size: int
    channels: int

    def __str__(self) -> str:
        row, shape = self.row, f"{self.size}x{self.size}x{self.channels}"
        valid = " valid" if row.padding == spec.VALID else ""
        if isinstance(row, spec.Pool):
            return f"{row.kind} {row.window}x{row.window}/{row.stride}{valid} {shape}"
        kind = "separable" if isinstance(row, spec.SeparableConv) else "conv"
        height, width = row.kernel
        return f"{kind} {height}x{width}/{row.stride}{valid} {shape} to {row.features}"

    def macs(self, numerics: spec.Numerics) -> int:
        """Returns the multiply-adds per image; 0 for a pool."""
        if isinstance(self.row, spec.Pool):
            return 0
        height, width = (
            sizes.windows(self.size, window, self.row.stride, self.row.padding, numerics.conv_same)
            for window in self.row.kernel
        )
        window = self.row.kernel[0] * self.row.kernel[1]
        if isinstance(self.row, spec.SeparableConv):
            between = self.channels * self.row.multiplier
            return height * width * between * (window + self.row.features)
        return height * width * window * self.channels * self.row.features


def distinct(model: str, image_size: int | None = None, aux: bool = False) -> dict[Op, int]:
    """Returns the distinct convolutions and pools of a network, each with the number of its uses.

    Args:
      model: a name of the zoo.
      image_size: height and width in pixels; None: the model card's.
      aux: whether to include the auxiliary heads.
    """
    card = zoo.model_card(model)
    size, channels = image_size or card.preprocess.size, 3
    found: dict[Op, int] = {}
    for name, row in card.table.items():
        ops = list(_walk((row,), size, channels, card.numerics))
        size, channels = ops.pop()
        if aux and name in card.aux_heads:
            ops += list(_walk(card.aux_heads[name].rows, size, channels, card.numerics))[:-1]
        for op in ops:
            found[op] = found.get(op, 0) + 1
    return found


def padding(op: Op, numerics: spec.Numerics) -> list[tuple[int, int]]:
    """Returns the (low, high) padding of height and of width."""
    row = op.row
    if isinstance(row, spec.Pool):
        return [sizes.explicit_padding(op.size, row.window, row.stride, row.padding, numerics.pool_same)] * 2
    return [
        sizes.explicit_padding(op.size, window, row.stride, row.padding, numerics.conv_same) for window in row.kernel
    ]


def inputs(op: Op, batch: int, seed: int = 0) -> list[np.ndarray]:
    """Returns two batches [batch, size, size, channels] of normal values, float32, for alternate calls."""
    rng = np.random.default_rng((seed, 0))
    return [rng.standard_normal((batch, op.size, op.size, op.channels), np.float32) for _ in range(2)]


def cotangent(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Returns the cotangent of the output for the gradients: normal values of its shape [B, H, W, C], float32."""
    return np.random.default_rng((seed, 1)).standard_normal(shape, np.float32)


def parameters(op: Op, seed: int = 0) -> dict[str, dict[str, np.ndarray]]:
    """Returns the parameters of a convolution under the names of `ConvNormAct`; {} for a pool."""
    row, rng = op.row, np.random.default_rng((seed, 2))
    if isinstance(row, spec.Pool):
        return {}

    def kernel(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, np.float32) * np.float32(np.prod(shape[:-1]) ** -0.5)

    bias = rng.standard_normal(row.features, np.float32)
    if isinstance(row, spec.Conv):
        return {"conv": {"kernel": kernel(*row.kernel, op.channels, row.features), "bias": bias}}
    between = op.channels * row.multiplier
    pointwise = {"kernel": kernel(1, 1, between, row.features), "bias": bias}
    return {"depthwise": {"kernel": kernel(*row.kernel, 1, between)}, "pointwise": pointwise}


def measure(
    model: str,
    batch: int,
    dtype: str,
    image_size: int | None,
    threads: int | None,
    effort: Effort,
    command: str,
    announce: Announce,
    beside: bool = True,
) -> Row:
    """Returns a row with the seconds of every distinct op of a model, slowest in JAX first.

    Args:
      model, image_size: see `distinct`.
      batch: images per call.
      dtype: "float32", "tf32" or "bfloat16".
      threads: see `Worker`.
      effort: seconds for each op and pass, and the rounds.
      command: that repeats the measurement, for the row.
      announce: see `model.measure`.
      beside: whether to measure PyTorch, too.

    Raises:
      UserError: PyTorch is not installed, or outputs differ.
    """
    ops, numerics = distinct(model, image_size), zoo.model_card(model).numerics
    names = list(FACTORIES) if beside else ["jax"]
    hardware = find_hardware()
    rows: list[dict[str, Any]] = []
    checks: list[Check] = []
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        workers = {
            name: stack.enter_context(
                Worker(name, FACTORIES[name], (numerics, batch, dtype, threads), threads, folder / name)
            )
            for name in names
        }
        for number, (op, count) in enumerate(ops.items(), start=1):
            with announce(f"{model}, {number} of {len(ops)}: {op}"):
                seconds, found = _run(op, workers, dtype, effort)
            checks += found
            rows.append({"op": str(op), "uses": count, "flops": 2 * op.macs(numerics) * batch, "seconds": seconds})
        facts = {name: worker.ask("facts") for name, worker in workers.items()}
    rows.sort(key=lambda row: -row["uses"] * row["seconds"]["gradients"]["jax"])
    size = image_size or zoo.model_card(model).preprocess.size
    return Row(
        command=command,
        hardware=hardware,
        date=datetime.datetime.now(datetime.UTC).date(),
        versions=find_versions(*(package for name in names for package in PACKAGES[name.partition("-")[0]])),
        flags=find_flags() | {"threads": threads},
        figures={
            "case": {"model": model, "batch": batch, "dtype": dtype, "image_size": size},
            "engines": facts,
            "ops": rows,
        },
        outputs_compared=tuple(checks),
    )


def _run(
    op: Op, workers: dict[str, Worker], dtype: str, effort: Effort
) -> tuple[dict[str, dict[str, float]], list[Check]]:
    """Compares the outputs of an op, then times it; returns the median seconds by pass and engine, and the checks."""
    seconds, checks = {}, []
    for which in PASSES:
        outputs = {name: worker.ask("prepare", op, which) for name, worker in workers.items()}
        checks += _compare(f"{which} of {op}", outputs, dtype)
        each = effort.seconds / effort.rounds
        turns = {name: functools.partial(worker.ask, "turn", each) for name, worker in workers.items()}
        laps = timing.take_turns(turns, effort.rounds)
        seconds[which] = {name: timing.spread(each)["median"] for name, each in laps.items()}
    return seconds, checks


def _compare(what: str, outputs: dict[str, dict[str, np.ndarray]], dtype: str) -> list[Check]:
    """Compares each output array of an op."""
    (reference, expected), *others = outputs.items()
    return [
        check(name, reference, f"{array} of {what}", found[array], theirs, TOLERANCES[dtype]["value"])
        for name, found in others
        for array, theirs in expected.items()
    ]


def _walk(rows: spec.Branch, size: int, channels: int, numerics: spec.Numerics) -> Iterator[Any]:
    """Yields the ops of a chain of rows, and last the (size, channels) of its output."""
    for row in rows:
        match row:
            case spec.Conv() | spec.SeparableConv():
                yield Op(row._replace(relu=False, norm=False, init=None), size, channels)
            case spec.Pool():
                yield Op(row, size, channels)
            case spec.Residual():
                *ops, (inner, between) = _walk(row.rows, size, channels, numerics)
                yield from ops
                if row.up:
                    yield Op(spec.Conv(channels, relu=False, norm=False), inner, between)
                if row.shortcut is not None:
                    yield Op(row.shortcut._replace(relu=False, norm=False, init=None), size, channels)
            case spec.AdaptivePool() | spec.LocalResponseNorm() | spec.Relu() | spec.Channels():
                pass
            case branches:
                for branch in branches:
                    *ops, _ = _walk(branch, size, channels, numerics)
                    yield from ops
        size, channels = sizes.out_size(row, size, numerics), sizes.out_channels(row, channels)
    yield size, channels
