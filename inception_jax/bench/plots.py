"""The pictures of docs/BENCHMARKS.md."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from inception_jax.bench import records, report
from inception_jax.bench.records import Row
from inception_jax.labels import label, labels

COLOURS = ("#1f77b4", "#ee854a", "#6acc64", "#956cb4", "#8c613c", "#d65f5f", "#797979")
OURS = COLOURS[0]


def draw(rows: report.Rows) -> dict[str, Figure]:
    """Returns a figure for each kind of row ("model", "ops", "compile") that has something to draw."""
    figures = {"model": draw_models(rows.model), "ops": draw_ops(rows.ops), "compile": draw_compile(rows.compile)}
    return {kind: figure for kind, figure in figures.items() if figure is not None}


def draw_models(rows: Sequence[Row]) -> Figure | None:
    """Returns bars of the images per second of each engine, with a panel for each case; None without rows."""
    if not rows:
        return None
    engines = list(dict.fromkeys(name for row in rows for name in row.figures[records.ENGINES]))
    colours = dict(zip(engines, COLOURS * len(engines), strict=False))
    heights = [len(row.figures[records.ENGINES]) + 1 for row in rows]
    figure = Figure(figsize=(8, 0.3 * sum(heights) + 0.4), layout="constrained")
    panels = figure.subplots(len(rows), 1, height_ratios=heights, squeeze=False)[:, 0]
    for axes, row in zip(panels, rows, strict=True):
        found = row.figures[records.ENGINES]
        speeds = [each["images_per_second"] for each in found.values()]
        labels = [f" {speed:,.1f}" for speed in speeds]
        _bars(axes, list(found), speeds, labels, [colours[name] for name in found])
        _title(axes, f"{report.case_words(row)}: images/s\n{row.hardware}")
    return figure


def draw_ops(rows: Sequence[Row]) -> Figure | None:
    """Returns a scatter plot of ops, milliseconds in PyTorch and in JAX; None where PyTorch was not measured."""
    pairs = [row for row in rows if len(row.figures[records.ENGINES]) > 1]
    if not pairs:
        return None
    figure = Figure(figsize=(9, 4.4 * len(pairs)), layout="constrained")
    panels = figure.subplots(len(pairs), 2, squeeze=False)
    for row, pair in zip(pairs, panels, strict=True):
        (other,) = (name for name in row.figures[records.ENGINES] if name not in report.OURS)
        for part, axes in zip(("forward", "gradients"), pair, strict=True):
            for colour, kind in zip(COLOURS, ("conv", "separable", "max", "avg"), strict=False):
                ops = [op for op in row.figures["ops"] if op["op"].split()[0] == kind]
                points = [[op["seconds"][part][name] * 1e3 for op in ops] for name in (other, "jax")]
                if ops:
                    axes.scatter(*points, s=[12 + 6 * op["uses"] for op in ops], c=colour, alpha=0.7, label=kind)
            axes.axline((1, 1), slope=1, color="0.6", linewidth=1)
            text, style = label(f"{other}, ms")
            axes.set_xlabel(text, **style)
            axes.set(xscale="log", yscale="log", ylabel="jax, ms")
            both = [*axes.get_xlim(), *axes.get_ylim()]
            axes.set(xlim=(min(both), max(both)), ylim=(min(both), max(both)), aspect="equal")
            case = row.figures["case"]
            words = f"{case['model']}, {case['batch']} x {case['image_size']}, {case['dtype']}, {part}"
            text, style = label(f"{words}\nabove the line: JAX is slower")
            axes.set_title(text, fontsize="small", **style)
            axes.legend(fontsize="small")
    return figure


def draw_compile(rows: Sequence[Row]) -> Figure | None:
    """Returns bars of the seconds to the first result, cold and with a cache; None without rows."""
    if not rows:
        return None
    heights = [2 * len(row.figures[records.ENGINES]) + 1 for row in rows]
    figure = Figure(figsize=(8, 0.28 * sum(heights) + 0.4), layout="constrained")
    panels = figure.subplots(len(rows), 1, height_ratios=heights, squeeze=False)[:, 0]
    for axes, row in zip(panels, rows, strict=True):
        found = {
            f"{name}, {state}": sum(phases.values())
            for name, states in row.figures[records.ENGINES].items()
            for state, phases in states.items()
        }
        colours = [OURS if name.startswith(report.OURS) else COLOURS[1] for name in found]
        _bars(axes, list(found), list(found.values()), [f" {seconds:,.1f}" for seconds in found.values()], colours)
        _title(axes, f"{report.case_words(row)}: seconds to the first result")
    return figure


def _title(axes: Axes, title: str) -> None:
    text, style = label(title)
    axes.set_title(text, fontsize="small", loc="left", **style)


def _bars(axes: Axes, names: list[str], values: list[float], texts: list[str], colours: list[str]) -> None:
    shown, style = labels(names)
    bars = axes.barh(range(len(names)), values, color=colours)
    axes.set_yticks(range(len(names)), shown, **style)
    axes.bar_label(bars, texts, fontsize="small")
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.tick_params(labelsize="small")
    axes.spines[["top", "right"]].set_visible(False)
