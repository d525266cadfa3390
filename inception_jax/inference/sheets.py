"""Pictures of an evaluation: the confusion matrix, and a sheet of its mistakes."""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure  # not pyplot, which would choose a backend for the whole process

from inception_jax.data.sources import ImageSource
from inception_jax.data.transforms import decode
from inception_jax.inference.evaluation import Evaluation

NAMED_CLASSES = 40  # more names would overlap
COUNTED_CLASSES = 20
COLUMNS, ROWS = 6, 4


def draw_confusion(evaluation: Evaluation, picture: Path, title: str) -> None:
    """Draws the share of each true class that was taken for each class; with names and counts if classes are few."""
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
    axes.set_title(title, parse_math=False)
    if classes <= NAMED_CLASSES:
        names = [
            textwrap.shorten(name, 24, placeholder=" ...") or str(i) for i, name in enumerate(evaluation.class_names)
        ]
        axes.set_xticks(range(classes), names, rotation=45, ha="right", parse_math=False)
        axes.set_yticks(range(classes), names, parse_math=False)
    if classes <= COUNTED_CLASSES:
        for (row, column), count in np.ndenumerate(counts):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, f"{count:,}" if count else "", ha="center", va="center", color=colour, fontsize=8)
    figure.savefig(picture, dpi=100)


def draw_mistakes(evaluation: Evaluation, source: ImageSource, picture: Path, title: str) -> None:
    """Draws the images that were most surely taken for another class, with both classes and the probability."""
    places = evaluation.mistakes()[: COLUMNS * ROWS]
    rows = max(-(-len(places) // COLUMNS), 1)
    figure = Figure(figsize=(2 * COLUMNS, 2.5 * rows + 0.5), layout="constrained")
    figure.suptitle(title if len(places) else f"{title}: no mistakes", parse_math=False)
    for axes, place in zip(figure.subplots(rows, COLUMNS, squeeze=False).flat, places, strict=False):
        image = decode(source[int(place)]["image"])
        image.thumbnail((320, 320))
        axes.imshow(image, interpolation="nearest")
        true, predicted = (
            textwrap.shorten(evaluation.class_names[each], 22, placeholder=" ...")
            for each in (evaluation.labels[place], evaluation.predicted[place])
        )
        text = f"{true}\ntaken for {predicted}\n{evaluation.probability[place]:.1%}"
        axes.set_title(text, fontsize=8, parse_math=False)
    for axes in figure.axes:
        axes.axis("off")
    figure.savefig(picture, dpi=90)
