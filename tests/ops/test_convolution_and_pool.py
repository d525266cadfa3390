"""Convolutions and max pools in their forms for CPUs against those of XLA and their gradients."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from inception_jax import ops
from inception_jax.ops import cpu_native

TOLERANCE = {"float32": 2e-5, "bfloat16": 2e-2, "float64": 1e-12}


class Case(NamedTuple):
    shape: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: int = 1
    borders: tuple[tuple[int, int], ...] = ((0, 0), (0, 0))
    groups: int = 1


CASES = {
    "pointwise": Case((2, 5, 4, 9), (1, 1, 9, 6)),
    "pointwise, stride 2": Case((2, 6, 7, 9), (1, 1, 9, 6), 2),
    "pointwise with borders": Case((2, 6, 7, 9), (1, 1, 9, 6), 2, ((1, 0), (0, 1))),
    "3x3": Case((2, 6, 5, 9), (3, 3, 9, 4), 1, ((1, 1), (1, 1))),
    "3x3, stride 2, TensorFlow's borders": Case((2, 8, 7, 8), (3, 3, 8, 4), 2, ((0, 1), (1, 1))),
    "3x3, stride 2, a rest": Case((2, 8, 9, 8), (3, 3, 8, 4), 2),
    "1x7": Case((2, 5, 6, 8), (1, 7, 8, 4), 1, ((0, 0), (3, 3))),
    "7x7 of images": Case((2, 14, 15, 3), (7, 7, 3, 4), 2, ((3, 3), (2, 3))),
    "3x3 of images, a rest": Case((3, 8, 7, 3), (3, 3, 3, 4), 2),
    "2x2, stride 3: pixels that no window sees": Case((2, 8, 8, 8), (2, 2, 8, 4), 3),
    "border wider than the window": Case((2, 4, 4, 8), (2, 2, 8, 4), 1, ((3, 2), (3, 1))),
    "depthwise": Case((2, 6, 5, 4), (3, 3, 1, 4), 1, ((1, 1), (1, 1)), 4),
    "depthwise, stride 2, multiplier 2": Case((2, 7, 6, 3), (3, 3, 1, 6), 2, ((1, 1), (0, 1)), 3),
    "groups": Case((2, 6, 5, 8), (3, 3, 4, 6), 1, ((1, 1), (1, 1)), 2),
    "Winograd: odd sides and channels": Case((4, 13, 9, 37), (3, 3, 37, 70), 1, ((1, 1), (1, 1))),
    "Winograd: uneven borders": Case((3, 15, 14, 16), (3, 3, 16, 33), 1, ((0, 2), (2, 0))),
    "Winograd: no borders": Case((3, 16, 17, 18), (3, 3, 18, 16)),
    "Winograd: several parts": Case((4, 46, 48, 16), (3, 3, 16, 17), 1, ((1, 1), (1, 1))),
    "images: several parts": Case((5, 44, 40, 3), (3, 3, 3, 17), 1, ((1, 1), (1, 1))),
    "wide rows: several bands": Case((2, 20, 40, 64), (5, 3, 64, 35), 2, ((2, 1), (1, 1))),
}
POOLS = {
    "3, stride 1": (2, 7, 6, 3, 1, ((1, 1), (1, 1))),
    "3, stride 2, ceil": (2, 8, 6, 3, 2, ((0, 1), (0, 1))),
    "3, stride 2": (2, 7, 8, 3, 2, ((0, 0), (0, 0))),
    "3, stride 2, borders": (2, 7, 8, 3, 2, ((1, 1), (1, 0))),
    "2, stride 3: pixels that no window sees": (1, 8, 7, 2, 3, ((0, 0), (0, 0))),
    "5, stride 3": (1, 9, 10, 5, 3, ((2, 1), (0, 2))),
    "12, stride 5: more places than int8": (1, 13, 14, 12, 5, ((0, 6), (3, 1))),
}
# The kernels of `native` are for float32; without them float32 has the forms of the other dtypes.
DTYPES = {**{name: (name, False) for name in TOLERANCE}, "kernels": ("float32", True)}
dtypes = pytest.mark.parametrize(("dtype", "with_kernels"), DTYPES.values(), ids=DTYPES)


@pytest.fixture(autouse=True)
def kernels(request):
    """Traces with the kernels of `native` or without them."""
    wanted = getattr(request.node, "callspec", None) and request.node.callspec.params.get("with_kernels", False)
    if wanted:
        request.getfixturevalue("kernels_built")
    with cpu_native.kernels(bool(wanted)):
        yield


def _draw(seed, shape, dtype):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def _conv(maps, kernel, case):
    return lax.conv_general_dilated(
        maps,
        kernel,
        (case.stride, case.stride),
        case.borders,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=case.groups,
    )


def _max_pool(maps, window, stride, borders):
    return lax.reduce_window(
        maps, -jnp.inf, lax.max, (1, window, window, 1), (1, stride, stride, 1), ((0, 0), *borders, (0, 0))
    )


def _close(actual, expected, dtype):
    for a, b in zip(actual, expected, strict=True):
        assert (a.dtype, a.shape) == (dtype, b.shape)
        scale = max(np.abs(b).max(), 1)
        np.testing.assert_allclose(np.float64(a) / scale, np.float64(b) / scale, rtol=0, atol=TOLERANCE[dtype])


@dtypes
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_convolutions_and_gradients(case, dtype, with_kernels):
    with jax.enable_x64(True):
        maps, kernel = _draw(0, case.shape, dtype), _draw(1, case.kernel, dtype)

        @jax.jit
        def both(maps, kernel):
            exact, vjp = jax.vjp(functools.partial(_conv, case=case), *(x.astype(jnp.float64) for x in (maps, kernel)))
            output, own_vjp = jax.vjp(lambda maps, kernel: ops.conv(maps, kernel, *case[2:]), maps, kernel)
            grads = jnp.cos(jnp.arange(output.size)).reshape(output.shape).astype(dtype)
            return (output, *own_vjp(grads)), (exact, *vjp(grads.astype(jnp.float64)))

        _close(*both(maps, kernel), dtype)


def _pools():
    """Yields each pool in each dtype; the one of 144 pixels a window takes long to compile."""
    for name, case in POOLS.items():
        for kind, dtype in DTYPES.items():
            wide = case[3] ** 2 > 127 and kind not in ("float32", "kernels")
            yield pytest.param(case, *dtype, id=f"{name}-{kind}", marks=[pytest.mark.slow] if wide else [])


@pytest.mark.parametrize(("case", "dtype", "with_kernels"), list(_pools()))
def test_max_pools_and_gradients_with_ties(case, dtype, with_kernels):
    batch, height, width, *geometry = case
    with jax.enable_x64(True):
        # Few values, so that most windows have several maxima; below zero, so that a border of zeros would win.
        maps = jnp.asarray(np.random.default_rng(0).integers(-4, -1, (batch, height, width, 5)), dtype)

        @jax.jit
        def both(maps):
            expected, vjp = jax.vjp(lambda maps: _max_pool(maps, *geometry), maps)
            pooled, own_vjp = jax.vjp(lambda maps: ops.max_pool(maps, *geometry), maps)
            grads = (jnp.arange(pooled.size) % 8 + 1).reshape(pooled.shape).astype(dtype)  # sums are exact
            return (pooled, ops.max_pool(maps, *geometry), *own_vjp(grads)), (expected, expected, *vjp(grads))

        for actual, reference in zip(*both(maps), strict=True):
            assert actual.dtype == dtype
            np.testing.assert_array_equal(actual, reference)


@pytest.mark.parametrize(
    ("name", "dtype", "with_kernels"),
    [
        *((name, dtype, dtype == "float32") for name in ("3x3", "7x7 of images") for dtype in TOLERANCE),
        ("3x3", "float32", False),
        ("Winograd: odd sides and channels", "float32", True),
        ("wide rows: several bands", "float32", True),
    ],
)
def test_bias_and_relu_at_the_end_of_a_convolution(name, dtype, with_kernels):
    case = CASES[name]
    with jax.enable_x64(True):
        maps, kernel, bias = (
            _draw(i, shape, dtype) for i, shape in enumerate((case.shape, case.kernel, case.kernel[3:]))
        )

        def plain(maps, kernel, bias):
            return jax.nn.relu(_conv(maps, kernel, case) + jnp.expand_dims(bias, (0, 1, 2)))

        def fast(maps, kernel, bias):
            return ops.conv(maps, kernel, *case[2:], bias, relu=True)

        @functools.partial(jax.jit, static_argnums=0)
        def run(function, *arguments):
            made, pullback = jax.vjp(function, *arguments)
            return made, *pullback(jnp.ones_like(made))

        _close(run(fast, maps, kernel, bias), run(plain, maps, kernel, bias), dtype)


@pytest.mark.parametrize("with_kernels", [True])
def test_nan_wins_a_max_pool_and_its_gradient(with_kernels):
    maps = _draw(0, (1, 5, 5, 20), "float32").at[0, 2, 2].set(jnp.nan).at[0, 0, 0].set(-jnp.inf)
    pooled, pullback = jax.vjp(lambda maps: ops.max_pool(maps, 3, 2, ((0, 0), (0, 0))), maps)
    np.testing.assert_array_equal(pooled, _max_pool(maps, 3, 2, ((0, 0), (0, 0))))
    assert pullback(jnp.ones_like(pooled))[0][0, 2, 2].tolist() == [4] * 20


@pytest.mark.parametrize("with_kernels", [True])
def test_kernels_are_called_if_wanted_and_left_out_of_exports(with_kernels):
    arguments = _draw(0, (2, 8, 8, 8), "float32"), _draw(1, (3, 3, 8, 8), "float32")
    assert "@inception_jax.conv" in jax.jit(_loss).lower(*arguments).as_text()
    with cpu_native.kernels(False):
        assert "@inception_jax" not in jax.export.export(jax.jit(_loss), platforms=["cpu"])(*arguments).mlir_module()


def test_kernels_are_left_out_where_a_compiler_splits_a_program(monkeypatch):
    monkeypatch.setattr(cpu_native, "missing", lambda: "")
    with cpu_native.kernels(None):
        assert not cpu_native.is_wanted()
        mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
        seen = []
        jax.shard_map(
            lambda x: seen.append(cpu_native.is_wanted()) or x,
            mesh=mesh,
            in_specs=jax.P("data"),
            out_specs=jax.P("data"),
        )(jnp.zeros(8))
        assert seen[0]


def _loss(maps, kernel):
    return ops.max_pool(ops.conv(maps, kernel, 1, ((1, 1), (1, 1))), 3, 2, ((0, 1), (0, 1))).sum()


@pytest.mark.parametrize(("platform", "xla"), [("cpu", False), ("tpu", True), ("cuda", True)])
def test_a_program_holds_the_form_of_its_platform_only(platform, xla):
    arguments = _draw(0, (2, 8, 8, 8), "float32"), _draw(1, (3, 3, 8, 8), "float32")
    program = jax.export.export(jax.jit(jax.grad(_loss, (0, 1))), platforms=[platform])(*arguments).mlir_module()
    assert ("select_and_scatter" in program) == xla
    assert ("stablehlo.dot_general" in program) != xla


def test_shards_of_a_batch_give_the_gradients_of_the_batch():
    maps, kernel = _draw(0, (8, 6, 6, 8), "float32"), _draw(1, (3, 3, 8, 4), "float32")
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:2])
    gradients = jax.grad(_loss, (0, 1))

    def shard(maps, kernel):
        of_maps, of_kernel = gradients(maps, kernel)
        return of_maps, lax.psum(of_kernel, "data")

    split, whole = jax.P("data"), jax.P()
    # As in parallel/reduce.py, which adds the gradients up itself.
    sharded = jax.shard_map(shard, mesh=mesh, in_specs=(split, whole), out_specs=(split, whole), check_vma=False)
    _close(jax.jit(sharded)(maps, kernel), jax.jit(gradients)(maps, kernel), "float32")
