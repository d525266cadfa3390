"""Which cases of a parametrised test run in `make test`, and which wait for `make test-slow`."""

from collections.abc import Collection, Iterable

import pytest

from inception_jax.models import zoo

# At least one network with each kind of row, with each kind of batch norm, with and without auxiliary heads;
# tests/test_selection.py checks it. `make test` and `make parity` together compare the logits of the whole zoo.
REPRESENTATIVES = ("googlenet", "googlenet_torchvision", "inception_v3", "inception_resnet_v1", "xception")


def cases(every: Iterable, fast: Collection) -> list:
    """Returns the cases of `pytest.mark.parametrize`; those that are not in `fast` are marked slow.

    Args:
      every: all cases; a case of several arguments is a tuple.
      fast: the cases for `make test`.

    Raises:
      ValueError: a case in `fast` is not in `every`.
    """
    every = list(every)
    unknown = [case for case in fast if case not in every]
    if unknown:
        raise ValueError(f"{unknown} are no cases of this test; its cases: {every}")
    return [case if case in fast else slow(case) for case in every]


def slow(case):
    """Returns a case that only `make test-slow` runs."""
    return pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.slow)


def networks(names: Iterable[str] | None = None) -> list:
    """Returns networks of the zoo, all by default, as cases: `make test` runs the representatives among them."""
    names = zoo.list_models() if names is None else list(names)
    return cases(names, [name for name in REPRESENTATIVES if name in names])
