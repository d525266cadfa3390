"""Figures of an evaluation: the confusion matrix, the surest mistakes, and the boxes of a localisation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure  # not pyplot, which would choose a backend for the whole process

from inception_jax.data.pixels import decode
from inception_jax.data.sources import ImageSource
from inception_jax.explain.heatmaps import PlacedHeatmap, heat
from inception_jax.explain.plots import DisplayImage, draw_box, overlay
from inception_jax.explain.wsol import ImageLocalisation
from inception_jax.inference.evaluation import Evaluation
from inception_jax.labels import label, labels

NAMED_CLASSES = 40  # more names would overlap
COUNTED_CLASSES = 20
COLUMNS, ROWS = 6, 4
TILE = 320  # pixels of the longer side of an image in a grid


def draw_confusion(evaluation: Evaluation, title: str) -> Figure:
    """Returns a figure of the confusion matrix, each row as shares of its true class; names and counts if they fit."""
    counts = evaluation.confusion()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    classes = len(counts)
    side = 4 + 0.35 * min(classes, NAMED_CLASSES) if classes <= NAMED_CLASSES else 9
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(
        shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest" if classes < 200 else "antialiased"
    )
    figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8)
    axes.set(xlabel="predicted class", ylabel="true class")
    text, style = label(title)
    axes.set_title(text, **style)
    if classes <= NAMED_CLASSES:
        numbers = [str(i) for i in range(classes)]
        named = zip(evaluation.class_names, numbers, strict=True)
        names, style = labels([_shortened(name, 24) or number for name, number in named], numbers)
        axes.set_xticks(range(classes), names, rotation=45, ha="right", **style)
        axes.set_yticks(range(classes), names, **style)
    if classes <= COUNTED_CLASSES:
        for (row, column), count in np.ndenumerate(counts):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, f"{count:,}" if count else "", ha="center", va="center", color=colour, fontsize=8)
    return figure


def draw_mistakes(evaluation: Evaluation, source: ImageSource, title: str) -> Figure:
    """Returns a figure of the surest mistakes: each image, its class, the predicted class and the probability."""
    indices = evaluation.mistakes()[: COLUMNS * ROWS]
    rows = max(-(-len(indices) // COLUMNS), 1)
    figure = Figure(figsize=(2 * COLUMNS, 2.5 * rows + 0.5), layout="constrained")
    text, style = label(title if len(indices) else f"{title}: no mistakes")
    figure.suptitle(text, **style)
    for axes, i in zip(figure.subplots(rows, COLUMNS, squeeze=False).flat, indices, strict=False):
        axes.imshow(DisplayImage(decode(source[int(i)]["image"], source.exif), TILE).image, interpolation="nearest")
        pair = evaluation.labels[i], evaluation.predicted[i]
        names = [_shortened(evaluation.class_names[each], 22) for each in pair]
        (true, predicted), style = labels(names, [f"class {each}" for each in pair])
        text = f"{true}\ntaken for {predicted}\n{evaluation.probability[i]:.1%}"
        axes.set_title(text, fontsize=8, **style)
    for axes in figure.axes:
        axes.axis("off")
    return figure


def draw_localisations(
    located: Sequence[ImageLocalisation], class_names: Sequence[str], source: ImageSource, title: str
) -> Figure:
    """Returns a figure of images of a set: the heatmap of their class, the predicted box and the true boxes."""
    indices = np.unique(np.linspace(0, len(located) - 1, COLUMNS * ROWS).round().astype(int))
    rows = -(-len(indices) // COLUMNS)
    figure = Figure(figsize=(2 * COLUMNS, 2.4 * rows + 0.5), layout="constrained")
    text, style = label(f"{title}: found (bright) and true (white) boxes")
    figure.suptitle(text, **style)
    for axes, each in zip(
        figure.subplots(rows, COLUMNS, squeeze=False).flat, (located[i] for i in indices), strict=False
    ):
        image = DisplayImage(decode(source[each.index]["image"], source.exif), TILE)
        found = image.heat(PlacedHeatmap(heat(each.map), each.read_box, *image.size))
        axes.imshow(overlay(image.image, found), interpolation="nearest")
        for truth in each.truths:
            draw_box(axes, image.box(truth), "white")
        if each.box is not None:
            draw_box(axes, image.box(each.box))
        name, style = label(_shortened(class_names[each.label], 22), f"class {each.label}")
        axes.set_title(f"{name}\nIoU {each.iou:.2f}" if each.truths else name, fontsize=8, **style)
    for axes in figure.axes:
        axes.axis("off")
    return figure


def _shortened(name: str, length: int) -> str:
    """Returns a name on one line; a name over `length` characters is cut and ends in dots."""
    line = " ".join(name.split())
    return line if len(line) <= length else f"{line[: length - 4].rstrip()} ..."
