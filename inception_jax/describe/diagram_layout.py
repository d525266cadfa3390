"""Places and draws the boxes and lines of a diagram. Lengths are in points, and y points down."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure  # not pyplot, which would choose a backend for the whole process
from matplotlib.font_manager import FontProperties
from matplotlib.patches import FancyBboxPatch
from matplotlib.textpath import text_to_path

FONT = 9.0  # size of the text
BOX, BAR, GAP, PAD = 20.0, 16.0, 14.0, 8.0  # heights of a box and a bar; distance of boxes; margin of a frame
PLAIN: dict[str, Any] = {"parse_math": False}  # text is no TeX
HEAD = 2.5  # half the width of an arrowhead

COLOURS = {  # by kind of box, in the order of the legend; light enough for black text, distinct if colour-blind
    "1x1": "#99DDFF",
    "3x3": "#BBCC33",
    "5x5 and larger": "#EEDD88",
    "1xn and nx1": "#EE8866",
    "separable": "#44BB99",
    "pool": "#FFAABB",
    "norm, ReLU": "#DDDDDD",
    "concat, scale, sum": "#C8C0D8",
    "classifier": "#77AADD",
    "image": "#FFFFFF",
}


class Box(NamedTuple):
    """A labelled box; its kind is its colour."""

    x: float
    y: float
    width: float
    height: float
    kind: str
    label: str = ""


class Frame(NamedTuple):
    """The background behind the boxes of a block."""

    x: float
    y: float
    width: float
    height: float


class Line(NamedTuple):
    """A line through (x, y) points, with or without an arrowhead at its end."""

    points: tuple[tuple[float, float], ...]
    arrow: bool = True


class Text(NamedTuple):
    """A line of text; `x` is its left or right end, `y` its middle."""

    x: float
    y: float
    text: str
    align: Literal["left", "right"] = "left"
    size: float = FONT
    bold: bool = False


Mark = Box | Frame | Line | Text


class Piece(NamedTuple):
    """A piece of a diagram: the flow enters it at the top at x = `entry` and leaves it at the bottom at `exits`.

    A single exit is below the entry. `arrow`: the line that enters ends in an arrowhead, because a box is there.
    """

    width: float
    height: float
    entry: float
    exits: tuple[float, ...]
    marks: tuple[Mark, ...]
    arrow: bool = True


@functools.cache
def text_width(text: str, size: float = FONT, bold: bool = False) -> float:
    """Returns the width of a line of text."""
    return text_to_path.get_text_width_height_descent(text, _font(size, bold), ismath=False)[0]


def shift(marks: Iterable[Mark], dx: float, dy: float) -> tuple[Mark, ...]:
    """Returns the marks, moved by (dx, dy)."""
    return tuple(
        mark._replace(points=tuple((x + dx, y + dy) for x, y in mark.points))
        if isinstance(mark, Line)
        else mark._replace(x=mark.x + dx, y=mark.y + dy)
        for mark in marks
    )


def box(label: str, kind: str, width: float = 0) -> Piece:
    """Returns a box as wide as its label, but at least `width`."""
    width = max(width, text_width(label) + 12)
    return Piece(width, BOX, width / 2, (width / 2,), (Box(0, 0, width, BOX, kind, label),))


def chain(pieces: Sequence[Piece]) -> Piece:
    """Returns the pieces in a column, joined by arrows; single boxes get the same width.

    Only the last piece may have several exits.
    """
    if not pieces:
        return Piece(PAD, 0, PAD / 2, (PAD / 2,), (), arrow=False)
    widest = max((piece.width for piece in pieces if len(piece.marks) == 1), default=0.0)
    pieces = [_widened(piece, widest) for piece in pieces]
    spine = max(piece.entry for piece in pieces)
    width = spine + max(piece.width - piece.entry for piece in pieces)
    marks: list[Mark] = []
    y = 0.0
    for i, piece in enumerate(pieces):
        if i:
            marks.append(Line(((spine, y), (spine, y + GAP)), piece.arrow))
            y += GAP
        marks += shift(piece.marks, spine - piece.entry, y)
        y += piece.height
    exits = tuple(spine - piece.entry + x for x in piece.exits)
    return Piece(width, y, spine, exits, tuple(marks), pieces[0].arrow)


def fork(branches: Sequence[Piece], joined: bool) -> Piece:
    """Returns the branches side by side below their common input; if `joined`, above a bar that concatenates them."""
    width = sum(branch.width for branch in branches) + PAD * (len(branches) - 1)
    tallest = max(branch.height for branch in branches)
    bar = 2 * GAP + tallest  # the y of its top
    marks: list[Mark] = []
    entries, exits = [], []
    left = 0.0
    for branch in branches:
        entry = left + branch.entry
        marks += shift(branch.marks, left, GAP)
        if branch.height:
            marks.append(Line(((entry, 0), (entry, GAP)), branch.arrow))
        start, end = GAP + branch.height if branch.height else 0.0, bar if joined else GAP + tallest
        marks += [Line(((left + x, start), (left + x, end)), arrow=joined) for x in branch.exits if start < end]
        entries.append(entry)
        exits += [left + x for x in branch.exits]
        left += branch.width + PAD
    middle = width / 2
    marks.append(Line(((min(*entries, middle), 0), (max(*entries, middle), 0)), arrow=False))
    if not joined:
        return Piece(width, GAP + tallest, middle, tuple(exits), tuple(marks), arrow=False)
    marks.append(Box(0, bar, width, BAR, "concat, scale, sum", "concat"))
    return Piece(width, bar + BAR, middle, (middle,), tuple(marks), arrow=False)


def bypass(body: Piece, shortcut: Piece) -> Piece:
    """Returns the body with the shortcut on its left, and their sum below."""
    left = shortcut.width + 2 * PAD
    spine, lane = left + body.entry, shortcut.entry
    sum_y = GAP + body.height + GAP
    middle = sum_y + BOX / 2
    marks: tuple[Mark, ...] = (
        *shift(body.marks, left, GAP),
        Line(((spine, 0), (spine, GAP)), body.arrow),
        Line(((spine, GAP + body.height), (spine, sum_y))),
        Box(spine - BOX / 2, sum_y, BOX, BOX, "concat, scale, sum", "+"),
    )
    if shortcut.height:
        top = GAP + (body.height - shortcut.height) / 2
        marks += shift(shortcut.marks, 0, top)
        marks += (Line(((spine, 0), (lane, 0), (lane, top))),)
        start = top + shortcut.height
    else:
        start = 0
        marks += (Line(((spine, 0), (lane, 0)), arrow=False),)
    marks += (Line(((lane, start), (lane, middle), (spine - BOX / 2, middle))),)
    return Piece(left + body.width, sum_y + BOX, spine, (spine,), marks, arrow=False)


def framed(piece: Piece, ends: bool = False) -> Piece:
    """Returns the piece on a background; if the flow `ends`, no line leaves it."""
    width, height, spine = piece.width + 2 * PAD, GAP + piece.height + PAD, PAD + piece.entry
    marks = (
        Frame(0, 0, width, height),
        *shift(piece.marks, PAD, GAP),
        Line(((spine, 0), (spine, GAP)), piece.arrow),
    )
    if not ends:
        marks += (Line(((spine, height - PAD), (spine, height)), arrow=False),)
    return Piece(width, height, spine, (spine,), marks)


def split(heights: Sequence[float], columns: int) -> list[slice]:
    """Returns consecutive slices, one for each column, such that the tallest column is as low as possible."""
    cuts = itertools.combinations(range(1, len(heights)), columns - 1)
    splits = [[slice(*pair) for pair in itertools.pairwise((0, *cut, len(heights)))] for cut in cuts]
    return min(splits, key=lambda columns: max(sum(heights[column]) for column in columns))


def render(marks: Iterable[Mark], width: float, height: float, scale: float = 1.0) -> Figure:
    """Returns a figure of `width` x `height` points, times `scale`."""
    figure = Figure(figsize=(width * scale / 72, height * scale / 72))
    axis = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    axis.set_axis_off()
    lines, heads = [], []
    for mark in marks:
        match mark:
            case Box():
                patch = _rounded(mark, 3, facecolor=COLOURS[mark.kind], edgecolor="#333333", lw=0.7 * scale, zorder=3)
                axis.add_patch(patch).set_label("box")  # by which tests distinguish boxes from frames
                if mark.label:
                    x, y = mark.x + mark.width / 2, mark.y + mark.height / 2
                    font = _font(FONT * scale)
                    axis.text(x, y, mark.label, ha="center", va="center_baseline", font=font, zorder=4, **PLAIN)
            case Frame():
                axis.add_patch(_rounded(mark, 5, facecolor="#F4F4F4", edgecolor="#BBBBBB", lw=0.7 * scale, zorder=1))
            case Line():
                lines.append(mark.points)
                heads += [_head(*mark.points[-2:])] if mark.arrow else []
            case Text():
                font = _font(mark.size * scale, mark.bold)
                axis.text(mark.x, mark.y, mark.text, ha=mark.align, va="center_baseline", font=font, zorder=4, **PLAIN)
    axis.add_collection(LineCollection(lines, colors="#333333", linewidths=0.9 * scale, zorder=2), autolim=False)
    axis.add_collection(PolyCollection(heads, facecolors="#333333", zorder=2), autolim=False)
    return figure


def _widened(piece: Piece, width: float) -> Piece:
    """Returns the piece, with the width if it is a box."""
    match piece.marks:
        case (Box() as mark,):
            return box(mark.label, mark.kind, width)
    return piece


def _rounded(mark: Box | Frame, radius: float, **style: Any) -> FancyBboxPatch:
    return FancyBboxPatch(mark[:2], *mark[2:4], boxstyle=f"round,pad=0,rounding_size={radius}", **style)


def _head(before: tuple[float, float], tip: tuple[float, float]) -> list[tuple[float, float]]:
    """Returns the triangle of an arrow that points down or to the right."""
    x, y = tip
    if before[0] == x:
        return [(x, y), (x - HEAD, y - 2 * HEAD), (x + HEAD, y - 2 * HEAD)]
    return [(x, y), (x - 2 * HEAD, y - HEAD), (x - 2 * HEAD, y + HEAD)]


@functools.cache
def _font(size: float, bold: bool = False) -> FontProperties:
    return FontProperties(family=["DejaVu Sans", "sans-serif"], size=size, weight="bold" if bold else "normal")
