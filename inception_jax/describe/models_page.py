"""docs/MODELS.md, written from the zoo and from the cards of published weights."""

from __future__ import annotations

from collections.abc import Iterable

from inception_jax.describe import summary
from inception_jax.models import spec, zoo
from inception_jax.models.inputs import Preprocess
from inception_jax.weights.convert import origins
from inception_jax.weights.published import cards
from inception_jax.weights.published.card import WeightCard

_HEADER = """\
# Models and published weights

Written by `make docs` (`inception-jax models --markdown`) from the zoo and the weight cards; a test compares.

## Models

Parameters are those of 1000 classes; MACs are the multiply-adds of convolutions and linear layers on one image of the
input size. An input is a square of RGB pixels p in 0 ... 255. Either the short side of an image is resized and the
centre cut, or the central part of height and width is cut and resized, whatever its shape.

Numerics, in this order: how strided convolutions and strided pools pad (`symmetric`: by half a window; `tf`: as
TensorFlow does; `ceil`: not at all, but the last window may overhang); what an average pool divides by at the border;
what follows a convolution (batch norm: epsilon / decay of the running statistics)."""

_WEIGHTS = """\
## Published weights

Accuracies are percentages on the validation images of ILSVRC 2012, one crop an image, as reported by the source named.
Of 1001 outputs the first is for a background. No outputs: the file holds no classifier that the model could. No
licence: the publisher states none for the weights, whatever that of the code. Hashes, preprocessing and more:
`inception-jax weights ID`."""


def models_markdown() -> str:
    """Returns the text of docs/MODELS.md."""
    models = _table(
        (
            "name",
            "what it is",
            "paper",
            "params, without / with aux heads",
            "MACs",
            "input",
            "numerics",
            "converts from",
        ),
        map(_model_row, zoo.MODELS.values()),
    )
    sections = [_HEADER, models, _WEIGHTS]
    for name in zoo.MODELS:
        if published := cards.list_cards(name):
            columns = ("id", "file", "outputs", "top-1 / top-5", "reported by", "licence", "notes")
            sections += [f"### {name}", _table(columns, map(_weights_row, published))]
    return "\n\n".join(sections) + "\n"


def preprocess_words(preprocess: Preprocess) -> str:
    """Returns how an input is made, in a few words."""
    size, shares = preprocess.size, preprocess.crop_fraction
    if preprocess.geometry == "central_box":
        cut = f"central {shares:.1%} resized" if shares < 1 else "whole image resized"
    else:
        cut = f"short side {preprocess.resize}" if preprocess.resize != size else "short side resized"
    return f"{size} x {size}, {cut} ({preprocess.interpolation}), {_pixel_words(preprocess)}"


def numerics_words(numerics: spec.Numerics) -> str:
    """Returns how the rows of a table are read, in a few words."""
    divisor = "window" if numerics.count_padding else "pixels seen"
    return f"{numerics.conv_same}, {numerics.pool_same}, {divisor}, {_norm_words(numerics)}"


def _pixel_words(preprocess: Preprocess) -> str:
    mean, std = (
        f"{values[0]:g}" if len(set(values)) == 1 else f"({', '.join(f'{value:g}' for value in values)})"
        for values in (preprocess.mean, preprocess.std)
    )
    return f"p - {mean}" if std == "1" else f"(p - {mean}) / {std}"


def _norm_words(numerics: spec.Numerics) -> str:
    if numerics.norm is None:
        return "bias"
    gain = "" if numerics.norm.scale else " without gamma"
    bias = "bias and " if numerics.conv_bias else ""
    return f"{bias}batch norm {numerics.norm.epsilon:g} / {numerics.norm.decay:g}{gain}"


def _model_row(card: zoo.ModelCard) -> tuple[str, ...]:
    totals = summary.summarize(card.name).totals
    return (
        f"`{card.name}`",
        card.summary,
        f"[{card.paper}](https://arxiv.org/abs/{card.paper})",
        f"{totals['params']:,} / {totals['params_with_aux']:,}",
        f"{totals['macs']:,}",
        preprocess_words(card.preprocess),
        numerics_words(card.numerics),
        ", ".join(origins(card.name)),
    )


def _weights_row(card: WeightCard) -> tuple[str, ...]:
    return (
        f"`{card.id}`",
        f"[{card.file}]({card.url})",
        "" if card.outputs is None else f"{card.outputs}",
        f"{card.top1} / {card.top5}" if card.top1 is not None else "",
        card.origin or "",
        card.licence or "",
        card.notes,
    )


def _table(columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = (columns, ("---",) * len(columns), *rows)
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
