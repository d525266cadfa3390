"""The tables of models in the documents, from the zoo and from the cards of published weights.

`python -m inception_jax.describe.models_page` writes them into README.md and docs/MODELS.md of the current folder.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from inception_jax.describe import summary
from inception_jax.errors import UserError
from inception_jax.models import spec, zoo
from inception_jax.models.inputs import Preprocess
from inception_jax.paths import read_bytes, write_bytes
from inception_jax.weights.published import cards
from inception_jax.weights.published.card import WeightCard
from inception_jax.weights.recognition import origins

BEGIN, END = "<!-- models: begin, written by `make docs` -->", "<!-- models: end -->"
"""The lines in README.md between which its table of models stands."""

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


def readme_table() -> str:
    """Returns the table of models in README.md."""
    return _table(
        ("name", "what it is", "params, without / with aux heads", "GMACs"), map(_short_row, zoo.MODELS.values())
    )


def with_table(readme: str) -> str:
    """Returns the text of README.md with the table of models as it is now.

    Raises:
      UserError: the lines `BEGIN` and `END` do not each stand there once, in this order.
    """
    before, begin, rest = readme.partition(f"{BEGIN}\n")
    _, end, after = rest.partition(f"\n{END}\n")
    if not (begin and end) or readme.count(BEGIN) + readme.count(END) != 2:
        raise UserError(f"README.md must hold the lines {BEGIN!r} and {END!r} once each, in this order.")
    return f"{before}{begin}{readme_table()}{end}{after}"


def write_documents(root: Path) -> None:
    """Writes docs/MODELS.md and the table in README.md of the checkout at `root`.

    Raises:
      UserError: one of them cannot be read or written, or README.md lacks the lines that enclose the table.
    """
    readme = root / "README.md"
    write_bytes(readme, with_table(read_bytes(readme).decode()).encode())
    write_bytes(root / "docs" / "MODELS.md", models_markdown().encode())


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
    scale = "" if numerics.norm.scale else " without gamma"
    bias = "bias and " if numerics.conv_bias else ""
    return f"{bias}batch norm {numerics.norm.epsilon:g} / {numerics.norm.decay:g}{scale}"


def _params_words(totals: Mapping[str, int]) -> str:
    return f"{totals['params']:,} / {totals['params_with_aux']:,}"


def _short_row(card: zoo.ModelCard) -> tuple[str, ...]:
    found = summary.summarize(card.name)
    gmacs = f"{found.totals['macs'] / 1e9:.3f} at {found.image_size}"
    return f"`{card.name}`", card.summary, _params_words(found.totals), gmacs


def _model_row(card: zoo.ModelCard) -> tuple[str, ...]:
    totals = summary.summarize(card.name).totals
    return (
        f"`{card.name}`",
        card.summary,
        f"[{card.paper}](https://arxiv.org/abs/{card.paper})",
        _params_words(totals),
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


if __name__ == "__main__":
    write_documents(Path())
