"""Times one network on several engines, with the same weights and images, after comparing their outputs."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from inception_jax import weights
from inception_jax.bench import engines, timing
from inception_jax.bench.case import Case, flops_per_image, random_weights
from inception_jax.bench.compare import compare
from inception_jax.bench.originals import KERAS_WITHOUT_SCALE, origin_of
from inception_jax.bench.records import Check, Row, find_flags, find_hardware, find_versions
from inception_jax.bench.worker import Worker
from inception_jax.errors import UserError
from inception_jax.weights import Weights

PACKAGES = {
    "jax": ("jax", "jaxlib", "jax-cuda13-plugin", "libtpu", "flax", "optax", "numpy"),
    "torch": ("torch", "torchvision", "timm", "triton"),
    "keras": ("keras", "jax", "jaxlib"),
}
CREATE = "inception_jax.bench.engines:create"
Announce = Callable[[str], contextlib.AbstractContextManager[None]]


@dataclasses.dataclass(frozen=True)
class Effort:
    """How long engines run.

    Attributes:
      seconds: that each engine runs.
      rounds: into which these are divided; in each round every engine has one turn.
      warm: whether each engine is built once more, in a fresh process with a filled compilation cache.
    """

    seconds: float = 10.0
    rounds: int = 5
    warm: bool = True

    def __post_init__(self) -> None:
        if not self.seconds > 0:
            raise UserError(f"seconds is {self.seconds}; it must be above 0.")
        if self.rounds < 1:
            raise UserError(f"rounds is {self.rounds}; it must be at least 1.")


def measure(case: Case, names: Sequence[str], baseline: str, effort: Effort, command: str, announce: Announce) -> Row:
    """Returns the row of a case.

    Args:
      case: what to run.
      names: of the engines; outputs are compared with those of the first.
      baseline: the engine whose speed is 1.
      effort: how long engines run.
      command: that repeats the measurement, for the row.
      announce: makes a context manager from a text; each long operation runs in one, so that a user sees its progress.

    Raises:
      UserError: an engine is unknown, not installed or cannot run the case, or outputs differ.
    """
    names = tuple(dict.fromkeys(names))
    if baseline not in names:
        raise UserError(f"The baseline {baseline} is not among the engines: {', '.join(names)}.")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        start = write_weights(case, names, folder)
        hardware = find_hardware()
        found = _run(case, names, start, effort, folder, announce)
        warm = _build_again(case, names, folder, announce) if effort.warm else {}
    laps = {name: each["laps"] for name, each in found.engines.items()}
    figures = {
        "case": dataclasses.asdict(case) | {"image_size": case.size},
        "baseline": baseline,
        "flops_per_image": flops_per_image(case),
        "effort": dataclasses.asdict(effort),
        "cores_busy_for_others": list(found.busy),
        "engines": {
            name: _figures(case, each, laps[baseline]) | ({"warm_seconds": warm[name]} if warm else {})
            for name, each in found.engines.items()
        },
    }
    packages = dict.fromkeys(package for name in names for package in PACKAGES[engines.framework(name)])
    return Row(
        command=command,
        hardware=hardware,
        date=datetime.datetime.now(datetime.UTC).date(),
        versions=find_versions(*packages),
        flags=find_flags() | {name: each["facts"]["flags"] for name, each in found.engines.items()},
        figures=figures,
        outputs_compared=found.checks,
    )


def write_weights(case: Case, names: Sequence[str], folder: Path) -> Weights:
    """Writes the weights of a case in the layout of each framework, and returns them in that of this package.

    Raises:
      UserError: an engine is unknown, or the model has no original of its framework.
    """
    frameworks = {engines.framework(name) for name in names}
    start = random_weights(case, scales="keras" not in frameworks or case.model not in KERAS_WITHOUT_SCALE)
    weights.save(folder / engines.WEIGHTS, start)
    for kind in sorted(frameworks - {"jax"}):
        weights.save_tensors(folder / f"{kind}.safetensors", weights.export(start, origin_of(kind, case.model)))
    return start


class _Found(NamedTuple):
    """Measurements: by engine "laps", "phases", "ceilings" and "facts"; the checks of outputs.

    `busy` holds the CPU cores that other processes used, before and after the turns.
    """

    engines: dict[str, dict[str, Any]]
    checks: tuple[Check, ...]
    busy: tuple[float | None, float | None]


def _run(case: Case, names: Sequence[str], start: Weights, effort: Effort, folder: Path, announce: Announce) -> _Found:
    """Builds the engines one after the other, compares their outputs, and times them in turns."""
    workers: dict[str, Worker] = {}
    with contextlib.ExitStack() as stack:
        phases, outputs = {}, {}
        for name in names:
            with announce(f"{case}: building {name}"):
                workers[name] = stack.enter_context(_start(name, case, folder))
                phases[name] = workers[name].ask("build")
                outputs[name] = workers[name].ask("outputs")
        checks = compare(case, start, outputs)
        each = effort.seconds / effort.rounds
        turns = {name: functools.partial(worker.ask, "turn", each) for name, worker in workers.items()}
        with announce(f"{case}: {', '.join(names)} take turns"):
            before = timing.busy_cores()
            laps = timing.take_turns(turns, effort.rounds)
            busy = before, timing.busy_cores()
            ceilings = {name: worker.ask("ceilings") for name, worker in workers.items()}
        facts = {name: worker.ask("facts") for name, worker in workers.items()}
        for name, worker in workers.items():
            facts[name]["memory"]["process_peak"] = worker.ask("peak")
    found = {
        name: {"laps": laps[name], "phases": phases[name], "ceilings": ceilings[name], "facts": facts[name]}
        for name in names
    }
    return _Found(found, tuple(checks), busy)


def _start(name: str, case: Case, folder: Path) -> Worker:
    return Worker(name, CREATE, (name, case, folder), case.threads, folder / "cache" / name)


def _build_again(case: Case, names: Sequence[str], folder: Path, announce: Announce) -> dict[str, dict[str, float]]:
    """Builds each engine in a fresh process with a filled compilation cache; returns the seconds by phase."""
    phases = {}
    for name in names:
        with announce(f"{case}: building {name} again"), _start(name, case, folder) as worker:
            phases[name] = worker.ask("build")
    return phases


def _figures(case: Case, found: Mapping[str, Any], baseline: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Returns the figures of one engine for the row, in seconds, bytes and FLOPs."""
    steady = timing.spread(found["laps"])
    rate = flops_per_image(case) * case.batch / steady["median"]
    facts = {name: value for name, value in found["facts"].items() if name != "flags"}
    return {
        "phases": found["phases"],
        "to_first_result": sum(found["phases"].values()),
        "steady": steady,
        "images_per_second": case.batch / steady["median"],
        "ratio": timing.ratio(found["laps"], baseline),
        "flops_per_second": rate,
        "ceilings": found["ceilings"],
        "utilisation": rate / found["ceilings"]["flops"],
        **facts,
    }
