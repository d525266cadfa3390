"""The width multiplier: a table with more or fewer features (1704.04861, section 3.3). Plain Python."""

from __future__ import annotations

from inception_jax.models import spec


def scale_width(row: spec.Row | spec.Block, width: float) -> spec.Row | spec.Block:
    """Returns the row with its features multiplied by `width`, at least 16 of them (the rule of TF-slim)."""
    match row:
        case spec.Conv() | spec.SeparableConv():
            return row._replace(features=scale_features(row.features, width))
        case spec.Residual():
            shortcut = row.shortcut and row.shortcut._replace(features=scale_features(row.shortcut.features, width))
            return row._replace(rows=scale_rows(row.rows, width), shortcut=shortcut)
        case spec.Pool() | spec.AdaptivePool() | spec.LocalResponseNorm() | spec.Relu() | spec.Channels():
            return row
        case branches:
            return tuple(scale_rows(branch, width) for branch in branches)


def scale_rows(rows: spec.Branch, width: float) -> spec.Branch:
    """Returns the chain of rows with its features multiplied by `width`, by the same rule."""
    return tuple(scale_width(row, width) for row in rows)


def scale_head(head: spec.AuxHead, width: float) -> spec.AuxHead:
    """Returns the head with its features multiplied by `width`, by the same rule."""
    hidden = head.hidden and scale_features(head.hidden, width)
    return head._replace(rows=scale_rows(head.rows, width), hidden=hidden)


def scale_features(features: int, width: float) -> int:
    """Returns max(int(features * width), 16), and `features` itself for a width of 1."""
    return features if width == 1 else max(int(features * width), 16)
