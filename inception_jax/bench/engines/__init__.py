"""Engines run a case: this package on JAX, the originals on PyTorch and Keras. Each imports its framework itself."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from inception_jax.errors import UserError
from inception_jax.suggestions import hint

if TYPE_CHECKING:
    from inception_jax.bench.case import Case
    from inception_jax.bench.timing import Clock


class Listed(NamedTuple):
    """An engine of `ENGINES`: the framework that it runs on, and one line about it for `bench model --help`."""

    framework: str
    summary: str


ENGINES = {
    "jax": Listed("jax", "this package: the program of a Predictor, or the training step of train.py"),
    "torch": Listed("torch", "the original in eager PyTorch"),
    "torch-channels-last": Listed("torch", "eager, channels_last, cudnn.benchmark"),
    "torch-compile": Listed("torch", "torch.compile, channels_last"),
    "torch-compile-max-autotune": Listed("torch", "torch.compile with mode max-autotune, channels_last"),
    "torch-compile-freezing": Listed("torch", "torch.compile with frozen weights, channels_last; inference only"),
    "keras": Listed("keras", "the original in Keras on JAX, jitted"),
}
WEIGHTS = "weights.safetensors"  # ours; a framework reads `torch.safetensors` or `keras.safetensors`


class Engine(Protocol):
    """Runs a case in one framework. All methods block until the device is done."""

    def build(self, clock: Clock = ...) -> dict[str, float]:
        """Compiles and runs the first call; returns the seconds of each phase, of which the last is "first_call"."""

    def outputs(self) -> dict[str, Any]:
        """Returns the outputs of the first call: "logits", or "loss" and the framework's "variables" by name."""

    def call(self) -> None:
        """Runs the next batch."""

    def ceilings(self, clock: Clock = ...) -> dict[str, float]:
        """Returns the highest rates of the device: "flops" of a large matrix product, "bandwidth" of scaling an array.

        In FLOP/s and bytes/s; the array is large and scaled in place, and its bytes count as read and written.
        """

    def facts(self) -> dict[str, Any]:
        """Returns "device", "flags" and "memory" (bytes by kind); after training also "loss" of the last step."""


def framework(name: str) -> str:
    """Returns the framework of an engine: "jax", "torch" or "keras".

    Raises:
      UserError: there is no such engine.
    """
    if name not in ENGINES:
        raise UserError(f"There is no engine {name!r}.{hint(name, ENGINES)} Engines: {', '.join(ENGINES)}.")
    return ENGINES[name].framework


def check(names: Iterable[str], model: str | None = None) -> None:
    """Raises a `UserError` if an engine is unknown, or its framework is not installed or does not have the model."""
    from inception_jax.bench import originals

    for kind in dict.fromkeys(framework(name) for name in names):
        if kind != "jax":
            originals.check(kind, model)


def create(name: str, case: Case, folder: Path) -> Engine:
    """Returns an engine for a case; it reads its weights from `folder`.

    Raises:
      UserError: it is not installed, or cannot run the case.
    """
    match framework(name):
        case "jax":
            from inception_jax.bench.engines import on_jax

            return on_jax.create(case, folder)
        case "torch":
            from inception_jax.bench.engines import on_torch

            return on_torch.TorchEngine(name, case, folder)
        case _:
            from inception_jax.bench.engines import on_keras

            return on_keras.KerasEngine(case, folder)


def ceiling_sizes(on_cpu: bool) -> tuple[int, int]:
    """Returns the sizes for `Engine.ceilings`: rows of the square matrices, bytes of the array."""
    return (2048, 2**28) if on_cpu else (8192, 2**31)


def best(laps: list[float]) -> float:
    """Returns the shortest time: a ceiling is the best that the machine does."""
    return min(laps)


def take(batches: Any, count: int) -> Any:
    """Returns the batch for call number `count`; the batches rotate."""
    return batches[count % len(batches)]
