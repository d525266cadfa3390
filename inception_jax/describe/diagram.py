"""Draws the diagram of a network of the zoo, or of one row, from its table: image at the top, classifier below."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import IO, Any, NamedTuple

import matplotlib
from matplotlib.figure import Figure

from inception_jax.describe import diagram_layout, diagram_pieces, summary
from inception_jax.describe.diagram_layout import PAD, Box, Line, Mark, Piece, Text
from inception_jax.models import spec, zoo
from inception_jax.models.network import InceptionNet
from inception_jax.suggestions import hint

FORMATS: dict[str, dict[str, Any]] = {  # by suffix: what keeps dates and versions out of the file
    ".svg": {"Date": None, "Creator": None},
    ".png": {"Software": None},
    ".pdf": {"CreationDate": None, "Producer": None, "Creator": None},
}
STYLE: dict[Any, Any] = {"font.sans-serif": ["DejaVu Sans"], "pdf.fonttype": 42, "svg.fonttype": "none"}  # text is text
STYLE["svg.hashsalt"] = "inception_jax"  # ids of the same elements are the same
PNG_DPI = 144
COLUMN_HEIGHT = 1200.0  # points; a taller network continues in another column
ROW_GAP = 22.0  # between rows, for a line of text
COLUMN_GAP = 40.0  # between columns, for the line that joins them
MARGIN = 16.0
TITLE, COUNT = 14.0, 12.0  # sizes of text: the title, and the number of repeated rows
BLOCK_SCALE = 1.4  # of a diagram of one row
NOTES = {  # by a word in a label
    " linear": "Convolutions end in ReLU, except the linear ones.",
    " V": "V: padding VALID, else SAME.",
    " maps": "maps: outputs of the depthwise convolution for each channel.",
}


class _Row(NamedTuple):
    """A row of the diagram, for equal rows of the table: their names, the shape of the output, an auxiliary head."""

    piece: Piece
    names: tuple[str, ...]
    shape: tuple[int, ...]
    head: Piece | None = None

    @property
    def lines(self) -> tuple[str, ...]:
        """The lines of text on the left."""
        if len(self.names) < 2:
            return self.names
        return self.names[0], f"to {self.names[-1]}", f"x{len(self.names)}"

    @property
    def height(self) -> float:
        return max(self.piece.height, diagram_layout.BOX + COUNT * (len(self.lines) - 1))


class _Column(NamedTuple):
    """A column of rows; the flow enters at (`spine`, 0) and leaves at (`spine`, `end`)."""

    width: float
    height: float
    spine: float
    end: float
    marks: tuple[Mark, ...]


def write(file: IO[bytes], suffix: str, name: str, block: str | None = None, head: spec.Head = spec.NO_HEAD) -> None:
    """Writes the diagram of a model, or of one row of its table, into an open file. Equal calls write equal bytes.

    Args:
      file: open for writing.
      suffix: the format, a key of `FORMATS`.
      name: of the model.
      block: a row of its table; None: the whole model.
      head: between pooling and classifier, as for `create_model`.

    Raises:
      ValueError: an unknown model, row or suffix.
      OSError: the file cannot be written.
    """
    if suffix not in FORMATS:
        raise ValueError(f"The format of the diagram is {suffix!r}; it must be one of {', '.join(FORMATS)}.")
    figure = draw(name, block, head)
    with matplotlib.rc_context(STYLE):
        figure.savefig(file, format=suffix[1:], dpi=PNG_DPI, metadata=FORMATS[suffix])


def draw(name: str, block: str | None = None, head: spec.Head = spec.NO_HEAD) -> Figure:
    """Returns the figure of a model of the zoo at its card's image size, or of the row `block` of its table.

    Raises:
      ValueError: an unknown model or row.
    """
    model, size = zoo.create_model(name, head=head), zoo.model_card(name).preprocess.size
    shapes = summary.trace(model, size)
    image = _Row(diagram_layout.box("image", "image"), (), (size, size, 3))
    body = _body(model, shapes, image.shape)
    if block is None:
        rows = _collapse([image, *body, *_classifier(name, head)])
        heads = "\nAuxiliary heads (aux) run in training only." if model.aux_heads else ""
        return _figure(rows, name, _network_facts(name, size, head) + heads, 1.0)
    if block not in model.table:
        raise ValueError(f"{name} has no row {block!r}.{hint(block, model.table)} Rows: {', '.join(model.table)}.")
    i = list(model.table).index(block)
    before = (body[i - 1] if i else image).shape
    rows = [_Row(diagram_layout.box("input", "image"), (), before), body[i]._replace(head=None)]
    return _figure(rows, f"{block} of {name}", _row_facts(model, shapes, block), BLOCK_SCALE)


def _network_facts(name: str, size: int, head: spec.Head) -> str:
    totals = summary.summarize(name, head=head).totals
    heads = f" ({totals['params_with_aux']:,} with auxiliary heads)"
    heads = heads if totals["params_with_aux"] > totals["params"] else ""
    return f"{totals['params']:,} params{heads}, {totals['macs'] / 1e9:.3f} GMACs at {size} pixels"


def _row_facts(model: InceptionNet, shapes: summary.Shapes, name: str) -> str:
    module = spec.module_name(name, model.table[name])
    params = sum(value.size for path, value in shapes.params.items() if path[0] == module)
    macs = sum(layer.macs for layer in shapes.layers if layer.path[0] == module)
    return f"{params:,} params, {macs / 1e6:.1f} M MACs"


def _body(model: InceptionNet, shapes: summary.Shapes, image: tuple[int, ...]) -> list[_Row]:
    """Returns a row of the diagram for each row of the table."""
    rows = []
    channels = image[-1]
    for name, row in model.table.items():
        piece = diagram_pieces.piece(row, channels)
        if not isinstance(row, spec.Row) or isinstance(row, spec.Residual):
            piece = diagram_layout.framed(piece)
        shape = shapes.output.endpoints[name].shape[1:]
        channels = shape[-1]
        head = model.aux_heads.get(name)
        rows.append(_Row(piece, (name,), shape, head and diagram_pieces.head_piece(head, channels, model.num_classes)))
    return rows


def _classifier(name: str, head: spec.Head) -> list[_Row]:
    """Returns the rows after the table, by their names in the summary."""
    rows = {row.name: row for row in summary.summarize(name, head=head).rows[-4:]}
    layers = [f"linear, {row.features}{', ReLU' if row.relu else ''}" for row in head.rows]
    pieces = {
        "pool5": diagram_layout.box(f"avg pool {rows['pool5'].patch.partition('/')[0]}", "pool"),
        "head": diagram_layout.chain([diagram_layout.box(label, "classifier") for label in layers]),
        "drop": diagram_layout.box(f"dropout {rows['drop'].patch}", "classifier"),
        "linear": diagram_layout.box(f"linear, {rows['linear'].branches}", "classifier"),
    }
    return [_Row(piece, (key,), rows[key].output) for key, piece in pieces.items() if key != "head" or head.rows]


def _collapse(rows: Iterable[_Row]) -> list[_Row]:
    """Returns the rows with equal neighbours merged into one; a row with a head is the last of its group."""
    runs: list[_Row] = []
    for row in rows:
        last = runs[-1] if runs else None
        if last and last.head is None and (last.piece, last.shape) == (row.piece, row.shape):
            runs[-1] = row._replace(names=last.names + row.names)
        else:
            runs.append(row)
    return runs


def _figure(rows: Sequence[_Row], title: str, facts: str, scale: float) -> Figure:
    """Returns the figure of the rows, in as many columns as their height needs, below a title and a legend."""
    heights = [row.height + ROW_GAP for row in rows]
    slices = diagram_layout.split(heights, math.ceil(sum(heights) / COLUMN_HEIGHT))
    columns = [_column(rows[each]) for each in slices]
    flow, width, height = _join(columns)
    header, width, top = _header(title, facts, [mark for mark in flow if isinstance(mark, Box)], width)
    marks = diagram_layout.shift((*header, *diagram_layout.shift(flow, 0, top)), MARGIN, MARGIN)
    return diagram_layout.render(marks, width + 2 * MARGIN, top + height + 2 * MARGIN, scale)


def _header(title: str, facts: str, boxes: Sequence[Box], width: float) -> tuple[list[Mark], float, float]:
    """Returns title, facts and legend; their width, at least `width`; and their height."""
    notes = " ".join(note for word, note in NOTES.items() if any(word in box.label for box in boxes))
    lines = [line for line in (*facts.split("\n"), notes) if line]
    width = max(width, diagram_layout.text_width(title, TITLE, bold=True), *map(diagram_layout.text_width, lines))
    marks: list[Mark] = [Text(0, TITLE / 2, title, size=TITLE, bold=True)]
    y = 28.0
    for line in lines:
        marks.append(Text(0, y, line))
        y += 13
    x, y = 0.0, y + 3
    for kind in diagram_layout.COLOURS:
        if kind == "image" or kind not in {box.kind for box in boxes}:
            continue
        entry_width = 18 + diagram_layout.text_width(kind)
        if x + entry_width > width:
            x, y = 0.0, y + 16
        marks += (Box(x, y - 5, 14, 10, kind), Text(x + 18, y, kind))
        x += entry_width + 12
    return marks, width, y + 34


def _column(rows: Sequence[_Row]) -> _Column:
    """Returns a column of rows, with names on the left, shapes at the arrows and auxiliary heads on the right."""
    names = [max([diagram_layout.text_width(line, bold=True) + PAD for line in row.lines], default=0) for row in rows]
    spine = max(row.piece.entry + name for row, name in zip(rows, names, strict=True))
    right = spine + max(row.piece.width - row.piece.entry for row in rows)
    marks: list[Mark] = []
    y, bottom, width = 0.0, 0.0, right
    for i, row in enumerate(rows):
        left = spine - row.piece.entry
        marks += diagram_layout.shift(row.piece.marks, left, y)
        for j, line in enumerate(row.lines):
            size = diagram_layout.FONT if j < 2 else COUNT
            marks.append(Text(left - PAD, y + diagram_layout.BOX / 2 + j * COUNT, line, "right", size, bold=True))
        if row.height > row.piece.height:
            marks.append(Line(((spine, y + row.piece.height), (spine, y + row.height)), arrow=False))
        y += row.height
        marks.append(Text(spine - 5, y + ROW_GAP / 2, "x".join(map(str, row.shape)), "right"))
        marks.append(Line(((spine, y), (spine, y + ROW_GAP)), arrow=i < len(rows) - 1))
        if row.head:
            left, tap = right + diagram_layout.GAP, y + 5
            lane = left + row.head.entry
            marks += diagram_layout.shift(row.head.marks, left, y + ROW_GAP)
            marks.append(Line(((spine, tap), (lane, tap), (lane, y + ROW_GAP))))
            marks.append(Text(lane + 5, y + 14, f"aux {row.names[-1]}", bold=True))
            bottom = max(bottom, y + ROW_GAP + row.head.height)
            width = max(
                width, left + row.head.width, lane + 5 + diagram_layout.text_width(f"aux {row.names[-1]}", bold=True)
            )
        y += ROW_GAP
    return _Column(width, max(y, bottom), spine, y, tuple(marks))


def _join(columns: Sequence[_Column]) -> tuple[tuple[Mark, ...], float, float]:
    """Returns the columns side by side, each joined to the next, and their width and height."""
    marks: tuple[Mark, ...] = ()
    left = 0.0
    for column, following in itertools.zip_longest(columns, columns[1:]):
        marks += diagram_layout.shift(column.marks, left, 0)
        end = (left + column.spine, column.end)
        left += column.width + COLUMN_GAP
        if following is None:
            marks += (Line(((end[0], end[1] - ROW_GAP), end)),)
            break
        bottom, lane, spine = column.height + 6, left - COLUMN_GAP / 2, left + following.spine
        way = (end, (end[0], bottom), (lane, bottom), (lane, -14), (spine, -14), (spine, 0))
        marks += (Line(way),)
    return marks, left - COLUMN_GAP, max(column.height for column in columns) + 8
