"""Mixup and cutmix: pixels and targets are mixed in the same proportion."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from inception_jax.training import augment

BATCH, SIZE, CLASSES = 6, 20, 4
MIXES = [augment.mixup, augment.cutmix]


@pytest.fixture(scope="module")
def inputs():
    """Images of one level each, 0, 1, ..., and one-hot targets."""
    images = jnp.broadcast_to(jnp.arange(BATCH, dtype=jnp.float32)[:, None, None, None], (BATCH, SIZE, SIZE, 3))
    return images, jax.nn.one_hot(jnp.arange(BATCH) % CLASSES, CLASSES)


@pytest.fixture(scope="module", params=MIXES, ids=lambda mix: mix.__name__)
def mixed(request, inputs):
    """Images [N, B, H, W, C] and targets [N, B, K] of N = 2,000 keys with alpha = 1: weights are uniform."""
    mix = jax.jit(jax.vmap(lambda rng: request.param(rng, *inputs, 1.0)))
    return jax.device_get(mix(jax.random.split(jax.random.key(0), 2000)))


@pytest.mark.parametrize("mix", MIXES)
def test_alpha_0_changes_nothing(inputs, mix):
    for before, after in zip(inputs, mix(jax.random.key(0), *inputs, 0.0), strict=True):
        np.testing.assert_array_equal(after, before)


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_shapes_and_dtypes_stay_under_jit(inputs, mix, dtype):
    images, targets_BxK = inputs[0].astype(dtype), inputs[1]
    mixed_images, mixed_targets_BxK = jax.jit(mix, static_argnums=3)(jax.random.key(0), images, targets_BxK, 0.2)
    assert (mixed_images.shape, mixed_images.dtype) == (images.shape, dtype)
    assert (mixed_targets_BxK.shape, mixed_targets_BxK.dtype) == (targets_BxK.shape, jnp.float32)


@pytest.mark.parametrize("mix", MIXES)
def test_a_key_determines_the_mix(inputs, mix):
    first, again, other = (mix(jax.random.key(seed), *inputs, 1.0)[1] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_targets_sum_to_1(mixed):
    np.testing.assert_allclose(mixed[1].sum(axis=-1), 1, atol=1e-6)
    assert mixed[1].min() >= -1e-7


def test_targets_have_the_share_of_each_image_in_the_pixels(mixed, inputs):
    images, targets = mixed
    levels = np.arange(BATCH)
    neighbours = np.roll(levels, 1)
    share = (images.mean(axis=(2, 3, 4)) - levels) / (neighbours - levels)  # of the neighbour, [N, B]
    one_hot = np.asarray(inputs[1])
    expected = (1 - share)[..., None] * one_hot + share[..., None] * one_hot[neighbours]
    np.testing.assert_allclose(targets, expected, atol=1e-5)


def test_mixup_weights_are_those_of_the_beta_distribution(inputs):
    weigh = jax.jit(jax.vmap(lambda rng: augment.mixup(rng, *inputs, 0.4)[1][1, 1]))
    weights = np.asarray(weigh(jax.random.split(jax.random.key(0), 4000)))
    assert weights.mean() == pytest.approx(0.5, abs=0.02)
    assert weights.var() == pytest.approx(1 / (4 * (2 * 0.4 + 1)), abs=0.01)


def test_cutmix_pastes_one_box_of_the_neighbour_at_the_same_place(inputs):
    images, _ = augment.cutmix(jax.random.key(3), *inputs, 1.0)
    pasted = np.asarray(images != inputs[0]).any(axis=-1)
    np.testing.assert_array_equal(pasted, np.broadcast_to(pasted[0], pasted.shape))
    rows, columns = np.nonzero(pasted[0].any(axis=1))[0], np.nonzero(pasted[0].any(axis=0))[0]
    box = pasted[0][rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    assert 0 < box.size < SIZE * SIZE
    assert box.all()


def test_cutmix_pastes_everywhere_and_as_much_as_a_clipped_box_of_uniform_area(inputs):
    images, _ = jax.vmap(lambda rng: augment.cutmix(rng, *inputs, 1.0))(jax.random.split(jax.random.key(0), 4000))
    pasted = np.asarray(images[:, 1, :, :, 0] == 0)
    # With u uniform, a side s = sqrt(u) around a uniform centre keeps s - s^2 / 4 on average, and its square is meant.
    assert pasted.mean() == pytest.approx(0.5 - 0.2 + 1 / 48, abs=0.015)
    assert pasted.mean(axis=0).min() > 0.1
    np.testing.assert_allclose(pasted.mean(axis=0), pasted.mean(axis=0)[::-1, ::-1], atol=0.06)
