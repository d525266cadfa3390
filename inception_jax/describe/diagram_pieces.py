"""Turns the rows of a table into pieces of a diagram: boxes, forks, shortcuts, auxiliary heads."""

from __future__ import annotations

from inception_jax.describe import diagram_layout
from inception_jax.describe.diagram_layout import Piece
from inception_jax.models import sizes, spec


def piece(row: spec.Row | spec.Block, channels: int, joined: bool = True) -> Piece:
    """Returns the piece for a row that reads `channels` channels; a block that is not `joined` has several exits."""
    if isinstance(row, spec.Residual):
        return _residual(row, channels)
    if isinstance(row, spec.Row):
        return diagram_layout.box(*_label(row))
    return diagram_layout.fork(
        [diagram_layout.chain(_pieces(branch, channels, joined=False)) for branch in row], joined
    )


def head_piece(head: spec.AuxHead, channels: int, num_classes: int) -> Piece:
    """Returns the piece for an auxiliary head that reads `channels` channels."""
    average = diagram_layout.box("avg pool to 1x1", "pool")
    hidden = average if head.hidden is None else diagram_layout.box(f"linear, {head.hidden}, ReLU", "classifier")
    dropout = [diagram_layout.box(f"dropout {head.dropout:.0%}", "classifier")] if head.dropout else []
    rows = _pieces(head.rows, channels)
    linear = diagram_layout.box(f"linear, {num_classes}", "classifier")
    return diagram_layout.framed(diagram_layout.chain([*rows, hidden, *dropout, linear]), ends=True)


def _residual(row: spec.Residual, channels: int) -> Piece:
    body = _pieces(row.rows, channels)
    if row.up:
        body.append(piece(spec.Conv(channels, relu=False), channels))
    if row.scale != 1:
        body.append(diagram_layout.box(f"x {row.scale}", "concat, scale, sum"))
    shortcut = diagram_layout.chain([piece(row.shortcut, channels)] if row.shortcut else [])
    total = diagram_layout.bypass(diagram_layout.chain(body), shortcut)
    return diagram_layout.chain([total, diagram_layout.box("ReLU", "norm, ReLU")]) if row.relu else total


def _pieces(rows: spec.Branch, channels: int, joined: bool = True) -> list[Piece]:
    """Returns the pieces for a chain of rows; only the last may have several exits."""
    pieces = []
    for i, row in enumerate(rows, start=1):
        pieces.append(piece(row, channels, joined or i < len(rows)))
        channels = sizes.out_channels(row, channels)
    return pieces


def _label(row: spec.Row) -> tuple[str, str]:
    """Returns the label and the kind of a row that is drawn as one box."""
    match row:
        case spec.Conv() | spec.SeparableConv():
            size = "x".join(map(str, row.kernel))
            linear = "" if row.relu else " linear"
            if isinstance(row, spec.Conv):
                kinds = {"1x1": "1x1", "3x3": "3x3"}
                other = "5x5 and larger" if row.kernel[0] == row.kernel[1] else "1xn and nx1"
                return f"conv {size}{_moves(row)}, {row.features}{linear}", kinds.get(size, other)
            multiplier = f", {row.multiplier} maps" if row.multiplier > 1 else ""
            return f"sepconv {size}{_moves(row)}{multiplier}, {row.features}{linear}", "separable"
        case spec.Pool():
            return f"{row.kind} pool {row.window}x{row.window}{_moves(row)}", "pool"
        case spec.AdaptivePool():
            return f"avg pool to {row.output}x{row.output}", "pool"
        case spec.LocalResponseNorm():
            return f"LRN over {row.size}", "norm, ReLU"
        case spec.Relu():
            return "ReLU", "norm, ReLU"
    raise TypeError(f"{row} is no box.")


def _moves(row: spec.Conv | spec.SeparableConv | spec.Pool) -> str:
    """Returns the stride, if it is above 1, and V for VALID padding."""
    return (f"/{row.stride}" if row.stride > 1 else "") + (" V" if row.padding == spec.VALID else "")
