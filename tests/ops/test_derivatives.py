"""JAX's transformations of a network, of any order, against the same network written down in operations of `lax`."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from inception_jax import ops
from inception_jax.models import spec, zoo
from inception_jax.ops import convolution_and_pool, cpu_native, deferred_norm, fence, implementation
from inception_jax.ops.derivatives import Operation
from tests.conftest import need_native
from tests.selection import cases

TABLE = {
    "a": spec.Conv(4, (3, 3)),
    "pool": spec.Pool("max", 3, 2),
    "b": ((spec.Conv(3),), (spec.Pool("max"), spec.Conv(2))),
}
TOLERANCE = {"float64": 1e-9, "float32": 2e-3, "bfloat16": 0.15}
FIRST_ORDER = {
    "conv",
    "conv_kernel_gradient",
    "moments",
    "deferred_norm_gradient",
    "max_pool_with_argmax",
    "max_pool_gradient",
}


def _network(variables, images, train):
    """Returns the logits [B, 5] of TABLE in training or evaluation."""
    params, stats = variables["params"], variables["batch_stats"]

    def unit(x, path, padding):
        own, running = params, stats
        for name in path:
            own, running = own[name], running[name]
        kernel, norm = own["conv"]["kernel"], own["bn"]
        x = lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))
        mean, var = running["bn"]["mean"], running["bn"]["var"]
        if train:
            mean = x.mean((0, 1, 2))
            var = jnp.square(x - mean.reshape(1, 1, 1, -1)).mean((0, 1, 2))
        mean, var, scale, bias = (each.reshape(1, 1, 1, -1) for each in (mean, var, norm["scale"], norm["bias"]))
        return jax.nn.relu((x - mean) / jnp.sqrt(var + 1e-3) * scale + bias)

    def pool(x, stride, padding):
        padding = ((0, 0), padding, padding, (0, 0))
        return lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, stride, stride, 1), padding)

    x = pool(unit(images, ["a"], ((1, 1), (1, 1))), 2, (0, 1))
    first = unit(x, ["inception_b", "branch1_0"], "VALID")
    second = unit(pool(x, 1, (1, 1)), ["inception_b", "branch2_1"], "VALID")
    linear = params["classifier"]["linear"]
    mean = jnp.concatenate([first, second], -1).mean((1, 2))
    return mean @ linear["kernel"] + linear["bias"].reshape(1, -1)


def _model(dtype):
    return zoo.create_model("googlenet_cifar", 5, dtype, aux=False, dropout=0.0).clone(table=TABLE)


def _draw(seed, tree):
    """Returns normal numbers in the shapes and dtypes of a tree."""
    random = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(random.standard_normal(leaf.shape), leaf.dtype), tree)


def _images(*batch, dtype="float32"):
    return _draw(0, jax.ShapeDtypeStruct((*batch, 8, 8, 3), dtype))


@functools.cache
def _shapes():
    return jax.eval_shape(_model("float32").init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))


def _variables(dtype, *stacked):
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((*stacked, *leaf.shape), dtype), _shapes())
    variables = _draw(7, shapes)
    variables["batch_stats"] = jax.tree.map(lambda leaf: jnp.abs(leaf) + 0.5, variables["batch_stats"])
    return variables


def _inner(tree, other):
    return sum(jnp.vdot(a, b) for a, b in zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True))


# What is done to logits(params, images); each returns a tree of arrays.


def _loss(logits):
    return lambda *args: (jnp.sin(logits(*args)) * jnp.arange(1.0, 6.0).reshape(1, -1)).sum()


def _by_scale(function, params, images):
    """Returns a function of the four scales of the first batch norm."""

    def of_scale(scale):
        first = params["a"] | {"bn": params["a"]["bn"] | {"scale": scale}}
        return function(params | {"a": first}, images)

    return of_scale, params["a"]["bn"]["scale"]


def _jvp(logits, params, images):
    args = params, images
    return jax.jvp(logits, args, _draw(1, args))


def _jacobian(transformation):
    def run(logits, params, images):
        of_scale, scale = _by_scale(logits, params, images)
        return transformation(of_scale)(scale)

    return run


def _hessian(logits, params, images):
    of_scale, scale = _by_scale(_loss(logits), params, images)
    return jax.hessian(of_scale)(scale)


def _gradient(logits, params, images):
    return jax.grad(_loss(logits), (0, 1))(params, images)


def _forward_over_reverse(logits, params, images):
    args = params, images
    return jax.jvp(jax.grad(_loss(logits), (0, 1)), args, _draw(1, args))


def _reverse_over_forward(logits, params, images):
    args = params, images
    return jax.grad(lambda *args: jax.jvp(_loss(logits), args, _draw(1, args))[1], (0, 1))(*args)


def _reverse_over_reverse(logits, params, images):
    args = params, images
    gradient = jax.grad(_loss(logits), (0, 1))
    return jax.grad(lambda *args: _inner(gradient(*args), _draw(1, args)), (0, 1))(*args)


def _third(logits, params, images):
    def second(*args):
        return jax.jvp(jax.grad(_loss(logits), (0, 1)), args, _draw(1, args))[1]

    args = params, images
    return jax.jvp(second, args, _draw(2, args))


def _linearize(logits, params, images):
    args = params, images
    output, pushforward = jax.linearize(logits, *args)
    transposed = jax.linear_transpose(pushforward, *args)
    return output, pushforward(*_draw(1, args)), transposed(jnp.cos(output))


def _vmap_over_images(logits, params, images):
    many = jnp.stack([images, -images, 2 * images])
    return jax.vmap(logits, (None, 0))(params, many), jax.vmap(logits, (None, 3))(params, jnp.moveaxis(many, 0, 3))


def _stacked(params):
    return jax.tree.map(lambda leaf: jnp.stack([leaf, leaf + 0.1]), params)


def _vmap_over_parameters(logits, params, images):
    gradients = jax.vmap(jax.grad(_loss(logits), (0, 1)), (0, None))(_stacked(params), images)
    return jax.vmap(logits, (0, None))(_stacked(params), images), gradients


def _gradient_of_vmap_over_parameters(logits, params, images):
    return jax.grad(lambda *args: jax.vmap(_loss(logits), (0, None))(*args).sum(), (0, 1))(_stacked(params), images)


def _vmap_over_both(logits, params, images):
    many = jnp.stack([images, -images])
    nested = jax.vmap(jax.vmap(logits, (None, 0)), (0, None))(_stacked(params), many)
    return jax.vmap(logits)(_stacked(params), many), nested


def _per_example_gradients(logits, params, images):
    return jax.vmap(jax.grad(_loss(logits), (0, 1)), (None, 0))(params, images[:, None])


def _gradient_of_vmap(logits, params, images):
    many = jnp.stack([images, -images])
    return jax.grad(lambda *args: jax.vmap(_loss(logits), (None, 0))(*args).sum(), (0, 1))(params, many)


def _jvp_of_vmap_and_back(logits, params, images):
    args = params, jnp.stack([images, -images])
    mapped = jax.vmap(_loss(logits), (None, 0))
    return jax.jvp(mapped, args, _draw(1, args)), jax.jvp(jax.grad(lambda *args: mapped(*args).sum()), args, args)


def _remat(logits, params, images):
    rematted = jax.checkpoint(logits)
    return _gradient(rematted, params, images), _forward_over_reverse(rematted, params, images)


def _nested_jit(logits, params, images):
    jitted = jax.jit(lambda *args: jax.jit(logits)(*args))
    return _gradient(jitted, params, images), _forward_over_reverse(jitted, params, images)


def _scan(logits, params, images):
    def total(params, many):
        return lax.scan(lambda total, images: (total + _loss(logits)(params, images), None), 0.0, many)[0]

    return jax.grad(total, (0, 1))(params, jnp.stack([images, -images]))


TRANSFORMATIONS = {
    "gradient": _gradient,
    "jvp": _jvp,
    "jacfwd": _jacobian(jax.jacfwd),
    "jacrev": _jacobian(jax.jacrev),
    "hessian": _hessian,
    "forward over reverse": _forward_over_reverse,
    "reverse over forward": _reverse_over_forward,
    "reverse over reverse": _reverse_over_reverse,
    "linearize and transpose": _linearize,
    "vmap over images": _vmap_over_images,
    "vmap over parameters": _vmap_over_parameters,
    "gradient of vmap over parameters": _gradient_of_vmap_over_parameters,
    "vmap over both": _vmap_over_both,
    "per-example gradients": _per_example_gradients,
    "gradient of vmap": _gradient_of_vmap,
    "jvp of vmap": _jvp_of_vmap_and_back,
    "remat": _remat,
    "nested jit": _nested_jit,
    "scan": _scan,
}
IN_EVALUATION = "jvp", "forward over reverse", "reverse over reverse", "vmap over both", "gradient of vmap"
IN_FLOAT64 = "jvp", "hessian", "reverse over reverse", "vmap over both", "per-example gradients"
CASES = [
    *(("float32", True, name) for name in TRANSFORMATIONS),
    *(("float32", False, name) for name in IN_EVALUATION),
    *(("float64", True, name) for name in IN_FLOAT64),
]
# Each kind of derivative and of vmap, and the loop; the slow cases compose the same rules.
FAST = [
    *(("float32", True, name) for name in ("gradient", "jacfwd", "hessian", "vmap over both", "gradient of vmap")),
    *(("float32", True, name) for name in ("linearize and transpose", "reverse over reverse", "scan")),
    *(("float32", False, name) for name in IN_EVALUATION),
    *(("float64", True, name) for name in ("jvp", "hessian", "vmap over both")),
]


def _functions(dtype, train):
    """Returns logits(params, images) of the model and of the plain network, both with the same running statistics."""
    own = "float64" if dtype == "float64" else "float32"
    variables, model = _variables(own), _model(dtype)

    def ours(params, images):
        output = model.apply(variables | {"params": params}, images, train, mutable=["batch_stats"] if train else False)
        return (output[0] if train else output).logits

    def plain(params, images):
        return _network(variables | {"params": params}, images, train)

    return ours, plain, variables["params"], _images(2, dtype=own)


def _check(seen, expected, dtype):
    for one, other in zip(jax.tree.leaves(seen), jax.tree.leaves(expected), strict=True):
        assert one.dtype == other.dtype
        scale = max(np.abs(other).max(), 1)
        np.testing.assert_allclose(np.float64(one) / scale, np.float64(other) / scale, rtol=0, atol=TOLERANCE[dtype])


def _need_kernels():
    need_native(not cpu_native.missing(), "inception_jax.ops._native")


@pytest.mark.parametrize(("dtype", "train", "name"), cases(CASES, FAST))
def test_transformations_are_those_of_the_plain_network(dtype, train, name):
    """In float32 by the native ops of CPUs, in float64 by those of XLA."""
    if dtype == "float32":
        _need_kernels()
    with jax.enable_x64(dtype == "float64"), implementation.override("native" if dtype == "float32" else "xla"):
        ours, plain, *args = _functions(dtype, train)
        run = jax.jit(TRANSFORMATIONS[name], static_argnums=0)
        _check(run(ours, *args), run(plain, *args), dtype)


@pytest.mark.parametrize(("name", "train"), cases([("jvp", False), ("forward over reverse", True)], [("jvp", False)]))
def test_transformations_in_bfloat16(name, train):
    ours, plain, *args = _functions("bfloat16", train)
    run = jax.jit(TRANSFORMATIONS[name], static_argnums=0)
    _check(run(ours, *args), run(plain, *args), "bfloat16")


@pytest.mark.parametrize(("train", "check_vma"), cases([(True, True), (False, False)], fast=[(True, True)]))
def test_derivatives_inside_a_shard_map(train, check_vma):
    """Each of two devices has two images, and all parameters; there, too, native ops run."""
    _need_kernels()
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:2])

    def run(logits, params, images):
        def of_shard(params, images):
            output = jax.value_and_grad(_loss(logits), (0, 1))(params, images)
            second = jax.jvp(jax.grad(_loss(logits), 1), (params, images), (params, images))[1]
            value, (by_params, by_images) = output
            if not check_vma:  # otherwise JAX adds up itself what is a gradient of what does not vary
                by_params = lax.psum(by_params, "data")
            return value[None], by_params, by_images, second

        split, whole = jax.P("data"), jax.P()
        return jax.shard_map(
            of_shard, mesh=mesh, in_specs=(whole, split), out_specs=(split, whole, split, split), check_vma=check_vma
        )(params, images)

    with implementation.override("native"):
        ours, plain, params, _ = _functions("float32", train)
        images = _images(4)
        jitted = jax.jit(run, static_argnums=0)
        assert "@inception_jax.conv" in jitted.lower(ours, params, images).as_text()
        _check(jitted(ours, params, images), jitted(plain, params, images), "float32")


def test_outside_of_jit():
    _need_kernels()
    x, kernel = _images(2), _draw(1, jnp.zeros((3, 3, 3, 4)))

    def loss(conv, x):
        return jnp.sin(conv(x, kernel)).sum()

    def plain(x, kernel):
        return lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    with implementation.override("native"):
        ours = functools.partial(ops.conv, stride=1, padding=ops.NO_PADDING)
        for function in (jax.grad, lambda loss: jax.grad(lambda x: jax.grad(loss)(x).sum())):
            seen, expected = (function(functools.partial(loss, conv))(x) for conv in (ours, plain))
            _check(seen, expected, "float32")


# Which implementations run.


def _called(function, *args):
    return set(re.findall(r"@inception_jax\.(\w+)", jax.jit(function).lower(*args).as_text()))


def test_first_gradients_are_those_of_the_native_ops():
    _need_kernels()
    with implementation.override("native"):
        ours, _, *args = _functions("float32", True)
        gradient = functools.partial(_gradient, ours)
        assert _called(gradient, *args) == FIRST_ORDER
        text = jax.jit(gradient).lower(*args).as_text()
        assert "stablehlo.convolution" not in text
        assert "select_and_scatter" not in text
        # Also inside a second derivative, and where the gradient is taken of what was compiled.
        assert _called(functools.partial(_forward_over_reverse, ours), *args) == FIRST_ORDER
        assert _called(functools.partial(_gradient, jax.jit(ours)), *args) == FIRST_ORDER


def test_vmap_over_images_is_one_larger_batch_of_the_native_ops():
    _need_kernels()
    with implementation.override("native"):
        ours, _, params, images = _functions("float32", True)
        many = jnp.stack([images, -images, 2 * images])
        mapped = jax.vmap(_loss(ours), (None, 0))
        for function in (mapped, jax.grad(lambda *args: mapped(*args).sum())):
            text = jax.jit(function).lower(params, many).as_text()
            assert "@inception_jax.conv" in text
            assert "stablehlo.while" not in text  # a loop over the images
            assert "stablehlo.convolution" not in text


def test_linear_transpose():
    kernel, x = _draw(1, jnp.zeros((3, 3, 3, 4))), _images(2)
    padding = (1, 1), (1, 1)
    pullback = jax.linear_transpose(lambda x: ops.conv(x, kernel, 1, padding), x)
    grads = _draw(2, jnp.zeros((2, 8, 8, 4)))
    np.testing.assert_allclose(
        pullback(grads)[0],
        convolution_and_pool.input_gradient(grads, kernel, x.shape, ops.geometry(1, padding)),
        atol=1e-4,
    )
    (sent,) = jax.linear_transpose(lambda x: fence.compute_once(2 * x)[0], x)(x)
    np.testing.assert_array_equal(sent, 2 * x)


@pytest.mark.parametrize(
    ("relu", "transformation"), [(True, _reverse_over_reverse), (True, _vmap_over_both), (False, _third)]
)
def test_a_convolution_with_bias_and_relu(transformation, relu):
    """As networks without batch norm have them."""
    _need_kernels()
    padding = (1, 1), (1, 1)

    def ours(params, images):
        output = ops.conv(images, params["kernel"], 2, padding, bias=params["bias"], relu=relu)
        return output.mean((1, 2))

    def plain(params, images):
        output = lax.conv_general_dilated(
            images, params["kernel"], (2, 2), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        output = output + params["bias"].reshape(1, 1, 1, -1)
        return (jax.nn.relu(output) if relu else output).mean((1, 2))

    params = _draw(1, {"kernel": jnp.zeros((3, 3, 3, 5)), "bias": jnp.zeros(5)})
    with implementation.override("native"):
        run = jax.jit(transformation, static_argnums=0)
        _check(run(ours, params, _images(2)), run(plain, params, _images(2)), "float32")


def test_max_pools_of_ties_have_the_derivatives_of_the_first_maximum():
    x = jnp.asarray(np.random.default_rng(0).integers(-4, -1, (2, 7, 7, 3)), jnp.float32)
    tangent = _draw(1, x)

    def plain(x):
        return lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "VALID")

    for kernels in (False, not cpu_native.missing()):
        with implementation.override("native" if kernels else "xla"):
            seen = jax.jvp(lambda x: ops.max_pool(x, 3, 2, ops.NO_PADDING), (x,), (tangent,))
            for one, other in zip(seen, jax.jvp(plain, (x,), (tangent,)), strict=True):
                np.testing.assert_array_equal(one, other)


def test_a_plain_implementation_that_is_another_function_is_found():
    """Derivatives in forward mode come from it: so the tests above can fail."""
    twice = Operation(fast=lambda _, x: 2 * x, plain=lambda _, x: 3 * x)
    assert twice(None, jnp.float32(1)) == 2
    assert jax.jvp(lambda x: twice(None, x), (1.0,), (1.0,)) == (2, 3)


def test_moments_do_not_depend_on_the_origin_in_derivatives():
    x = _draw(3, jnp.zeros((2, 4, 4, 3)))
    kernel = _draw(4, jnp.zeros((1, 1, 3, 2)))

    def variance(x, origin):
        return deferred_norm.conv_and_moments(ops.geometry(1, ops.NO_PADDING), 2, x, kernel, None, origin)[2].sum()

    def tangent(origin):
        return jax.jvp(lambda x: variance(x, origin), (x,), (x,))[1]

    np.testing.assert_allclose(tangent(jnp.zeros(2)), tangent(jnp.full(2, 9.0)), rtol=1e-5)
