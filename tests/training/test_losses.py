"""Losses and metrics against sums by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from inception_jax.models.network import ModelOutput
from inception_jax.training.losses import inception_loss, masked_sum, soft_targets
from inception_jax.training.metrics import classification_sums, means


def cross_entropy(logits, targets):
    logits = np.asarray(logits, np.float64)
    return -(targets * (logits - np.log(np.exp(logits).sum(-1, keepdims=True)))).sum(-1)


def test_soft_targets_keep_the_sum():
    targets = soft_targets(jnp.array([2]), 4, 0.1)
    np.testing.assert_allclose(targets, [[0.025, 0.025, 0.925, 0.025]], rtol=1e-6)


def test_loss_is_main_plus_weighted_auxiliary_losses():
    rng = np.random.default_rng(0)
    main, aux_4a, aux_4d = rng.normal(size=(3, 2, 5)).astype(np.float32)
    targets = np.eye(5, dtype=np.float32)[[1, 4]]
    output = ModelOutput(jnp.array(main), {"4a": jnp.array(aux_4a), "4d": jnp.array(aux_4d)}, {}, None, None)
    total, terms = inception_loss(output, jnp.array(targets), {"aux_4a": 0.3, "aux_4d": 0.2})
    expected = [cross_entropy(logits, targets) for logits in (main, aux_4a, aux_4d)]
    np.testing.assert_allclose(total, expected[0] + 0.3 * expected[1] + 0.2 * expected[2], rtol=1e-5)
    for name, value in zip(("main", "aux_4a", "aux_4d"), expected, strict=True):
        np.testing.assert_allclose(terms[name], value, rtol=1e-5)


def test_masked_values_do_not_count_even_if_nan():
    assert masked_sum(jnp.array([1.0, jnp.nan, 3.0]), jnp.array([1.0, 0.0, 1.0])) == 4.0


def test_metrics_count_hits_by_hand():
    logits = np.tile(np.arange(10.0, 0.0, -1.0, dtype=np.float32), (16, 1))  # class 0 wins, 0 ... 4 are the top 5
    labels = np.array([0, 0, 1, 4, 5, 9, 9, 9, 9, 9, 9, 9, 9, 9, 0, 3])
    mask = np.ones(16, np.float32)
    mask[14:] = 0
    sums = classification_sums(jnp.array(logits), jnp.array(labels), jnp.array(mask))
    values = means([sums])
    assert values["count"] == 14
    assert values["top1"] == pytest.approx(2 / 14)
    assert values["top5"] == pytest.approx(4 / 14)
    assert values["loss"] == pytest.approx(cross_entropy(logits, np.eye(10)[labels])[:14].mean(), rel=1e-5)


def test_two_of_sixteen_over_two_batches():
    logits = jnp.array(np.eye(4, dtype=np.float32)[[0] * 8])
    batches = [
        classification_sums(logits, jnp.array([0, 1, 1, 1, 1, 1, 1, 1]), jnp.ones(8)),
        classification_sums(logits, jnp.array([2, 2, 2, 2, 2, 2, 2, 0]), jnp.ones(8)),
    ]
    assert means(batches)["top1"] == 2 / 16


def test_fewer_than_five_classes_still_have_a_top5():
    sums = classification_sums(jnp.zeros((2, 3)), jnp.array([2, 1]), jnp.ones(2))
    assert sums["top5"] == 2
