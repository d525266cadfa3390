"""Compares lists of class names: labels are numbers, and only the names say what they mean."""

from __future__ import annotations

from collections.abc import Sequence

from inception_jax.errors import UserError, printable

SHOWN = 5  # names of a list in a message


def check_same_classes(what: str, names: Sequence[str], other: str, other_names: Sequence[str], way_out: str) -> None:
    """Checks that label i means the same class on both sides.

    Args:
      what, other: the owners of the lists, for the message.
      names, other_names: one name for each label.
      way_out: a sentence for the message that says what to do.

    Raises:
      UserError: a name differs. The message has the counts, the first label that differs, and both lists from there on.
    """
    names, other_names = one_line_each(names), one_line_each(other_names)
    if names == other_names:
        return
    pairs = zip(names, other_names, strict=False)
    first = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(names), len(other_names)))
    if sorted(names) == sorted(other_names):
        difference = f"{what} and {other} order the same classes differently"
    elif len(names) != len(other_names):
        difference = f"{what} has {len(names):,} classes and {other} has {len(other_names):,}"
    else:
        difference = f"{what} and {other} have {len(names):,} classes each, but other ones"
    raise UserError(
        f"{printable(difference)}: class {first} is {_name(names, first)} in the first and "
        f"{_name(other_names, first)} in the second (from there on: {_listed(names, first)}; "
        f"{_listed(other_names, first)}). {way_out}"
    )


def one_line_each(names: Sequence[str]) -> tuple[str, ...]:
    """Returns the names without line breaks, as the file of a run stores them."""
    return tuple(" ".join(name.splitlines()) for name in names)


def _name(names: Sequence[str], label: int) -> str:
    return repr(names[label]) if label < len(names) else "missing"


def _listed(names: Sequence[str], first: int) -> str:
    shown = [printable(name) for name in names[first : first + SHOWN]]
    more = len(names) - first - len(shown)
    return (", ".join(shown) or "none") + (f", and {more:,} more" if more > 0 else "")
