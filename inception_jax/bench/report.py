"""docs/BENCHMARKS.md, written from the rows of benchmarks/results: what is slower than others stands there as well."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from inception_jax.bench import records
from inception_jax.bench.records import Row
from inception_jax.errors import UserError

OURS = ("jax", "inception-jax")  # what our engine is called in the rows
FILES = {"model": "model.jsonl", "data": "data.jsonl", "ops": "ops.jsonl", "compile": "compile.jsonl"}
PICTURE = "images/bench_{kind}.png"  # as seen from the page
OPS_SHOWN = 12

_HEADER = """\
# Benchmarks

Written by `inception-jax bench report` from [benchmarks/results](../benchmarks/results); a test compares. Of rows that
answer the same question on the same machine the last is shown; the files keep all.

Every engine runs in a process of its own, with the same weights and images, on one device. Outputs are compared before
anything is timed, in training also the gradients, and a row without that is refused. Engines take turns (A B A B); each
call is waited for; the median counts, the ratio is that of the median round. Ours gets uint8 images and normalises them
in its program, and its training step also reports accuracy and norms; PyTorch gets normalised floats and does neither.
FLOPs are counted from the tables (two for a multiply-add); utilisation is of a large product of matrices, multiplied on
the spot by the same framework. "First result" is all from tracing to the first output, cold and with what was compiled
before at hand.

```
inception-jax bench model --model googlenet_torchvision --mode inference --mode train --batch 32 \\
    --engine jax --engine torch-channels-last --engine torch-compile --save benchmarks/results/model.jsonl
inception-jax bench ops --save benchmarks/results/ops.jsonl
inception-jax bench compile --beside torch-compile --save benchmarks/results/compile.jsonl
inception-jax bench report --overwrite
```"""


class Rows(NamedTuple):
    """The rows that the page shows, by what they measure."""

    model: list[Row]
    data: list[Row]
    ops: list[Row]
    compile: list[Row]


def read_rows(folder: Path) -> Rows:
    """Returns the last row of each question in the files of a folder.

    Raises:
      UserError: there is no such folder, or a line is no row.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; results lie in benchmarks/results.")
    found = []
    for name in FILES.values():
        path = folder / name
        rows = records.read(path) if path.exists() else []
        last = {_question(row): row for row in rows if isinstance(row, Row)}
        found.append(list(last.values()))
    return Rows(*found)


def markdown(rows: Rows, pictures: Collection[str]) -> str:
    """Returns the text of the page; `pictures` are the kinds of rows that have one."""
    sections = [_HEADER]
    for title, write, kind, found in (
        ("Networks", _models, "model", rows.model),
        ("Input pipeline", _data, "data", rows.data),
        ("Convolutions and pools", _ops, "ops", rows.ops),
        ("Compilation", _compile, "compile", rows.compile),
    ):
        sections.append(f"## {title}")
        if not found:
            sections.append("Nothing is measured yet.")
            continue
        if kind in pictures:
            sections.append(f"![{title}]({PICTURE.format(kind=kind)})")
        for machine, group in _by_machine(found).items():
            sections += [f"### {machine}", *write(group), _sources(group)]
    return "\n\n".join(sections) + "\n"


def ours(row: Row) -> str:
    """Returns what our engine is called in a row."""
    return next(name for name in row.figures[records.ENGINES] if name in OURS)


def case_words(row: Row) -> str:
    """Returns what a row of `bench model` or `bench compile` is about, in words."""
    case = row.figures["case"]
    heads = " with heads" if case["aux"] and case["mode"] == "train" else ""
    return f"{case['model']}{heads}, {case['mode']}, {case['batch']} x {case['image_size']}, {case['dtype']}"


def best_other(row: Row) -> tuple[str, float] | None:
    """Returns the fastest engine that is not ours, and our speed divided by its; None if ours is alone."""
    found, name = row.figures[records.ENGINES], ours(row)
    others = {other: each["steady"]["median"] for other, each in found.items() if other != name}
    if not others:
        return None
    fastest = min(others, key=others.__getitem__)
    return fastest, others[fastest] / found[name]["steady"]["median"]


def _question(row: Row) -> str:
    """Returns what tells one question from another: the machine, the case, and what is compared."""
    engines = sorted(row.figures[records.ENGINES])
    return json.dumps([f"{row.hardware}", row.figures.get("case"), engines], sort_keys=True)


def _by_machine(rows: Iterable[Row]) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(f"{row.hardware}", []).append(row)
    return groups


def _models(rows: Sequence[Row]) -> list[str]:
    short = []
    for row in rows:
        if best := best_other(row):
            speed = row.figures[records.ENGINES][ours(row)]["images_per_second"]
            short.append((case_words(row), f"{speed:,.1f}", best[0], f"{best[1]:.2f}"))
    long = [cells for row in rows for cells in _engine_rows(row)]
    tables = [_table(("case", "ours, images/s", "fastest other", "ours / fastest other"), short)] if short else []
    columns = (
        *("case", "engine", "images/s", "median ms (p10 ... p90)", "x baseline (rounds)", "GFLOP/s", "utilisation"),
        *("first result, s", "with cache, s", "peak MiB"),
    )
    return [*tables, _table(columns, long)]


def _engine_rows(row: Row) -> Iterable[tuple[str, ...]]:
    for name, each in row.figures[records.ENGINES].items():
        steady, ratio, memory = each["steady"], each["ratio"], each["memory"]
        peak = memory.get("device_peak", memory["process_peak"])
        baseline = " (baseline)" if name == row.figures["baseline"] else ""
        yield (
            case_words(row),
            f"{name}{baseline}",
            f"{each['images_per_second']:,.1f}",
            f"{steady['median'] * 1e3:,.2f} ({steady['p10'] * 1e3:,.2f} ... {steady['p90'] * 1e3:,.2f})",
            f"{ratio['median']:.2f} ({ratio['lowest']:.2f} ... {ratio['highest']:.2f})",
            f"{each['flops_per_second'] / 1e9:,.0f}",
            f"{each['utilisation']:.0%}",
            f"{each['to_first_result']:,.1f}",
            f"{sum(each['warm_seconds'].values()):,.1f}" if "warm_seconds" in each else "-",
            f"{peak / 2**20:,.0f}",
        )


def _data(rows: Sequence[Row]) -> list[str]:
    cells = []
    for row in rows:
        case, name = row.figures["case"], ours(row)
        for engine, each in row.figures[records.ENGINES].items():
            relation = "1" if engine == name else f"{1 / each['of_ours']['median']:.2f}"
            what = f"{case['images']} images of {case['data']} to {case['size']}"
            cells.append((what, engine, f"{each['images_per_second']:,.0f}", relation))
        for workers, speed in row.figures.get("workers", {}).items():
            cells.append(("all cores", f"{name}, {workers} worker processes", f"{speed:,.0f}", "-"))
    return [_table(("crops of", "engine", "images/s on one core", "ours / this"), cells)]


def _ops(rows: Sequence[Row]) -> list[str]:
    return [part for row in rows for part in _ops_of(row)]


def _ops_of(row: Row) -> list[str]:
    case, names, ops = row.figures["case"], list(row.figures[records.ENGINES]), row.figures["ops"]
    columns = [f"{name}, {part}, ms" for part in ("forward", "gradients") for name in names]
    cells = [
        (each["op"], f"{each['uses']}", *(f"{seconds * 1e3:,.2f}" for seconds in _seconds(each, names)))
        for each in ops[:OPS_SHOWN]
    ]
    weighted = ([each["uses"] * seconds for seconds in _seconds(each, names)] for each in ops)
    totals = [f"{sum(column) * 1e3:,.1f}" for column in zip(*weighted, strict=True)]
    cells.append((f"all {len(ops)}, with all uses", f"{sum(each['uses'] for each in ops)}", *totals))
    words = (
        f"{case['model']}, {case['batch']} x {case['image_size']}, {case['dtype']}: the {min(OPS_SHOWN, len(ops))} "
        "that cost most with their gradients, in JAX and with all their uses."
    )
    others = [name for name in names if name not in OURS]
    if others:
        losses = [sum(_slower(each, part, others[0]) for each in ops) for part in ("forward", "gradients")]
        words += f" JAX is slower than {others[0]} in {losses[0]} of {len(ops)} forward, in {losses[1]} with gradients."
    return [words, _table(("op", "uses", *columns), cells)]


def _slower(each: Mapping[str, Any], part: str, other: str) -> bool:
    return each["seconds"][part]["jax"] > each["seconds"][part][other]


def _seconds(each: Mapping[str, Any], names: Sequence[str]) -> list[float]:
    return [each["seconds"][part][name] for part in ("forward", "gradients") for name in names]


def _compile(rows: Sequence[Row]) -> list[str]:
    cells = []
    for row in rows:
        for engine, states in row.figures[records.ENGINES].items():
            phases = ", ".join(f"{name.replace('_', ' ')} {n:,.2f}" for name, n in states["cold"].items())
            cold, warm = (f"{sum(states[state].values()):,.2f}" for state in ("cold", "warm"))
            cells.append((case_words(row), engine, cold, warm, phases))
    programs = []
    for row in rows:
        program = row.figures["program"]
        most = list(program["bytes_moved"].items())[:4]
        programs.append(
            (
                case_words(row),
                f"{sum(program['before'].values()):,}",
                f"{sum(program['after'].values()):,}",
                f"{program['steps'].get('fusion', 0):,}",
                f"{sum(program['bytes_moved'].values()) / row.figures['case']['batch'] / 1e6:,.1f}",
                ", ".join(f"{name} {n / sum(program['bytes_moved'].values()):.0%}" for name, n in most),
            )
        )
    return [
        _table(("case", "engine", "cold, s", "with cache, s", "cold, by phase"), cells),
        _table(
            ("case", "StableHLO operations", "compiled instructions", "fusions", "MB moved an image", "most of it in"),
            programs,
        ),
    ]


def _sources(rows: Sequence[Row]) -> str:
    """Returns a list of the commands, with date, versions, load and checks."""
    lines = []
    for row in rows:
        versions = ", ".join(f"{name} {version}" for name, version in row.versions.items() if name != "python")
        line = f"- `{row.command}`: {row.date}, load {row.hardware.load_average:g} at the start; {versions}"
        if row.outputs_compared:
            worst = max(row.outputs_compared, key=lambda check: check.max_abs_difference / (check.tolerance or 1))
            line += (
                f"; {len(row.outputs_compared)} outputs compared, the worst {worst.what} of {worst.engine}: "
                f"{worst.max_abs_difference:.2g}, {worst.tolerance:.2g} allowed"
            )
        lines.append(line + (f". {row.note}" if row.note else ""))
    return "\n".join(dict.fromkeys(lines))


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
