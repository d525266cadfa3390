"""Suggestions for a name that does not exist: the names that look most like it. Standard library only."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MOST_CONTAINING = 10


def nearest(name: str, names: Iterable[str], limit: int = 3, cutoff: float = 0.4) -> list[str]:
    """Returns the known names that look most like a given one; upper and lower case are the same.

    Args:
      name: the given name.
      names: the known ones.
      limit: how many similar names to return at most.
      cutoff: the least similarity, 0 ... 1, as `difflib.SequenceMatcher.ratio` defines it.

    Returns:
      If some names contain the given one: those, in the order of `names`, at most `MOST_CONTAINING`. Otherwise the
      similar names, most similar first; [] if there are none.
    """
    known, folded = list(names), name.casefold()
    containing = [each for each in known if folded and folded in each.casefold()]
    if containing:
        return containing[:MOST_CONTAINING]
    originals: dict[str, list[str]] = {}
    for each in known:
        originals.setdefault(each.casefold(), []).append(each)
    similar = difflib.get_close_matches(folded, originals, limit, cutoff)
    return [each for match in similar for each in originals[match]][:limit]


def hint(name: str, names: Iterable[str], limit: int = 3, cutoff: float = 0.4) -> str:
    """Returns " Nearest: a, b." to append to an error message, or "" if `nearest` finds nothing."""
    found = nearest(name, names, limit, cutoff)
    return f" Nearest: {', '.join(found)}." if found else ""
