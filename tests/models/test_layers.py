"""Pools and local response normalisation against plain NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from inception_jax.models import layers, sizes, spec
from inception_jax.models.spec import Pool

SIZES = range(15, 65)
STRIDED = [Pool("max", 3, 2), Pool("max", 2, 2), Pool("max", 5, 3)]
LRN_PIXEL = np.arange(10.0, 90.0, 10.0)
LRN_EXPECTED = [9.795016, 19.144790, 27.741441, 35.330394, 41.794315, 47.123977, 55.953933, 65.786074]


def _starts(size, window, stride, rule):
    """Returns where the windows of one axis start, from the definition of each rule."""
    if rule == "ceil":
        return [i * stride for i in range(-((window - size) // stride) + 1)]
    if rule == "tf":
        count = -(-size // stride)
        low = max((count - 1) * stride + window - size, 0) // 2
    else:
        low = (window - 1) // 2
        count = (size + 2 * low - window) // stride + 1
    return [i * stride - low for i in range(count)]


def _pool(x, row, rule, count_padding):
    """Pools [B, H, W, C] window by window."""
    size, k = x.shape[1], row.window
    starts = _starts(size, k, row.stride, rule)
    spans = [slice(max(start, 0), min(start + k, size)) for start in starts]
    reduce = np.max if row.kind == "max" else np.sum
    columns = [[reduce(x[:, rows, cols], axis=(1, 2)) for cols in spans] for rows in spans]
    pooled = np.stack([np.stack(line, axis=1) for line in columns], axis=1)
    if row.kind == "max":
        return pooled
    seen = np.array([span.stop - span.start for span in spans])
    count = k * k if count_padding else np.outer(seen, seen)[None, :, :, None]
    return pooled / count


@pytest.mark.parametrize("rule", ["ceil", "symmetric", "tf"])
@pytest.mark.parametrize("row", STRIDED, ids="k{0.window}s{0.stride}".format)
def test_borders_of_strided_pools_of_all_sizes(row, rule):
    numerics = spec.TORCH._replace(pool_same=rule)
    for size in SIZES:
        starts = _starts(size, row.window, row.stride, rule)
        low, high = sizes.explicit_padding(size, row.window, row.stride, row.padding, rule)
        assert sizes.out_size(row, size, numerics) == len(starts)
        assert low == -starts[0], size
        assert starts[-1] + row.window <= size + high < starts[-1] + row.window + row.stride, size


@pytest.mark.parametrize("rule", ["ceil", "symmetric", "tf"])
@pytest.mark.parametrize("row", STRIDED, ids="k{0.window}s{0.stride}".format)
def test_strided_max_pools(row, rule):
    """Of six sizes behind one another, which every stride divides with every rest."""
    numerics = spec.TORCH._replace(pool_same=rule)
    for size in SIZES[:6]:
        # All values are below zero: padding by zeros would win.
        x = np.random.default_rng(size).uniform(-2, -1, (1, size, size, 2)).astype(np.float32)
        expected = _pool(x, row, rule, count_padding=True)
        np.testing.assert_array_equal(layers.pool(x, row, numerics), expected, err_msg=f"size {size}")


@pytest.mark.parametrize("rule", ["symmetric", "tf"])
@pytest.mark.parametrize("count_padding", [True, False])
@pytest.mark.parametrize("row", [Pool("avg", 3, 1), Pool("avg", 3, 2)], ids="k{0.window}s{0.stride}".format)
def test_average_pools(row, rule, count_padding):
    numerics = spec.TORCH._replace(pool_same=rule, count_padding=count_padding)
    for size in (15, 16, 17, 35):
        x = np.random.default_rng(size).standard_normal((2, size, size, 3)).astype(np.float32)
        expected = _pool(x, row, rule, count_padding)
        np.testing.assert_allclose(layers.pool(x, row, numerics), expected, rtol=1e-5, atol=1e-6)


def test_average_pool_border_by_lineage():
    ones = np.ones((1, 5, 5, 1), np.float32)
    caffe, torch, tf = (
        np.asarray(layers.pool(ones, Pool("avg"), numerics))[0, :, :, 0]
        for numerics in (spec.CAFFE, spec.TORCH, spec.TF)
    )
    np.testing.assert_allclose(tf, 1.0)
    for counted in (caffe, torch):
        np.testing.assert_allclose([counted[0, 0], counted[0, 2], counted[2, 2]], [4 / 9, 6 / 9, 1], rtol=1e-6)


def test_average_pool_of_the_aux_head_is_valid():
    x = np.random.default_rng(0).standard_normal((1, 14, 14, 2)).astype(np.float32)
    pooled = layers.pool(x, Pool("avg", 5, 3, spec.VALID), spec.CAFFE)
    assert pooled.shape == (1, 4, 4, 2)
    np.testing.assert_allclose(pooled[:, 3, 1], x[:, 9:14, 3:8].mean((1, 2)), rtol=1e-4, atol=1e-6)


def test_adaptive_pool_windows_of_14_overlap():
    x = np.random.default_rng(0).standard_normal((1, 14, 6, 2)).astype(np.float32)
    pooled = layers.adaptive_avg_pool(jnp.asarray(x), 4)
    rows, columns = [(0, 4), (3, 7), (7, 11), (10, 14)], [(0, 2), (1, 3), (3, 5), (4, 6)]
    expected = [[x[:, a:b, c:d].mean((1, 2)) for c, d in columns] for a, b in rows]
    np.testing.assert_allclose(pooled, np.moveaxis(expected, 2, 0), rtol=1e-5, atol=1e-6)


def _lrn(x, size=5, alpha=1e-4, beta=0.75, k=1.0):
    """Normalises [..., C] channel by channel in float64."""
    x = np.asarray(x, np.float64)
    y = np.empty_like(x)
    for c in range(x.shape[-1]):
        near = x[..., max(c - size // 2, 0) : c + size // 2 + 1]
        y[..., c] = x[..., c] / (k + alpha / size * (near**2).sum(-1)) ** beta
    return y


def test_lrn_check_vector():
    normed = layers.local_response_norm(jnp.asarray(LRN_PIXEL[None, None, None], jnp.float32), spec.LocalResponseNorm())
    np.testing.assert_allclose(normed[0, 0, 0], LRN_EXPECTED, rtol=1e-6)


def test_lrn_divides_alpha_by_the_window():
    undivided = _lrn(LRN_PIXEL, alpha=5e-4)
    np.testing.assert_allclose(undivided[[0, 1, 7]], [9.064031, 16.427538, 40.359007], rtol=1e-6)
    assert not np.allclose(undivided, LRN_EXPECTED, rtol=1e-2)


@pytest.mark.parametrize("row", [spec.LocalResponseNorm(), spec.LocalResponseNorm(size=3, alpha=0.5, beta=0.5, k=2.0)])
def test_lrn_equals_numpy(row):
    x = np.random.default_rng(0).standard_normal((2, 3, 3, 16)) * 50
    expected = _lrn(x, *row)
    np.testing.assert_allclose(layers.local_response_norm(jnp.asarray(x, jnp.float32), row), expected, rtol=1e-5)


def test_lrn_gradient_equals_central_differences():
    row = spec.LocalResponseNorm(alpha=0.5)
    rng = np.random.default_rng(0)
    x, cotangent = rng.standard_normal((2, 1, 2, 1, 8))
    with jax.enable_x64(True):
        _, pullback = jax.vjp(functools.partial(layers.local_response_norm, row=row), jnp.asarray(x))
        (gradient,) = pullback(jnp.asarray(cotangent))
    step = 1e-6
    for index in np.ndindex(x.shape):
        nudge = np.zeros_like(x)
        nudge[index] = step
        slope = (cotangent * (_lrn(x + nudge, *row) - _lrn(x - nudge, *row))).sum() / (2 * step)
        np.testing.assert_allclose(gradient[index], slope, rtol=1e-6, atol=1e-9)


def test_lrn_of_bfloat16_is_computed_in_float32():
    x = jnp.asarray(LRN_PIXEL[None, None, None], jnp.bfloat16)
    normed = layers.local_response_norm(x, spec.LocalResponseNorm())
    assert normed.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(normed, np.float32)[0, 0, 0], LRN_EXPECTED, rtol=2**-8)
