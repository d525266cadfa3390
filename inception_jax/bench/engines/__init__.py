"""What runs a case: ours on JAX, the originals on PyTorch and Keras. A framework is imported by its engine alone."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from inception_jax.errors import UserError

if TYPE_CHECKING:
    from inception_jax.bench.case import Case
    from inception_jax.bench.timing import Clock

ENGINES = {  # by name: the framework, and what is said of it
    "jax": ("jax", "this package: the program of a Predictor, or the step of a run"),
    "torch": ("torch", "the original, eager"),
    "torch-channels-last": ("torch", "eager, maps in the order of channels_last, cudnn.benchmark"),
    "torch-compile": ("torch", "torch.compile, channels_last"),
    "torch-compile-max-autotune": ("torch", "torch.compile in the mode max-autotune, channels_last"),
    "torch-compile-freezing": ("torch", "torch.compile with its freezing of weights, channels_last; inference"),
    "keras": ("keras", "the original in Keras on JAX, jitted"),
}
WEIGHTS = "weights.safetensors"  # ours; those of a framework are `torch.safetensors` or `keras.safetensors`


class Engine(Protocol):
    """One way to run a case. All calls block until the device is done."""

    def build(self, clock: Clock = ...) -> dict[str, float]:
        """Makes the engine ready; returns the seconds by phase, of which the last is "first_call"."""

    def outputs(self) -> dict[str, Any]:
        """Returns what the first call on the first batch gave: "logits", or "loss" and "variables" by its names."""

    def call(self) -> None:
        """Runs the next batch."""

    def ceilings(self, clock: Clock = ...) -> dict[str, float]:
        """Returns "flops" and "bandwidth", a second, of a large product of matrices and a large scaling in place."""

    def facts(self) -> dict[str, Any]:
        """Returns "device", "flags", "memory" in bytes, and what else is worth a row; "loss" of the last step."""


def framework(name: str) -> str:
    """Returns what an engine runs on: "jax", "torch" or "keras".

    Raises:
      UserError: there is no such engine.
    """
    if name not in ENGINES:
        raise UserError(f"There is no engine {name!r}; there are: {', '.join(ENGINES)}.")
    return ENGINES[name][0]


def check(names: Iterable[str], model: str | None = None) -> None:
    """Raises a `UserError` if an engine is unknown, its framework is not installed, or has no original of a model."""
    from inception_jax.bench import originals

    for kind in dict.fromkeys(framework(name) for name in names):
        if kind != "jax":
            originals.check(kind, model)


def create(name: str, case: Case, folder: Path) -> Engine:
    """Returns an engine for a case, whose weights lie in `folder`.

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
    """Returns the rows of the square matrices, and the bytes of the array, by which ceilings are measured."""
    return (2048, 2**28) if on_cpu else (8192, 2**31)


def best(laps: list[float]) -> float:
    """Returns the shortest: a ceiling is what the machine can do."""
    return min(laps)


def take(batches: Any, count: int) -> Any:
    """Returns the batch of call number `count`; they rotate."""
    return batches[count % len(batches)]
