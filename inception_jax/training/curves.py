"""Draws curves.png, and makes and prints the summary at the end of a run."""

from __future__ import annotations

import io
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import rich.console
import rich.table
from matplotlib.figure import Figure  # not pyplot, which would choose a backend for the whole process

from inception_jax import labels
from inception_jax.errors import UserError, printable
from inception_jax.paths import read_bytes, write_bytes
from inception_jax.training.records import FIGURES, best_step, deciding
from inception_jax.training.workdir import Folder
from inception_jax.training.writers import duration, read_metrics

PANELS = (  # title, axis label, logarithmic, metrics with their labels
    ("Loss", "loss", True, {"train/loss": "training (all heads)", "train/loss_main": "training (main head)",
                            "eval/loss": "evaluation", "eval_ema/loss": "evaluation, averaged"}),
    ("Accuracy", "top-1, %", False, {"train/top1": "training", "eval/top1": "evaluation",
                                     "eval_ema/top1": "evaluation, averaged"}),
    ("Learning rate", "learning rate", False, {"train/learning_rate": ""}),
    ("Speed", "images / s", False, {"train/images_per_second": ""}),
)  # fmt: skip

COLOURS = {"train": "C0", "eval": "C1", "eval_ema": "C2"}


def draw_curves(metrics_file: Path, picture: Path, title: str) -> None:
    """Draws loss, accuracy, learning rate and speed over the steps.

    Args:
      metrics_file: metrics.jsonl of the run.
      picture: the PNG to write.
      title: of the figure.
    """
    records = read_metrics(metrics_file)
    figure = Figure(figsize=(11, 7), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True)
    text, style = labels.label(title)
    figure.suptitle(text, **style)
    for axis, (panel, label, logarithmic, metrics) in zip(axes.flat, PANELS, strict=True):
        scale = 100 if label.endswith("%") else 1
        drawn = 0
        for name, legend in metrics.items():
            points = [(record["step"], scale * record[name]) for record in records if name in record]
            if points:
                marker = "o" if name.startswith("eval") else None
                line = "--" if name == "train/loss_main" else "-"
                colour = COLOURS[name.partition("/")[0]]
                axis.plot(*zip(*points, strict=True), line, c=colour, label=legend, marker=marker, ms=3, lw=1.2)
                drawn += 1
        axis.set(title=panel, ylabel=label)
        axis.grid(alpha=0.3)
        if logarithmic and drawn:
            axis.set_yscale("log")
        else:
            axis.set_ylim(bottom=0)
        if drawn and any(metrics.values()):
            axis.legend(fontsize="small")
    for axis in axes[1]:
        axis.set_xlabel("step")
    content = io.BytesIO()
    figure.savefig(content, dpi=120, format="png")
    write_bytes(picture, content.getvalue())


def is_png(picture: Path) -> bool:
    """Returns whether a file is a complete PNG, from its signature to its last chunk."""
    try:
        content = read_bytes(picture)
    except UserError:
        return False
    return content.startswith(b"\x89PNG\r\n\x1a\n") and content.endswith(b"IEND\xaeB`\x82")


def summarise(
    records: Sequence[Mapping[str, Any]], evaluations: Mapping[int, Mapping[str, float] | None], first_step: int
) -> dict[str, Any]:
    """Returns the last and the best evaluation of the existing checkpoints, and the median speed.

    Args:
      records: lines of the metrics file.
      evaluations: metrics by step, None where unknown; at least one is known.
      first_step: the speed is taken from the steps after this one.
    """
    known = {step: metrics for step, metrics in evaluations.items() if metrics}
    best = best_step(known)
    speeds = [
        record["train/images_per_second"]
        for record in records
        if record["step"] > first_step and "train/images_per_second" in record
    ]
    return {
        "last": _figures(known[max(known)]),
        "best": _figures(known[best]),
        "best_step": best,
        "images_per_second": round(statistics.median(speeds), 1) if speeds else 0.0,
    }


def is_whole_evaluation(metrics: Mapping[str, float]) -> bool:
    """Returns whether metrics have every figure of an evaluation that the summary needs."""
    return {f"{deciding(metrics)}/{name}" for name in FIGURES} <= metrics.keys()


def _figures(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: metrics[f"{deciding(metrics)}/{name}"] for name in FIGURES}


def read_summary(path: Path) -> dict[str, Any] | None:
    """Returns the summary of a run that has ended; None if it is missing or damaged."""
    try:
        summary = json.loads(read_bytes(path))
        print_summary(rich.console.Console(quiet=True), summary, path.parent)
    except (UserError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return summary if isinstance(summary["best_step"], int) else None


def print_summary(console: rich.console.Console, summary: Mapping[str, Any], workdir: Folder) -> None:
    """Prints the table that ends a run."""
    title = f"{summary['model']} on {printable(summary['data'])}"
    table = rich.table.Table(title=title, show_header=False, title_justify="left")
    classes = summary.get("classes")  # missing in summaries of earlier versions
    table.add_row("accuracy, last", accuracy(summary["last"], classes))
    table.add_row("accuracy, best", f"{accuracy(summary['best'], classes)} (step {summary['best_step']:,})")
    table.add_row("steps", f"{summary['step']:,}")
    table.add_row("time of this process", f"{duration(summary['seconds'])} (h:mm:ss)")
    table.add_row("training speed", f"{summary['images_per_second']:,.0f} images/s")
    table.add_row("compilation", summary["compilation"])
    table.add_row("skipped images", f"{summary['skipped']:,}")
    table.add_row(
        "files",
        f"{printable(workdir)}: curves.png, metrics.jsonl, summary.json, tensorboard/, checkpoints/",
    )
    console.print(table)


def accuracy(metrics: Mapping[str, float], classes: int | None) -> str:
    """Returns top-1, top-5 and loss in words; without top-5 up to five classes, where it is always 100 %."""
    few = f"(top-5 of {classes} class{'es' * (classes != 1)} is always 100 %: left out)"
    top5 = few if classes and classes <= 5 else f"top-5 {metrics['top5']:.2%}"
    return f"top-1 {metrics['top1']:.2%}, {top5}, loss {metrics['loss']:.4f}"
