"""Seconds up to the first result (cold, cached and exported), and the operations before and after XLA."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from inception_jax.bench import engines
from inception_jax.bench.case import Case
from inception_jax.bench.compare import compare
from inception_jax.bench.model import CREATE, PACKAGES, Announce, write_weights
from inception_jax.bench.records import Row, find_flags, find_hardware, find_versions
from inception_jax.bench.worker import Worker
from inception_jax.inference.export_stablehlo import export_stablehlo
from inception_jax.plan import hlo
from inception_jax.plan.traffic import layer, traffic_by

EXPORTED = "inception_jax.bench.engines.on_jax:JaxExported"
_STABLEHLO = re.compile(r'= "?((?:stablehlo|chlo)\.\w+)')


def measure(
    case: Case,
    beside: Sequence[str],
    command: str,
    announce: Announce,
) -> Row:
    """Returns a row with the seconds by phase of each engine, and the operations of this package's program.

    Each engine is built twice, in fresh processes: "cold" with an empty compilation cache, "warm" with the one that the
    first filled. So is the exported file, for inference in float32.

    Args:
      case: the case to build.
      beside: engines to build besides "jax".
      command: that repeats the measurement, for the row.
      announce: see `model.measure`.

    Raises:
      UserError: as `model.measure`.
    """
    names = ("jax", *(name for name in dict.fromkeys(beside) if name != "jax"))
    hardware = find_hardware()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        start = write_weights(case, names, folder)
        factories: dict[str, tuple[str, str, tuple[Any, ...]]] = {
            name: (name, CREATE, (name, case, folder)) for name in names
        }
        if case.mode == "inference" and case.dtype == "float32":
            export_stablehlo(folder / "exported.zip", start)
            factories["jax, exported"] = ("jax", EXPORTED, (case, folder / "exported.zip"))
        found: dict[str, dict[str, Any]] = {}
        outputs, text = {}, {}
        for label, (name, factory, arguments) in factories.items():
            found[label] = {}
            for state in ("cold", "warm"):
                where = folder / "cache" / label
                with (
                    announce(f"{case}: {label}, {state}"),
                    Worker(name, factory, arguments, case.threads, where) as worker,
                ):
                    found[label][state] = worker.ask("build")
                    outputs[label] = worker.ask("outputs")
                    if label == "jax" and state == "cold":
                        text, facts = worker.ask("program"), worker.ask("facts")
    packages = dict.fromkeys(package for name in names for package in PACKAGES[engines.framework(name)])
    return Row(
        command=command,
        hardware=hardware,
        date=datetime.datetime.now(datetime.UTC).date(),
        versions=find_versions(*packages),
        flags=find_flags() | {"jax": facts["flags"]},
        figures={
            "case": dataclasses.asdict(case) | {"image_size": case.size},
            "device": facts["device"],
            "engines": found,
            "program": read_program(text["stablehlo"], text["hlo"]),
        },
        outputs_compared=tuple(compare(case, start, outputs)),
    )


def read_program(stablehlo: str, compiled: str) -> dict[str, Any]:
    """Counts the operations of a program before and after XLA, and the bytes that its steps move.

    Returns:
      "before": StableHLO operations by name, the most frequent first.
      "after": compiled instructions by opcode, in all computations.
      "steps": instructions of the entry computation by opcode; a fusion is one.
      "bytes_moved": bytes of operands and results by layer, most first. The backward pass of a layer is an entry of
        its own. Steps for which XLA records no layer are "other".
    """
    module = hlo.parse(compiled)
    moved = traffic_by(module, lambda each: layer(each.op_name))
    return {
        "before": dict(collections.Counter(_STABLEHLO.findall(stablehlo)).most_common()),
        "after": hlo.opcodes(module),
        "steps": hlo.opcodes(module, entry=True),
        "bytes_moved": {name: each.total for name, each in moved.items()},
    }
