"""Untrusted text in figures: never parsed as TeX, and drawn in fonts that have its characters.

By default Matplotlib parses text between two $ as TeX, and draws a box, with a warning, for a character that its font
lacks.
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
    """Returns what `labels` returns, for one text."""
    (shown,), style = labels([text], None if instead is None else [instead])
    return shown, style


def labels(texts: Iterable[object], instead: Sequence[str] | None = None) -> tuple[list[str], dict[str, Any]]:
    r"""Returns texts that can be drawn, and the keyword arguments for the functions of Matplotlib that draw them.

    Args:
      texts: names, titles; line breaks stay, other control characters are escaped.
      instead: for each text a substitute, if no installed font has all its characters; None: missing characters are
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
    """Returns a font family that has a character: Matplotlib's default if possible, else an installed one, or None."""
    own = font_manager.findfont(font_manager.FontProperties(family=[FONT]))
    if ord(character) in _letters(own):
        return FONT
    return next((name for name, file in _installed().items() if ord(character) in _letters(file)), None)


@functools.cache
def _installed() -> dict[str, str]:
    """Returns the file of the upright, regular font of each installed family."""
    own = matplotlib.get_data_path()  # its other fonts are for formulas, or draw a box for every character
    fonts = [font for font in font_manager.fontManager.ttflist if not font.fname.startswith(own)]
    fonts.sort(key=lambda font: (font.style != "normal", _distance(font.weight), font.name))
    files: dict[str, str] = {}
    for font in fonts:
        files.setdefault(font.name, font.fname)
    return files


def _distance(weight: int | str) -> int:
    return abs(int(weight) - 400) if str(weight).isdecimal() else 0  # 400 is regular; some fonts state a word


@functools.cache
def _letters(path: str) -> frozenset[int]:
    """Returns the code points of a font file; empty if it cannot be read."""
    try:
        return frozenset(ft2font.FT2Font(path).get_charmap())
    except (OSError, RuntimeError):  # removed since Matplotlib listed it, or of an unsupported format
        return frozenset()
