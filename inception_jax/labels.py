"""Text in pictures: names of strangers, drawn letter by letter, in fonts that have the letters.

Matplotlib reads what stands between two $ as TeX, and draws a box, with a warning, for a letter that its font lacks.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib
from matplotlib import font_manager, ft2font

from inception_jax.errors import printable

FONT = "DejaVu Sans"  # comes with matplotlib


def label(text: object, instead: str | None = None) -> tuple[str, dict[str, Any]]:
    """Returns `labels` of one text."""
    (shown,), style = labels([text], None if instead is None else [instead])
    return shown, style


def labels(texts: Iterable[object], instead: Sequence[str] | None = None) -> tuple[list[str], dict[str, Any]]:
    r"""Returns texts as they can be drawn, and the keywords that every function of matplotlib needs to draw them so.

    Args:
      texts: names, titles; line breaks stay, other control characters are escaped.
      instead: for each text, what is drawn where no font of this machine has all its letters; None: such letters are
        escaped, as "\u732b".
    """
    shown = [printable(text, keep="\n") for text in texts]
    families = {character: _family(character) for character in set("".join(shown)) - {"\n"}}
    missing = {character for character, family in families.items() if family is None}
    for i, text in enumerate(shown):
        if missing & set(text):
            shown[i] = _escaped(text, missing) if instead is None else instead[i]
    others = sorted({family for family in families.values() if family is not None} - {FONT})
    return shown, {"parse_math": False, "fontfamily": [FONT, *others]}


def _escaped(text: str, missing: set[str]) -> str:
    return "".join(each.encode("unicode_escape").decode("ascii") if each in missing else each for each in text)


@functools.cache
def _family(character: str) -> str | None:
    """Returns the first family of fonts that has a letter: matplotlib's own, else one that is installed; or None."""
    own = font_manager.findfont(font_manager.FontProperties(family=[FONT]))
    if ord(character) in _letters(own):
        return FONT
    return next((name for name, file in _installed().items() if ord(character) in _letters(file)), None)


@functools.cache
def _installed() -> dict[str, str]:
    """Returns the file of upright, regular text by family, for each family that is installed on this machine."""
    own = matplotlib.get_data_path()  # other fonts in there are for formulas, or draw a box for every letter
    fonts = [font for font in font_manager.fontManager.ttflist if not font.fname.startswith(own)]
    fonts.sort(key=lambda font: (font.style != "normal", _distance(font.weight), font.name))
    files: dict[str, str] = {}
    for font in fonts:
        files.setdefault(font.name, font.fname)
    return files


def _distance(weight: int | str) -> int:
    return abs(int(weight) - 400) if str(weight).isdecimal() else 0  # of regular text, which some fonts give in words


@functools.cache
def _letters(path: str) -> frozenset[int]:
    """Returns the code points of a font file; none if it cannot be read."""
    try:
        return frozenset(ft2font.FT2Font(path).get_charmap())
    except (OSError, RuntimeError):  # removed since matplotlib made its list, or of a kind that it cannot draw
        return frozenset()
