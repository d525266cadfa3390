"""Text in pictures: drawn letter by letter, in fonts that have the letters, and without a warning."""

import warnings

import matplotlib
import numpy as np
import pytest
from fontTools import fontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from inception_jax import labels
from inception_jax.labels import label

CAT = "猫"
NOWHERE = "\U00013000"  # a hieroglyph


@pytest.fixture
def no_fonts(monkeypatch):
    """A machine with matplotlib's own fonts alone."""
    monkeypatch.setattr(labels, "_installed", dict)
    labels._family.cache_clear()
    yield
    labels._family.cache_clear()


@pytest.fixture
def cat_font(tmp_path, monkeypatch):
    """A machine with a font of one letter, which is a square."""
    pen = TTGlyphPen(None)
    for i, point in enumerate(((0, 0), (0, 900), (900, 900), (900, 0))):
        (pen.lineTo if i else pen.moveTo)(point)
    pen.closePath()
    glyphs = {".notdef": TTGlyphPen(None).glyph(), "cat": pen.glyph()}
    made = fontBuilder.FontBuilder(1000, isTTF=True)
    made.setupGlyphOrder(list(glyphs))
    made.setupCharacterMap({ord(CAT): "cat"})
    made.setupGlyf(glyphs)
    made.setupHorizontalMetrics(dict.fromkeys(glyphs, (1000, 0)))
    made.setupHorizontalHeader(ascent=900, descent=-100)
    made.setupNameTable({"familyName": "One Cat", "styleName": "Regular"})
    made.setupOS2(sTypoAscender=900, usWinAscent=900, usWeightClass=400)
    made.setupPost()
    made.save(tmp_path / "cat.ttf")
    known = list(font_manager.fontManager.ttflist)
    font_manager.fontManager.addfont(tmp_path / "cat.ttf")
    for cached in (labels._family, labels._installed):
        cached.cache_clear()
    yield "One Cat"
    font_manager.fontManager.ttflist = known
    font_manager.fontManager._findfont_cached.cache_clear()
    for cached in (labels._family, labels._installed):
        cached.cache_clear()


def _ink(text, style):
    """Draws a text, in which a warning is an error; returns how many of the pixels are dark."""
    figure = Figure(figsize=(4, 1))
    figure.text(0.1, 0.3, text, fontsize=20, **style)
    canvas = FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        canvas.draw()
    return int((np.asarray(canvas.buffer_rgba())[..., 0] < 128).sum())


def test_text_is_no_tex():
    text, style = label("$x$ and \\frac{$")
    assert text == "$x$ and \\frac{$"
    assert style["parse_math"] is False
    assert _ink(text, style) > 0


def test_control_characters_do_not_reach_the_picture():
    assert label("a\x1b[31m\tb\x00\nc")[0] == "a\\x1b[31m\\tb\\x00\nc"
    assert label("\udcff")[0] == "\\xff"


def test_letters_without_a_font(no_fonts):
    assert label(CAT + " cat")[0] == "\\u732b cat"
    text, style = label(CAT, "class 3")
    assert text == "class 3"
    assert _ink(text, style) > 0
    texts, _ = labels.labels(["dog", CAT], ["class 0", "class 1"])
    assert texts == ["dog", "class 1"]
    with pytest.raises(UserWarning, match="missing from font"):  # what matplotlib does by itself
        _ink(CAT, {})


def test_letters_of_a_font_that_is_installed(cat_font):
    text, style = label(f"{CAT} cat", "class 3")
    assert (text, style["fontfamily"]) == (f"{CAT} cat", [labels.FONT, cat_font])
    assert _ink(text, style) > _ink("cat", style) + 200  # the square, of about 25 x 25 pixels
    assert label(CAT + NOWHERE, "class 3")[0] == "class 3"


def test_fonts_for_formulas_and_for_nothing_are_not_taken():
    own = matplotlib.get_data_path()
    assert not any(file.startswith(own) for file in labels._installed().values())
    assert labels._family(NOWHERE) is None
