"""The kernels for TPUs, run by Pallas's emulation of one, against XLA's pools, convolutions and gradients."""

import collections
import dataclasses
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental.pallas import tpu as pltpu

from inception_jax import ops
from inception_jax.inference.fold_and_fuse import for_inference
from inception_jax.models import zoo
from inception_jax.ops import deferred_norm, implementation, pooled_convolution, tpu_pallas
from inception_jax.ops.platforms import tracing_for
from tests.selection import cases
from tests.short import SHORT

IMAGES, FEATURES = tpu_pallas.LANES, 8


class Tpu(NamedTuple):
    platform: str = "tpu"
    device_kind: str = "TPU v5 lite"


@pytest.fixture
def emulated():
    with pltpu.force_tpu_interpret_mode():
        yield


def draw(seed, shape, values=(-1.5, -1, -0.5, 0, 0.5, 1, 2), dtype=jnp.bfloat16):
    """Numbers of few bits, of which many are equal: sums are exact, and the order of maxima matters."""
    return jnp.asarray(np.random.default_rng(seed).choice(values, shape), dtype)


def plain(x, kernel, bias=None, norm=None, relu=False):
    """In float32, by XLA."""
    pool = lax.reduce_window(
        x.astype(jnp.float32), -jnp.inf, lax.max, (1, 3, 3, 1), (1, 1, 1, 1), ((0, 0), (1, 1), (1, 1), (0, 0))
    )
    if norm is not None:
        mean, scale, offset = norm.reshape(3, -1, 1, 1, 1, x.shape[3])
        grouped = pool.reshape(mean.shape[0], -1, *pool.shape[1:])
        pool = jax.nn.relu((grouped - mean) * scale + offset).reshape(pool.shape)
    output = jnp.einsum("bhwc,cf->bhwf", pool, kernel[0, 0].astype(jnp.float32), precision="highest")
    output = output if bias is None else output + bias.reshape(1, 1, 1, -1)
    return jax.nn.relu(output) if relu else output


def exact(seen, expected):
    np.testing.assert_array_equal(np.asarray(seen, np.float32), np.asarray(expected.astype(seen.dtype), np.float32))


def draw_norm(groups, channels):
    return jnp.stack(
        [draw(2, (groups, channels), values) for values in ([-0.5, 0, 1], [0.5, 1, 2], [-1, 0, 0.5])]
    ).astype(jnp.float32)


@pytest.mark.parametrize(("height", "width", "parts"), [(1, 2, [16]), (3, 4, [16, 32])])
@pytest.mark.parametrize("relu", [False, True])
def test_a_convolution_of_a_pool(emulated, height, width, parts, relu):
    x = draw(0, (IMAGES, height, width, sum(parts)))
    kernel, bias = draw(1, (1, 1, sum(parts), FEATURES), [-1, 0, 1]), draw(2, (FEATURES,))
    seen = tpu_pallas.conv(jnp.split(x, np.cumsum(parts)[:-1], axis=3), kernel, bias, relu=relu)
    assert seen.dtype == jnp.bfloat16
    exact(seen, plain(x, kernel, bias.astype(jnp.float32), relu=relu))


@pytest.mark.parametrize(("groups", "lanes"), [(2, 2), (2, 4), (1, 2)])
def test_each_group_of_images_has_its_norm(emulated, groups, lanes):
    x, kernel = draw(0, (lanes * IMAGES, 1, 2, 32)), draw(1, (1, 1, 32, FEATURES), [-1, 0, 1])
    norm = draw_norm(groups, 32)
    exact(tpu_pallas.conv([x[..., :16], x[..., 16:]], kernel, norm=norm), plain(x, kernel, norm=norm))


@pytest.mark.parametrize(
    ("shape", "groups", "lanes", "blocks"),
    cases(
        [
            ((1, 2, 16), 1, 1, 1),
            ((4, 5, 32), 1, 1, 2),
            ((2, 3, 16), 2, 2, 1),
            ((1, 2, 16), 2, 4, 1),
            ((1, 2, 16), 1, 2, 1),
        ],
        fast=[((4, 5, 32), 1, 1, 2), ((2, 3, 16), 2, 2, 1)],
    ),
    ids=str,
)
def test_gradients_go_to_the_first_maximum_and_are_added_to_those_of_others(
    emulated, monkeypatch, shape, groups, lanes, blocks
):
    channels = shape[2]
    monkeypatch.setattr(tpu_pallas, "_block", lambda *_: channels // blocks)
    x, kernel = draw(0, (lanes * IMAGES, *shape)), draw(1, (1, 1, channels, FEATURES), [-1, 0, 1])
    norm, others = draw_norm(groups, channels), draw(3, x.shape)
    grads = draw(4, (*x.shape[:3], FEATURES), [-2, -1, 0, 1])
    seen = tpu_pallas.gradients(x, kernel, norm, grads, others)
    _, pull = jax.vjp(lambda *arrays: plain(*arrays[:2], norm=arrays[2]), x.astype(jnp.float32), kernel, norm)
    by_maps, by_kernel, by_norm = pull(grads.astype(jnp.float32))
    exact(seen[0], by_maps + others)
    assert seen[0].dtype == jnp.bfloat16
    for one, other in [(seen[1], by_kernel), (seen[2], by_norm)]:
        assert one.dtype == jnp.float32
        np.testing.assert_allclose(one, other.astype(jnp.float32), rtol=1e-2 if other.dtype == jnp.bfloat16 else 1e-6)


def test_what_runs_in_evaluation_has_gradients(emulated):
    x, kernel = draw(0, (IMAGES, 2, 3, 16)), draw(1, (1, 1, 16, FEATURES), [-1, 0, 1])
    bias, grads = draw(2, (FEATURES,)), draw(3, (IMAGES, 2, 3, FEATURES))
    seen = jax.vjp(lambda x, *rest: pooled_convolution.pool_and_conv(True, x, *rest), x, kernel, bias)[1](grads)
    expected = jax.vjp(
        lambda x, kernel, bias: plain(x, kernel, bias, relu=True),
        *(leaf.astype(jnp.float32) for leaf in (x, kernel, bias)),
    )[1](grads.astype(jnp.float32))
    for one, other in zip(seen, expected, strict=True):
        np.testing.assert_allclose(one.astype(jnp.float32), other, rtol=1e-2, atol=1e-2 * float(abs(other).max()))


def test_second_derivatives_are_those_of_the_pool_and_the_convolution(emulated):
    x, kernel = draw(0, (IMAGES, 2, 3, 16)), draw(1, (1, 1, 16, FEATURES), [-1, 0, 1]).astype(jnp.float32)
    norm = draw_norm(1, 16).reshape(3, 1, 1, 1, 1, 16)
    waits, origin = deferred_norm.DeferredNorm(x, norm[0], abs(norm[1]), norm[2], relu=True), jnp.zeros(FEATURES)

    def fast(kernel):
        _, (features, mean, var) = pooled_convolution.pool_and_conv_and_moments(IMAGES, waits, kernel, None, origin)
        return jnp.sin(mean).sum() + jnp.sqrt(var + 1).sum() + features.astype(jnp.float32).sum()

    def plain(kernel):
        pool, geometry = deferred_norm.max_pool(waits, *pooled_convolution.POOL), ops.geometry(1, ops.NO_PADDING)
        features, mean, var = deferred_norm.conv_and_moments(geometry, IMAGES, pool, kernel, None, origin)
        return jnp.sin(mean).sum() + jnp.sqrt(var + 1).sum() + features.astype(jnp.float32).sum()

    with implementation.override("xla"):
        seen, expected = (
            jax.jit(lambda kernel, loss=loss: jax.jvp(jax.grad(loss), (kernel,), (kernel,)))(kernel)
            for loss in (fast, plain)
        )
    for one, other in zip(seen, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=3e-2, atol=3e-2 * float(abs(other).max()))


SHAPE = IMAGES, 14, 14, 480


@pytest.mark.parametrize(
    ("changed", "fitting"),
    [
        ({}, True),
        ({"groups": 2}, False),
        ({"shape": (2 * IMAGES, *SHAPE[1:]), "groups": 2}, True),
        ({"shape": (IMAGES - 8, *SHAPE[1:])}, False),
        ({"shape": (*SHAPE[:3], 488)}, False),
        ({"slices": (472, 8)}, False),
        ({"shape": (IMAGES, 7, 1, 480)}, False),
        ({"shape": (IMAGES, 28, 28, 480)}, False),  # more than the memory of a chip
        ({"shape": (IMAGES, 28, 28, 384)}, False),  # the backward pass would take its parts
        ({"shape": (IMAGES, 7, 7, 1072)}, False),  # its parts would be too small, or one too large
        ({"dtype": jnp.float32}, False),
    ],
    ids=str,
)
def test_what_fits(changed, fitting):
    asked = {"shape": SHAPE, "features": 64, "dtype": jnp.bfloat16} | changed
    assert tpu_pallas.fits("TPU v5 lite", **asked) == fitting
    assert not tpu_pallas.fits("TPU v3", **asked)


def test_pallas_is_asked_for_and_refused_where_it_cannot_run():
    with tracing_for([Tpu()]):
        assert [implementation.pallas_device(each) for each in ("auto", "xla", "native")] == [None] * 3
        assert implementation.pallas_device("pallas") == "TPU v5 lite"
    for devices in ([Tpu(platform="gpu")], [Tpu()] * 2):
        with tracing_for(devices), pytest.raises(ValueError, match="implementation is 'pallas'; its kernels need TPUs"):
            implementation.pallas_device("pallas")


def errors(seen, expected):
    """Returns how far each array is off, as a vector, by the length of the right one.

    But for gradients by a bias before a batch norm, which are 0.
    """
    pairs = zip(jax.tree_util.tree_leaves_with_path(seen), jax.tree.leaves(expected), strict=True)
    pairs = [(one, other) for (path, one), other in pairs if "['conv']['bias']" not in jax.tree_util.keystr(path)]
    vectors = [[np.asarray(leaf, np.float64).ravel() for leaf in pair] for pair in pairs]
    return np.array([np.linalg.norm(one - other) / np.linalg.norm(other) for one, other in vectors])


@pytest.fixture
def short(monkeypatch):
    """A network with two pools before 1x1 convolutions, its variables, and images; biases and gains of both signs."""
    card = dataclasses.replace(SHORT, numerics=SHORT.numerics._replace(conv_bias=True))
    monkeypatch.setitem(zoo.MODELS, "short", card)
    model = zoo.create_model("short", num_classes=10, dtype=jnp.bfloat16, implementation="pallas")
    images = jax.random.normal(jax.random.key(0), (IMAGES, 16, 16, 3))

    def spread(path, leaf):
        third = jnp.arange(leaf.size).reshape(leaf.shape) % 3
        return leaf + {"scale": -1.5 * (third == 1), "bias": 0.2 * (third - 1)}.get(path[-1].key, 0)

    variables = jax.jit(model.init)(jax.random.key(1), images[:1])
    return model, jax.tree_util.tree_map_with_path(spread, variables), images


def assert_as_exact(function, kernels, *arguments):
    """A program of a dtype by the kernels is nearly as near to that in float32 as by XLA alone."""
    with tracing_for([Tpu()]):
        traced = jax.jit(function, static_argnums=0).trace(jnp.bfloat16, *arguments)
        assert collections.Counter(re.findall(r"name=(pooled_conv\w*)", str(traced.jaxpr))) == kernels
        seen = traced.lower().compile()(*arguments)
    with implementation.override("xla"):
        plain, exact = (jax.jit(function, static_argnums=0)(dtype, *arguments) for dtype in (jnp.bfloat16, jnp.float32))
    assert (errors(seen, exact) <= 2 * errors(plain, exact) + 0.002).all()


@pytest.mark.slow
def test_training_a_network(emulated, short):
    """A head reads activations that the next block's kernel returns."""
    model, variables, images = short

    def run(dtype, params, images):
        def loss(params):
            output, updated = model.clone(dtype=dtype, dropout=0.0).apply(
                variables | {"params": params}, images, train=True, mutable=["batch_stats"], rngs={"dropout": key}
            )
            total = jnp.square(output.logits).sum() + jnp.square(output.aux["4a"]).sum()
            return total, (output.logits, output.aux, updated)

        return jax.grad(loss, has_aux=True)(params)

    key = jax.random.key(2)
    assert_as_exact(run, {"pooled_conv": 2, "pooled_conv_gradients": 2}, variables["params"], images)


def test_a_network_for_inference(emulated, short):
    model, variables, images = short
    network = for_inference(model, variables, "tpu")

    def run(dtype, params, images):
        return network.model.clone(dtype=dtype).apply({"params": params}, images).logits

    assert_as_exact(run, {"pooled_conv": 2}, network.params, images)
