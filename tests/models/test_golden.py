"""GoogLeNet under synthetic weights (tests/parity/fixtures.py), against values from other implementations.

The Caffe-style rows were confirmed by a second implementation that read the original network description. A wrong
padding, rounding, epsilon, layout or kernel size must miss them: the last tests see that they do.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from inception_jax.models import googlenet, layers, sizes, spec, zoo
from tests.parity import fixtures
from tests.selection import cases

TOLERANCE = {"float32": 1e-4, "float64": 1e-9}
SLIM_STEM = spec.TORCH._replace(conv_same="tf")

# Model and numerics: logits 0 to 3, sum of the 1000 logits, argmax.
LOGITS = {
    ("googlenet_torchvision", spec.TORCH): ((-3.87986082, 1.95487306, 4.98610502, -2.48902762), -66.9269682, 509),
    ("googlenet_torchvision", SLIM_STEM): ((-3.8009924, 1.80037916, 4.87897576, -2.46944179), -67.1123771, 509),
    ("googlenet_bn", spec.TORCH): ((-5.40988063, -0.842948909, 2.09134977, -4.01159327), -32.7923896, 302),
    ("googlenet", spec.CAFFE): ((-3.32424147, 1.85797459, 0.220290348, -5.25959616), -75.4238178, 872),
}
# Model: logits 0 to 3 and sum of the head on 4a.
HEADS = {
    "googlenet_torchvision": ((-0.0555454848, -0.827910425, 3.77409682, -1.81827513), 66.8557957),
    "googlenet": ((-2.05424, -0.427525203, 0.414086947, -0.155126388), 135.008104),
}
# Model: mean and standard deviation (N - 1) of endpoints.
TAPS = {
    "googlenet_torchvision": {
        "conv1": (0.33340671, 0.493267303),
        "pool1": (1.22529207, 0.540840141),
        "3a": (0.988389039, 1.50493363),
        "4e": (1.58827717, 2.42754599),
        "5b": (1.84890178, 2.85705212),
    },
    "googlenet": {
        "3a": (1.04336381, 1.48516573),
        "4e": (1.35672387, 1.99354868),
        "5b": (1.74930826, 2.70519109),
    },
}
CASES = [pytest.param(*case, id=f"{case[0]}-{case[1].conv_same}") for case in LOGITS]


@functools.cache
def _filled(name, dtype):
    return fixtures.fill(fixtures.shapes(zoo.create_model(name), 224), dtype)


@functools.cache
def _run(name, numerics, dtype):
    """Returns the output of the model at 224 pixels on the synthetic weights and image."""
    with jax.enable_x64(dtype == "float64"):
        model = zoo.create_model(name, numerics=numerics, dtype=jnp.dtype(dtype))
        return jax.jit(model.apply)(_filled(name, dtype), fixtures.image(224, dtype))


def _tap(name, numerics, tap="3a"):
    """Returns mean and deviation of one endpoint in float32; what lies behind it is not even compiled."""
    model = zoo.create_model(name, numerics=numerics)
    maps = jax.jit(lambda *args: model.apply(*args).endpoints[tap])(
        _filled(name, "float32"), fixtures.image(224, "float32")
    )
    return _statistics(maps)


def _statistics(maps):
    maps = np.asarray(maps, np.float64)
    return maps.mean(), maps.std(ddof=1)


def _assert_close(found, expected, dtype):
    # Nine digits of each value are known; an error of half a unit in the last is not ours.
    digits = 10.0 ** (np.floor(np.log10(np.abs(expected))) - 8)
    scale = np.max(np.abs(expected))
    np.testing.assert_array_less(np.abs(found - expected), TOLERANCE[dtype] * scale + 0.51 * digits)


def test_generator_check_values():
    np.testing.assert_array_equal(fixtures.uniform(3, 1), [0.27357846347706083, 0.9062424483978249, 0.6012833071187135])
    np.testing.assert_array_equal(
        fixtures.uniform(3, 7), [0.7210923611323953, 0.15965942936534883, 0.44371041259308497]
    )


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("name", "numerics"), CASES)
def test_logits(name, numerics, dtype):
    first, total, best = LOGITS[name, numerics]
    logits = np.asarray(_run(name, numerics, dtype).logits[0])
    assert logits.dtype == dtype
    _assert_close(logits[:4], np.array(first), dtype)
    _assert_close(logits.sum(dtype=np.float64), np.array(total), dtype)
    assert logits.argmax() == best


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("name", "numerics"), [("googlenet_torchvision", spec.TORCH), ("googlenet", spec.CAFFE)])
def test_endpoint_statistics(name, numerics, dtype):
    endpoints = _run(name, numerics, dtype).endpoints
    for tap, expected in TAPS[name].items():
        _assert_close(np.array(_statistics(endpoints[tap])), np.array(expected), dtype)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_conv1_of_the_paper_network_before_relu(dtype):
    kernel, bias = (_filled("googlenet", dtype)["params"]["conv1"]["conv"][leaf] for leaf in ("kernel", "bias"))
    with jax.enable_x64(dtype == "float64"):
        maps = jax.lax.conv_general_dilated(
            jnp.asarray(fixtures.image(224, dtype)),
            jnp.asarray(kernel),
            (2, 2),
            ((3, 3), (3, 3)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        maps = maps + jnp.asarray(bias)[None, None, None]
        relu = np.asarray(_run("googlenet", spec.CAFFE, dtype).endpoints["conv1"])
    np.testing.assert_allclose(relu, np.maximum(maps, 0), atol=1e-5)
    _assert_close(np.array(_statistics(maps)), np.array((-0.00309627184, 0.811178845)), dtype)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("name", "numerics"), [("googlenet_torchvision", spec.TORCH), ("googlenet", spec.CAFFE)])
def test_head_on_4a_in_evaluation(name, numerics, dtype):
    first, total = HEADS[name]
    variables = {collection: tree["aux_4a"] for collection, tree in _filled(name, dtype).items() if "aux_4a" in tree}
    with jax.enable_x64(dtype == "float64"):
        head = layers.AuxHead(
            zoo.MODELS[name].aux_heads["4a"],
            1000,
            numerics,
            functools.partial(layers.ConvNormAct, numerics=numerics, dtype=jnp.dtype(dtype)),
            functools.partial(layers.pool, numerics=numerics),
            jnp.dtype(dtype),
        )
        logits = head.apply(variables, _run(name, numerics, dtype).endpoints["4a"], train=False)[0]
    _assert_close(np.asarray(logits[:4]), np.array(first), dtype)
    _assert_close(np.asarray(logits, np.float64).sum(), np.array(total), dtype)


@pytest.mark.parametrize("name", cases(["googlenet", "googlenet_torchvision"], fast=["googlenet_torchvision"]))
def test_bfloat16_is_near(name):
    numerics = zoo.MODELS[name].numerics
    model = zoo.create_model(name, dtype=jnp.bfloat16)
    half = jax.jit(model.apply)(_filled(name, "float32"), fixtures.image(224, "float32")).logits
    full = np.asarray(_run(name, numerics, "float32").logits)
    assert np.abs(half - full).max() < 0.02 * np.abs(full).max()


def _misses(found, expected):
    return np.abs(np.subtract(found, expected)).max() > 10 * TOLERANCE["float32"] * np.abs(expected).max()


@pytest.mark.slow  # it checks the golden values, not the networks
@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("googlenet", spec.CAFFE._replace(conv_same="tf")),
        ("googlenet", spec.CAFFE._replace(pool_same="symmetric")),
        ("googlenet_torchvision", spec.TORCH._replace(conv_same="tf")),
        ("googlenet_torchvision", spec.TORCH._replace(pool_same="symmetric")),
        ("googlenet_torchvision", spec.TORCH._replace(norm=spec.BatchNorm(epsilon=1e-5))),
    ],
    ids=["caffe-conv", "caffe-pool", "torch-conv", "torch-pool", "torch-epsilon"],
)
def test_wrong_numerics_miss_the_golden_values(name, wrong):
    assert not _misses(_tap(name, zoo.MODELS[name].numerics), TAPS[name]["3a"])
    assert _misses(_tap(name, wrong), TAPS[name]["3a"])


def test_tf_pools_differ_from_ceil_pools_on_odd_maps_only():
    """At 224 no golden value can tell them apart (all maps are even); at 225 the sizes do."""
    ceil, tf = spec.TORCH, spec.TORCH._replace(pool_same="tf")
    found = [[224, 225], [224, 225]]
    for row in googlenet.GOOGLENET.values():
        found = [[sizes.out_size(row, n, rule) for n in of] for rule, of in zip((ceil, tf), found, strict=True)]
    assert found == [[7, 7], [7, 8]]


def test_counting_padding_cannot_matter_in_googlenet():
    """Its only average pool is VALID, so a wrong rule is for test_layers to find, not for a golden value."""
    rows = [row for head in googlenet.PAPER_AUX.values() for row in head.rows if isinstance(row, spec.Pool)]
    assert rows
    assert all(row.padding == spec.VALID for row in rows)


def test_lrn_with_undivided_alpha_misses_the_golden_values(monkeypatch):
    table = googlenet.GOOGLENET | {
        "norm1": spec.LocalResponseNorm(alpha=5e-4),
        "norm2": spec.LocalResponseNorm(alpha=5e-4),
    }
    model = zoo.create_model("googlenet").clone(table=table)
    maps = jax.jit(lambda *args: model.apply(*args).endpoints["3a"])(
        _filled("googlenet", "float32"), fixtures.image(224, "float32")
    )
    assert _misses(_statistics(maps), TAPS["googlenet"]["3a"])
