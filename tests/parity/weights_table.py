"""Weight files of every kind against the networks that wrote them: what was loaded, and the largest difference.

Each file is written by its original, with random weights, and loaded; then both run on the same input. Writes
weights_table.jsonl, beside this file, and docs/WEIGHTS_TABLE.md. The exit code is 1 if a difference exceeds 1e-5 of the
largest value.

Command: make weights-table
"""

from __future__ import annotations

import functools
import json
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import typer

from inception_jax import weights
from inception_jax.models.network import InceptionNet
from inception_jax.version import __version__
from tests.parity.weights_cases import Case, Made, Missing, all_cases

RESULTS = Path(__file__).with_suffix(".jsonl")
TABLE = Path(__file__).parents[2] / "docs/WEIGHTS_TABLE.md"
TOLERANCE = 1e-5
HEAD = """# What was loaded, and how far it is from its original

Made by `make weights-table`, version {version}, {date}. Every file is written by the original (in brackets: what
runs in its place), with random weights and random batch-norm statistics, and loaded as users load theirs.
Then both run on the same input in float32. "Difference" is the largest absolute difference of an output, divided by its
largest absolute value; 1e-5 is allowed.

| source | file | loaded | compared | difference |
|---|---|---|---|---|
"""


@functools.lru_cache(maxsize=4)
def program(model: InceptionNet) -> Callable[..., Any]:
    """Returns the compiled network."""
    return jax.jit(model.apply)


def run(case: Case) -> dict[str, Any]:
    """Returns the row of a case: what was loaded and the difference, or why it was not compared."""
    row: dict[str, Any] = {"source": case.source, "file": case.kind}
    try:
        with tempfile.TemporaryDirectory() as folder:
            made = case.make(Path(folder))
            loaded = weights.load(made.file, unverified=True, **made.loading)
            differences = compare(loaded, made)
    except Missing as error:
        return row | {"missing": str(error)}
    except Exception as error:  # one case must not end the others; the row says it, and the exit code
        return row | {"error": f"{type(error).__name__}: {error}"}
    compared = ", ".join(f"{name} {value:.1e}" for name, value in differences.items())
    return row | {"loaded": described(loaded), "compared": compared, "difference": max(differences.values())}


def compare(loaded: weights.Weights, made: Made) -> dict[str, float]:
    """Returns the largest difference of each output, relative to its largest value."""
    output = program(loaded.create_model(aux=False))(loaded.variables, made.images)
    found = {name: np.asarray(getattr(output, name)) for name in made.expected}
    return {
        name: float(np.abs(found[name] - value.reshape(found[name].shape)).max() / np.abs(value).max())
        for name, value in made.expected.items()
    }


def described(loaded: weights.Weights) -> str:
    """Returns what the report says, short: the model, the number of tensors, and what happened to others."""
    info, report = loaded.info, loaded.report
    others = {"re-initialised": report.reinitialised, "dropped": report.dropped, "filled": report.filled}
    parts = [f"{info.model}: {len(report.loaded)} tensors, {info.num_classes} classes"]
    parts += [f"head of {', '.join(str(row.features) for row in info.head.rows)}"] if info.head.rows else []
    return ", ".join(parts + [f"{what} {len(names)}" for what, names in others.items() if names])


def markdown(rows: list[dict[str, Any]]) -> str:
    """Returns the table as a page."""
    lines = []
    for row in rows:
        said = row.get("missing") or row.get("error")
        cells = [row["source"], row["file"], row.get("loaded", ""), row.get("compared", ""), ""]
        cells[-1] = f"not run: {said}" if said else f"{row['difference']:.1e}"
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return HEAD.format(version=__version__, date=f"{datetime.now(UTC):%Y-%m-%d}") + "\n".join(lines) + "\n"


def write(rows: list[dict[str, Any]]) -> None:
    """Writes the rows, beside those of other cases that are there, in the order of the cases."""
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    known = {(row["source"], row["file"]): row for row in map(json.loads, lines)}
    known |= {(row["source"], row["file"]): row | {"version": __version__} for row in rows}
    ordered = [known[case.source, case.kind] for case in all_cases() if (case.source, case.kind) in known]
    RESULTS.write_text("".join(json.dumps(row) + "\n" for row in ordered))
    TABLE.write_text(markdown(ordered))


def main(
    only: Annotated[str, typer.Option(help="Run the cases whose source or kind contains this; other rows stay.")] = "",
) -> None:
    """Run all cases, print a row each, and write the table."""
    cases = [case for case in all_cases() if only in f"{case.source} {case.kind}"]
    rows = []
    for i, case in enumerate(cases, start=1):
        start = time.monotonic()
        row = run(case)
        rows.append(row)
        said = row.get("error") or row.get("missing") or f"{row['difference']:.1e}  {row['loaded']}"
        print(
            f"{i}/{len(cases)} {time.monotonic() - start:5.1f} s  {case.source:<36} {case.kind:<34} {said}", flush=True
        )
    wrong = [row for row in rows if row.get("error") or not row.get("difference", 0) <= TOLERANCE]
    write(rows)
    run_count = sum("difference" in row for row in rows)
    print(f"{run_count} of {len(rows)} compared, {len(wrong)} over {TOLERANCE} or not loaded")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    typer.run(main)
