"""The rows that GoogLeNet does not have: residuals, forks, separable convolutions; the constants of the lineages."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from inception_jax.models import inception_v3, layers, sizes, spec, widths, xception, zoo
from inception_jax.models.spec import Conv, Init, Pool, Relu, Residual, SeparableConv
from tests.parity import fixtures

PLAIN = spec.KERAS._replace(norm=None)  # no norm between a test and the sums it does by hand
RESIDUAL = Residual((((Conv(4),), (Conv(4), Conv(6, (3, 3)))),), 0.17, up=True, relu=True)
MAPS = np.random.default_rng(0).standard_normal((2, 6, 6, 8)).astype(np.float32)


def _run(row, x, numerics=PLAIN, name="row"):
    """Returns the map that `row` makes of `maps`, and its parameters."""

    class Alone(layers.nn.Module):
        @layers.nn.compact
        def __call__(self, x):
            conv = functools.partial(layers.ConvNormAct, numerics=numerics)
            pool = functools.partial(layers.pool, numerics=numerics)
            return layers.apply_norm(layers.run_row(row, x, False, conv, pool, name))

    variables = fixtures.fill(jax.eval_shape(Alone().init, jax.random.key(0), x), "float32")
    return np.asarray(Alone().apply(variables, x)), variables["params"].get(name, {})


def test_scale_is_on_the_residual_and_not_on_the_shortcut():
    nothing, _ = _run(RESIDUAL._replace(scale=0.0), MAPS)
    np.testing.assert_array_equal(nothing, np.maximum(MAPS, 0))
    one, two = (_run(RESIDUAL._replace(scale=scale, relu=False), MAPS)[0] - MAPS for scale in (1.0, 2.0))
    np.testing.assert_allclose(two, 2 * one, rtol=1e-4, atol=1e-5)


def test_up_is_a_bare_1x1_convolution_to_the_width_of_the_input():
    """With the lineage's norm on, it still has a bias, no norm, and no ReLU behind it."""
    numerics = spec.TORCH
    found, params = _run(RESIDUAL._replace(scale=1.0, relu=False), MAPS, numerics)
    assert {key: value.shape for key, value in params["up"]["conv"].items()} == {"kernel": (1, 1, 10, 8), "bias": (8,)}
    assert set(params["up"]) == {"conv"}
    assert set(params["rows_0"]) == {"branch1_0", "branch2_0", "branch2_1"}
    assert set(params["rows_0"]["branch1_0"]) == {"conv", "bn"}
    assert (found - MAPS < 0).any()
    inner, _ = _run(RESIDUAL.rows[0], MAPS, numerics)
    # The branches are filled alike wherever they stand.
    expected = np.einsum("bhwc,co->bhwo", inner, params["up"]["conv"]["kernel"][0, 0]) + params["up"]["conv"]["bias"]
    np.testing.assert_allclose(found - MAPS, expected, rtol=1e-4, atol=1e-5)


def test_shortcut_reads_what_comes_before_the_leading_relu():
    row = Residual((Relu(), Conv(5, relu=False)), shortcut=Conv(5, stride=1, relu=False))
    found, params = _run(row, MAPS)
    kernels = [params[name]["conv"]["kernel"][0, 0] for name in ("rows_1", "shortcut")]
    biases = sum(params[name]["conv"]["bias"] for name in ("rows_1", "shortcut"))
    np.testing.assert_allclose(
        found, np.maximum(MAPS, 0) @ kernels[0] + MAPS @ kernels[1] + biases, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("multiplier", [1, 3])
def test_separable_convolution_is_depthwise_then_pointwise(multiplier):
    row = SeparableConv(5, padding=spec.VALID, multiplier=multiplier, relu=False)
    found, params = _run(row, MAPS)
    kernel, pointwise = params["depthwise"]["kernel"], params["pointwise"]["kernel"][0, 0]
    assert kernel.shape == (3, 3, 1, 8 * multiplier)
    assert set(params["depthwise"]) == {"kernel"}
    windows = np.lib.stride_tricks.sliding_window_view(MAPS, (3, 3), axis=(1, 2))  # B, 4, 4, C, 3, 3
    depthwise = np.einsum("bhwcij,ijcm->bhwcm", windows, kernel.reshape(3, 3, 8, multiplier)).reshape(2, 4, 4, -1)
    np.testing.assert_allclose(found, depthwise @ pointwise + params["pointwise"]["bias"], rtol=1e-4, atol=1e-5)


def test_stem_of_inception_v2_has_a_bias_and_no_norm():
    variables = fixtures.shapes(zoo.create_model("inception_v2"), 32)
    stem = jax.tree.map(jnp.shape, variables["params"]["Conv2d_1a_7x7"])
    assert stem == {"depthwise": {"kernel": (7, 7, 1, 24)}, "pointwise": {"kernel": (1, 1, 24, 64), "bias": (64,)}}
    assert "Conv2d_1a_7x7" not in variables["batch_stats"]


def test_forks_stand_where_the_branch_splits():
    fork = ((Conv(3, (1, 3)),), (Conv(2, (3, 1)),))
    found, params = _run(((Conv(4),), (Conv(6), fork)), MAPS)
    assert found.shape == (2, 6, 6, 4 + 3 + 2)
    assert set(params["branch2_1"]) == {"branch1_0", "branch2_0"}
    assert params["branch2_1"]["branch1_0"]["conv"]["kernel"].shape == (1, 3, 6, 3)


def test_a_head_without_a_hidden_layer_averages_maps_of_any_size():
    head = layers.AuxHead(
        inception_v3.AUX_HEAD,
        7,
        spec.TORCH,
        functools.partial(layers.ConvNormAct, numerics=spec.TORCH),
        functools.partial(layers.pool, numerics=spec.TORCH),
    )
    init = functools.partial(head.init, train=False)
    shapes = [jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, n, n, 8))) for n in (17, 25)]
    assert shapes[0] == shapes[1]
    assert set(shapes[0]["params"]) == {"rows_1", "rows_2", "classifier"}
    assert shapes[0]["params"]["classifier"]["linear"]["kernel"].shape == (768, 7)


def test_initial_weights_of_the_head_of_v3():
    head, numerics = inception_v3.AUX_HEAD, zoo.MODELS["inception_v3"].numerics
    module = layers.AuxHead(
        head,
        100,
        numerics,
        functools.partial(layers.ConvNormAct, numerics=numerics),
        functools.partial(layers.pool, numerics=numerics),
    )
    params = module.init(jax.random.key(0), jnp.zeros((1, 17, 17, 64)), False)["params"]
    deviations = {
        "rows_1": params["rows_1"]["conv"]["kernel"].std(),
        "rows_2": params["rows_2"]["conv"]["kernel"].std(),
        "classifier": params["classifier"]["linear"]["kernel"].std(),
    }
    expected = {"rows_1": 0.1, "rows_2": 0.01, "classifier": 0.001}
    assert {key: float(value) for key, value in deviations.items()} == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize(
    ("init", "deviation", "largest"),
    [
        (Init("normal", 0.1), 0.1, np.inf),
        (Init("truncated", 0.1), 0.0880, 0.2),
        (spec.HE_SLIM, np.sqrt(2.0117 / (9 * 64)), 2 * np.sqrt(2.6 / (9 * 64))),
        (spec.GLOROT, np.sqrt(2 / (9 * (64 + 128))), np.sqrt(6 / (9 * (64 + 128)))),
        (Init("normal", 2.0, "fan_out"), np.sqrt(2 / (9 * 128)), np.inf),
        (spec.CAFFE.kernel_init, np.sqrt(1 / (9 * 64)), np.sqrt(3 / (9 * 64))),
    ],
)
def test_initialisers(init, deviation, largest):
    weights = np.asarray(layers.initializer(init)(jax.random.key(0), (3, 3, 64, 128), jnp.float32))
    assert weights.std() == pytest.approx(deviation, rel=0.01)
    assert np.abs(weights).max() <= 1.001 * largest


@pytest.mark.parametrize("shape", [(3, 3, 5, 7), (1, 1, 64, 96), (130, 10)], ids=str)
@pytest.mark.parametrize(
    ("init", "flax"),
    [
        (Init("normal", 0.01), nn.initializers.normal(0.01)),
        (Init("truncated", 0.1), nn.initializers.truncated_normal(0.1)),
        (spec.GLOROT, nn.initializers.glorot_uniform()),
        (Init("normal", 2.0, "fan_out"), nn.initializers.variance_scaling(2.0, "fan_out", "normal")),
        (spec.HE_SLIM, nn.initializers.variance_scaling(2.012, "fan_in", "truncated_normal")),
    ],
)
def test_initialisers_draw_the_numbers_of_flax(init, flax, shape):
    drawn, expected = (each(jax.random.key(3), shape, jnp.float32) for each in (layers.initializer(init), flax))
    np.testing.assert_allclose(drawn, expected, rtol=1e-6)


def test_a_uniform_distribution_needs_a_fan():
    with pytest.raises(ValueError, match="needs a fan"):
        layers.initializer(Init("uniform", 1.0))


CONSTANTS = {  # epsilon, decay, gamma, average pools count padding
    "inception_v1_slim": (1e-3, 0.9997, False, False),
    "bn_inception": (1e-5, 0.1, True, True),
    "inception_v2": (1e-3, 0.9997, False, False),
    "inception_v3": (1e-3, 0.9, True, True),
    "inception_v3_tf": (1e-3, 0.9997, False, False),
    "inception_v3_fid": (1e-3, 0.9, True, False),
    "inception_v4": (1e-3, 0.9, True, False),
    "inception_resnet_v1": (1e-3, 0.995, False, False),
    "inception_resnet_v2": (1e-3, 0.9, True, False),
    "xception": (1e-3, 0.99, True, False),
    "xception_timm": (1e-5, 0.9, True, True),
}


@pytest.mark.parametrize("name", CONSTANTS)
def test_constants_of_the_lineages(name):
    numerics = zoo.MODELS[name].numerics
    assert numerics.norm is not None
    found = (numerics.norm.epsilon, numerics.norm.decay, numerics.norm.scale, numerics.count_padding)
    assert found == CONSTANTS[name]
    assert numerics.conv_bias == (name == "bn_inception")


@pytest.mark.parametrize(
    ("size", "rule", "expected"), [(74, "tf", (0, 1)), (74, "symmetric", (1, 1)), (147, "tf", (1, 1))]
)
def test_pools_of_xception_pad_by_lineage(size, rule, expected):
    pool = xception.XCEPTION["block3"].rows[-1]
    assert sizes.explicit_padding(size, pool.window, pool.stride, pool.padding, rule) == expected
    assert sizes.out_size(xception.XCEPTION["block3"], size, PLAIN._replace(pool_same=rule)) == (size + 1) // 2


def test_fid_differs_from_v3_by_a_max_pool_and_a_row():
    plain, fid = dict(inception_v3.INCEPTION_V3), dict(inception_v3.INCEPTION_V3_FID)
    assert list(fid) == [*plain, "pool3"]
    assert [name for name in plain if plain[name] != fid[name]] == ["Mixed_7c"]
    assert plain["Mixed_7c"][:3] == fid["Mixed_7c"][:3]
    assert (plain["Mixed_7c"][3][0], fid["Mixed_7c"][3][0]) == (Pool("avg"), Pool("max"))


def test_pool3_of_fid_is_what_the_classifier_reads():
    model = zoo.create_model("inception_v3_fid", 3, width=0.1)
    images = np.random.default_rng(0).standard_normal((1, 107, 107, 3)).astype(np.float32)
    variables = fixtures.fill(fixtures.shapes(model, 107), "float32")
    output = jax.jit(model.apply)(variables, images)
    linear = variables["params"]["classifier"]["linear"]
    assert output.endpoints["pool3"].shape == (1, 1, 1, 203)
    logits = np.asarray(output.endpoints["pool3"])[:, 0, 0] @ linear["kernel"] + linear["bias"]
    np.testing.assert_allclose(output.logits, logits, rtol=1e-4, atol=1e-5)


def test_width_reaches_forks_residuals_and_shortcuts():
    module = inception_v3.module_8()
    fork = ((Conv(192, (1, 3)),), (Conv(192, (3, 1)),))
    assert widths.scale_width(module, 0.5)[1] == (Conv(192), fork)
    assert widths.scale_width(xception.reduction(128, 256), 0.5) == xception.reduction(64, 128)
