"""Suggestions for names that do not exist."""

import pytest

from inception_jax.suggestions import MOST_CONTAINING, hint, nearest

NAMES = ("googlenet", "googlenet_bn", "inception_v3", "xception")


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("gogglenet", ["googlenet", "googlenet_bn"]),  # most similar first
        ("GOGGLENET", ["googlenet", "googlenet_bn"]),
        ("Googlenet", ["googlenet", "googlenet_bn"]),  # contained in both
        ("net_bn", ["googlenet_bn"]),
        ("zzz", []),
        ("", []),
    ],
)
def test_the_nearest_names(name, found):
    assert nearest(name, NAMES) == found


def test_names_that_differ_in_case_alone_are_all_found():
    assert nearest("Conv2", ["CONV1", "conv1", "b"]) == ["CONV1", "conv1"]


def test_there_are_never_too_many():
    names = [f"name{i}" for i in range(30)]
    assert nearest("name", names) == names[:MOST_CONTAINING]
    assert len(nearest("nome1", names, limit=2)) == 2


def test_a_hint_is_a_sentence_or_nothing():
    assert hint("googlenet_b", NAMES) == " Nearest: googlenet_bn."
    assert hint("zzz", NAMES) == ""
    assert "Inception_V3" + hint("inception_v4", iter(NAMES)) == "Inception_V3 Nearest: inception_v3, xception."
