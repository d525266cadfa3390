"""One network on several engines: the same weights, the same images, outputs compared, and then the time."""

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
from inception_jax.bench.originals import origin_of
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
Tell = Callable[[str], contextlib.AbstractContextManager[None]]


@dataclasses.dataclass(frozen=True)
class Effort:
    """How long engines run: `seconds` of each, cut into `rounds` in which they take turns.

    With `warm`, each is built once more in a fresh process that finds what the first one compiled.
    """

    seconds: float = 10.0
    rounds: int = 5
    warm: bool = True

    def __post_init__(self) -> None:
        if not self.seconds > 0:
            raise UserError(f"seconds is {self.seconds}; it must be above 0.")
        if self.rounds < 1:
            raise UserError(f"rounds is {self.rounds}; it must be at least 1.")


def measure(case: Case, names: Sequence[str], baseline: str, effort: Effort, command: str, tell: Tell) -> Row:
    """Returns the row of a case.

    Args:
      case: what to run.
      names: of the engines; the first is what outputs are compared with.
      baseline: the engine whose speed is 1.
      effort: how long.
      command: that repeats it, for the row.
      tell: a context in which something takes long.

    Raises:
      UserError: an engine is unknown, not installed, cannot run the case, or computes something else.
    """
    names = tuple(dict.fromkeys(names))
    if baseline not in names:
        raise UserError(f"The baseline {baseline} is not measured; measured are: {', '.join(names)}.")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        start = write_weights(case, names, folder)
        hardware = find_hardware()
        found = _run(case, names, start, effort, folder, tell)
        warm = _build_again(case, names, folder, tell) if effort.warm else {}
    laps = {name: each["laps"] for name, each in found.engines.items()}
    figures = {
        "case": dataclasses.asdict(case) | {"image_size": case.size},
        "baseline": baseline,
        "flops_per_image": flops_per_image(case),
        "effort": dataclasses.asdict(effort),
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
    """Writes the weights of a case, in the layout of every framework that runs it, and returns ours.

    Raises:
      UserError: an engine is unknown, or the model has no original of its framework.
    """
    frameworks = {engines.framework(name) for name in names}
    start = random_weights(case, gains="keras" not in frameworks)
    weights.save(folder / engines.WEIGHTS, start)
    for kind in sorted(frameworks - {"jax"}):
        weights.save_tensors(folder / f"{kind}.safetensors", weights.export(start, origin_of(kind, case.model)))
    return start


class _Found(NamedTuple):
    """What the processes of the engines said: "laps", "phases", "ceilings" and "facts" of each, and the checks."""

    engines: dict[str, dict[str, Any]]
    checks: tuple[Check, ...]


def _run(case: Case, names: Sequence[str], start: Weights, effort: Effort, folder: Path, tell: Tell) -> _Found:
    """Builds the engines one after the other, compares what they compute, and lets them take turns."""
    workers: dict[str, Worker] = {}
    with contextlib.ExitStack() as stack:
        phases, outputs = {}, {}
        for name in names:
            with tell(f"{case}: building {name}"):
                workers[name] = stack.enter_context(_start(name, case, folder))
                phases[name] = workers[name].ask("build")
                outputs[name] = workers[name].ask("outputs")
        checks = compare(case, start, outputs)
        each = effort.seconds / effort.rounds
        turns = {name: functools.partial(worker.ask, "turn", each) for name, worker in workers.items()}
        with tell(f"{case}: {', '.join(names)} take turns"):
            laps = timing.take_turns(turns, effort.rounds)
            ceilings = {name: worker.ask("ceilings") for name, worker in workers.items()}
        facts = {name: worker.ask("facts") for name, worker in workers.items()}
        for name, worker in workers.items():
            facts[name]["memory"]["process_peak"] = worker.ask("peak")
    found = {
        name: {"laps": laps[name], "phases": phases[name], "ceilings": ceilings[name], "facts": facts[name]}
        for name in names
    }
    return _Found(found, tuple(checks))


def _start(name: str, case: Case, folder: Path) -> Worker:
    return Worker(name, CREATE, (name, case, folder), case.threads, folder / "cache" / name)


def _build_again(case: Case, names: Sequence[str], folder: Path, tell: Tell) -> dict[str, dict[str, float]]:
    """Returns the seconds by phase of engines that find what they compiled before, in processes that begin anew."""
    phases = {}
    for name in names:
        with tell(f"{case}: building {name} again"), _start(name, case, folder) as worker:
            phases[name] = worker.ask("build")
    return phases


def _figures(case: Case, found: Mapping[str, Any], baseline: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Returns the figures of one engine, in seconds, bytes and FLOPs."""
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
