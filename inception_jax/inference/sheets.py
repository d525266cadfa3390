"""Pictures of an evaluation: the confusion matrix, and sheets of its mistakes and of where objects were found."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure  # not pyplot, which would choose a backend for the whole process

from inception_jax.data.pixels import decode
from inception_jax.data.sources import ImageSource
from inception_jax.inference.evaluation import Evaluation
from inception_jax.inference.heat import heat, on_image
from inception_jax.inference.picture import draw_box, overlay
from inception_jax.inference.wsol import Located

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
        image = decode(source[int(place)]["image"], source.exif)
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


def draw_located(
    located: Sequence[Located], class_names: Sequence[str], source: ImageSource, picture: Path, title: str
) -> None:
    """Draws images of a set at even distances under the heat of their class, with the box found and the true boxes."""
    places = np.unique(np.linspace(0, len(located) - 1, COLUMNS * ROWS).round().astype(int))
    rows = -(-len(places) // COLUMNS)
    figure = Figure(figsize=(2 * COLUMNS, 2.4 * rows + 0.5), layout="constrained")
    figure.suptitle(f"{title}: found (bright) and true (white) boxes", parse_math=False)
    for axes, each in zip(
        figure.subplots(rows, COLUMNS, squeeze=False).flat, (located[i] for i in places), strict=False
    ):
        image = decode(source[each.index]["image"], source.exif)
        axes.imshow(overlay(image, on_image(heat(each.map), each.place, *image.size)), interpolation="nearest")
        for truth in each.truths:
            draw_box(axes, truth, "white")
        if each.box is not None:
            draw_box(axes, each.box)
        name = textwrap.shorten(class_names[each.label], 22, placeholder=" ...")
        axes.set_title(f"{name}\nIoU {each.iou:.2f}" if each.truths else name, fontsize=8, parse_math=False)
    for axes in figure.axes:
        axes.axis("off")
    figure.savefig(picture, dpi=90)
