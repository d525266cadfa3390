"""The networks that `make test` runs stand for all of the zoo."""

import pytest

from inception_jax.models import spec, zoo
from tests import selection


def kinds(name):
    """Returns the kinds of rows of a network, in blocks, residuals and heads too, and the kind of its numerics."""
    card = zoo.model_card(name)
    norm = card.numerics.norm
    found = {
        ("heads", bool(card.aux_heads)),
        ("norm", "none" if norm is None else "with gamma" if norm.scale else "without gamma"),
        ("padding of convolutions", card.numerics.conv_same),
    }
    rows = [*card.table.values(), *(row for head in card.aux_heads.values() for row in head.rows)]
    while rows:
        row = rows.pop()
        if not isinstance(row, spec.Row):
            found.add(("rows", "parallel branches"))
            rows += [each for branch in row for each in branch]
            continue
        found.add(("rows", type(row).__name__))
        if isinstance(row, spec.Residual):
            rows += row.rows
    return found


def test_representatives_have_every_kind_of_row_and_norm():
    every = set().union(*map(kinds, zoo.list_models()))
    assert every - set().union(*map(kinds, selection.REPRESENTATIVES)) == set()


def test_other_cases_are_slow():
    fast, one, two = selection.cases(["a", "b", ("c", 1)], ["a"])
    assert fast == "a"
    assert one == pytest.param("b", marks=pytest.mark.slow)
    assert two == pytest.param("c", 1, marks=pytest.mark.slow)
    with pytest.raises(ValueError, match=r"\['d'\] are no cases of this test"):
        selection.cases(["a"], ["d"])
