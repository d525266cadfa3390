"""What every model promises: named heads, one output type, gradients everywhere, clear refusals."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from inception_jax.models import endpoints, layers, spec, widths, zoo
from inception_jax.models.network import ModelOutput
from tests.models.golden_rows import GOLDEN
from tests.parity import fixtures
from tests.selection import cases, networks

CLASSES = 5
SIZES = {  # enough for the heads, or for the last map to have a few pixels
    "googlenet_cifar": 24, "googlenet_torchvision": 48, "xception": 48, "xception_timm": 48,
    "inception_v3_fid": 120, "inception_resnet_v1": 120,
    "inception_v3": 299, "inception_v3_tf": 299, "inception_v4": 299, "inception_resnet_v2": 299,
}  # others: 96  # fmt: skip
NO_GRADIENT = {  # what the batch norm behind it takes out again
    "bn_inception": lambda path: path[-2:] == ("conv", "bias"),
    "inception_resnet_v2": lambda path: path == ("Block8", "up", "conv", "bias"),
}
# Their parameters are those of another model here, and so are their rows but for constants and a pool.
SAME_PARAMETERS = ("inception_v1_slim", "inception_v3_tf", "inception_v3_fid", "xception_timm")


def _model(name, **kwargs):
    """Returns a narrow model; of equal rows one behind the other one is enough, and the tap of a head."""
    model = zoo.create_model(name, CLASSES, width=0.25, **kwargs)
    table: dict[str, spec.Row | spec.Block] = {}
    for key, row in model.table.items():
        if key in GOLDEN[name].heads or row not in list(table.values())[-1:]:
            table[key] = row
    return model.clone(table=table)


def _short(name, **kwargs):
    """Returns `_model` with one of the rows behind one another that differ in their features only.

    Taps stay with their neighbours, and residuals: those add what is as wide as their input.
    """
    model = _model(name, **kwargs)
    near = {"4a", "4b", "4d", "4e", *GOLDEN[name].heads}
    table, last = {}, None
    for key, row in model.table.items():
        kind = row if isinstance(row, spec.Residual) else widths.scale_width(row, 0)
        if key in near or kind != last:
            table[key] = row
        last = kind
    return model.clone(table=table)


def _images(name, batch=2):
    size = SIZES.get(name, 96)
    return np.random.default_rng(0).standard_normal((batch, size, size, 3)).astype(np.float32)


@functools.cache
def _initial_shapes(model, size):
    """Returns the shapes of the output of `init_with_output` and of the variables; equal models are traced once."""
    return jax.eval_shape(model.init_with_output, jax.random.key(0), jnp.zeros((1, size, size, 3)))


def _fill(model, size):
    return fixtures.fill(_initial_shapes(model, size)[1], "float32", hidden_map=(1, 1))


@functools.cache
def _variables(name):
    return _fill(_model(name), _images(name).shape[1])


@functools.cache
def _short_variables(name):
    return _fill(_short(name), _images(name).shape[1])


@functools.cache
def _evaluated(name):
    """Returns the trace of the model on two images, 32 pixels wider than high."""
    images = _images(name)
    wide = jnp.zeros((*images.shape[:2], images.shape[2] + 32, 3))
    return jax.jit(_model(name).apply).trace(_variables(name), wide)


@functools.cache
def _initial(name):
    """Returns the jitted `init`, compiled once a model."""
    return jax.jit(_short(name).init)


def _train(model, variables, images):
    return model.apply(variables, images, train=True, mutable=["batch_stats"], rngs={"dropout": jax.random.key(1)})


@functools.cache
def _gradient(name):
    """Returns a function of one random projection [2, K] a head, main and taps: d (its sum) / d params."""
    model, images, variables = _short(name), _images(name), _short_variables(name)

    def loss_fn(params, projections):
        output, _ = _train(model, variables | {"params": params}, images)
        heads = output.aux | {"main": output.logits}
        return sum((projections[head] * logits).sum() for head, logits in heads.items())

    gradient = jax.jit(jax.grad(loss_fn))
    return lambda projections: gradient(variables["params"], projections)


def _projections(name, *heads):
    random = np.random.default_rng(1).standard_normal((3, 2, CLASSES)).astype(np.float32)
    return {head: random[i] * (head in heads) for i, head in enumerate((*GOLDEN[name].heads, "main"))}


def _largest(tree):
    return {"/".join(path): float(np.abs(leaf).max()) for path, leaf in traverse_util.flatten_dict(tree).items()}


@pytest.mark.parametrize(
    "name",
    cases(
        [name for name in zoo.list_models() if name not in SAME_PARAMETERS],
        fast=("googlenet",),
    ),
)
def test_every_parameter_gets_a_finite_nonzero_gradient(name):
    largest = _largest(_gradient(name)(_projections(name, "main", *GOLDEN[name].heads)))
    unseen = NO_GRADIENT.get(name, lambda _: False)
    expected = {path: value for path, value in largest.items() if not unseen(tuple(path.split("/")))}
    assert {path: value for path, value in expected.items() if not 0 < value < np.inf} == {}
    assert (len(expected) < len(largest)) == (name in NO_GRADIENT)


@pytest.mark.parametrize("name", cases(["googlenet", "googlenet_torchvision"], fast=["googlenet"]))
def test_heads_sit_on_the_taps_they_are_named_after(name):
    """A head on 4a cannot move 4b and 4d; one on 4d moves them and not 4e."""
    early, late = (_gradient(name)(_projections(name, tap)) for tap in ("4a", "4d"))
    for block in ("4b", "4d"):
        assert set(_largest(early[f"inception_{block}"]).values()) == {0.0}
        assert 0.0 not in _largest(late[f"inception_{block}"]).values()
    for block in ("4e", "5a"):
        assert set(_largest(late[f"inception_{block}"]).values()) == {0.0}
    assert 0.0 not in _largest(early["inception_4a"]).values()
    assert set(_largest(early["aux_4d"]).values()) == set(_largest(late["aux_4a"]).values()) == {0.0}


@pytest.mark.parametrize("name", networks())
def test_one_output_type_in_every_mode(name):
    model, images, variables = _model(name), _images(name), _variables(name)
    evaluated = _evaluated(name).out_info
    trained, updates = jax.eval_shape(functools.partial(_train, model), variables, images)
    for output in (evaluated, trained):
        assert isinstance(output, ModelOutput)
        assert (output.logits.shape, output.logits.dtype) == ((2, CLASSES), jnp.float32)
        assert set(output.endpoints) == set(model.table)
    initial, _ = _initial_shapes(model, images.shape[1])
    assert evaluated.aux == initial.aux == {}
    assert {tap: head.shape for tap, head in trained.aux.items()} == dict.fromkeys(GOLDEN[name].heads, (2, CLASSES))
    assert jax.tree.map(jnp.shape, updates.get("batch_stats", {})) == jax.tree.map(
        jnp.shape, variables.get("batch_stats", {})
    )


@pytest.mark.parametrize("name", networks())
def test_endpoints_are_those_that_are_traced(name):
    """32 pixels more make exactly 32 / stride more columns, whatever pads the map."""
    table = {end.name: end for end in endpoints.trace(_model(name).table)}
    traced = _evaluated(name).out_info.endpoints
    assert set(table) == set(traced)
    for key, x in traced.items():
        _, height, width, channels = x.shape
        stride = 32 / (width - height) if width > height else None
        assert table[key] == (key, stride, channels)


@pytest.mark.parametrize("name", networks())
def test_evaluation_reads_no_parameter_of_a_head(name):
    paths = ["/".join(key.key for key in path) for path, _ in jax.tree_util.tree_leaves_with_path(_variables(name))]
    jaxpr = _evaluated(name).jaxpr.jaxpr
    used = {var for equation in jaxpr.eqns for var in equation.invars if not isinstance(var, jax.extend.core.Literal)}
    read = {path for path, var in zip(paths, jaxpr.invars, strict=False) if var in used}
    assert {path for path in paths if path not in read} == {path for path in paths if "/aux_" in path}


def test_without_heads_the_other_parameters_stay_the_same():
    with_heads, without = _variables("googlenet_bn"), _model("googlenet_bn", aux=False)
    params = jax.eval_shape(without.init, jax.random.key(0), _images("googlenet_bn"))["params"]
    assert set(with_heads["params"]) - set(params) == {"aux_4a", "aux_4d"}
    output, _ = jax.eval_shape(functools.partial(_train, without), _variables("googlenet_bn"), _images("googlenet_bn"))
    assert output.aux == {}


@pytest.mark.parametrize("name", zoo.list_models())
def test_minimum_input(name):
    assert tuple(_model(name, aux=heads).minimum_input(train=heads) for heads in (False, True)) == GOLDEN[name].minimum


@pytest.mark.parametrize("heads", [False, True])
@pytest.mark.parametrize("name", networks())
def test_smallest_image(name, heads):
    bound = GOLDEN[name].minimum[heads]
    model = _model(name, aux=heads)
    _initial_shapes(model, bound)
    for shape in ((bound - 1, bound), (bound, bound - 1)):
        with pytest.raises(ValueError, match=rf"{name} reads images of at least {bound} x {bound} .*not {shape[0]} x"):
            jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *shape, 3)))


def test_a_network_with_heads_evaluates_images_too_small_for_them():
    model = _model("googlenet")
    assert jax.eval_shape(model.apply, _variables("googlenet"), jnp.zeros((1, 31, 31, 3))).logits.shape == (1, CLASSES)
    with pytest.raises(ValueError, match="at least 79 x 79 pixels; aux=False needs 31, not 31 x 31"):
        _train(model, _variables("googlenet"), jnp.zeros((1, 31, 31, 3)))


@pytest.mark.parametrize("images", [np.zeros((96, 96, 3), np.float32), np.zeros((1, 96, 96, 3), np.uint8)])
def test_images_that_are_no_batch_of_floats_are_refused(images):
    with pytest.raises(ValueError, match=r"reads normalised floats \[B, H, W, 3\]"):
        _model("googlenet").init(jax.random.key(0), images)


@pytest.mark.parametrize("name", networks())
def test_bfloat16_computes_in_half_and_keeps_the_rest_in_float32(name):
    model, images = _model(name, dtype=jnp.bfloat16), _images(name)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
    output, updates = jax.eval_shape(functools.partial(_train, model), _variables(name), images)
    assert {x.dtype for x in output.endpoints.values()} == {jnp.dtype("bfloat16")}
    heads = [output.logits, *output.aux.values()]
    assert {leaf.dtype for leaf in (*heads, *jax.tree.leaves(updates))} == {jnp.dtype("float32")}


@pytest.mark.parametrize("name", cases(["googlenet", "googlenet_torchvision"], fast=["googlenet"]))  # LRN, batch norm
def test_bfloat16_training_outputs_are_finite(name):
    model = _model(name, dtype=jnp.bfloat16)
    for leaf in jax.tree.leaves(jax.jit(functools.partial(_train, model))(_variables(name), _images(name))):
        assert np.isfinite(np.asarray(leaf, np.float32)).all()


def test_init_depends_on_the_key_only():
    init, images = _initial("googlenet_cifar"), _images("googlenet_cifar")
    first = init(jax.random.key(0), images)
    jax.tree.map(np.testing.assert_array_equal, first, init(jax.random.key(0), images + 1))
    other = init(jax.random.key(1), images)
    same = jax.tree.map(lambda a, b: bool((a == b).all()), first["params"], other["params"])
    kernels = {path: value for path, value in traverse_util.flatten_dict(same).items() if path[-1] == "kernel"}
    assert not any(kernels.values())


@pytest.mark.parametrize(("name", "bias"), [("googlenet", 0.2), ("googlenet_bn", 0.0)])
def test_initial_weights_of_the_lineages(name, bias):
    params = _initial(name)(jax.random.key(0), _images(name))["params"]
    kernel = np.asarray(params["inception_5a"]["branch2_1"]["conv"]["kernel"])
    if name == "googlenet":  # uniform within sqrt(3 / fan-in)
        bound = np.sqrt(3 / np.prod(kernel.shape[:-1]))
        assert 0.99 * bound < np.abs(kernel).max() <= bound
        np.testing.assert_allclose(params["conv1"]["conv"]["bias"], bias)
    else:
        assert kernel.std() == pytest.approx(0.01, rel=0.02)
    np.testing.assert_allclose(params["aux_4a"]["hidden"]["bias"], bias)
    np.testing.assert_array_equal(params["classifier"]["linear"]["bias"], 0)


def test_models_are_hashable_and_equal_by_value():
    first, second, other = _model("googlenet"), _model("googlenet"), _model("googlenet", aux=False)
    assert hash(first) == hash(second)
    assert first == second != other


def test_group_statistics_reach_every_norm_of_the_network():
    name = "googlenet_torchvision"
    images, variables = _images(name, batch=4), _short_variables(name)
    grouped, whole = (
        jax.jit(functools.partial(_train, _short(name, dropout=0.0, aux=False, bn_group_size=size)))
        for size in (2, None)
    )
    halves = [whole(variables, half)[0].logits for half in np.split(images, 2)]
    np.testing.assert_allclose(grouped(variables, images)[0].logits, np.concatenate(halves), rtol=1e-3, atol=1e-4)


def test_dropout_follows_its_key_and_is_off_in_evaluation():
    classifier = layers.Classifier(CLASSES, 0.5, spec.Init("normal", 0.01))
    features = np.ones((2, 64), np.float32)
    variables = classifier.init(jax.random.key(0), features, False)
    one, same, two = (
        classifier.apply(variables, features, True, rngs={"dropout": jax.random.key(k)}) for k in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, same)
    assert not np.allclose(one, two)
    assert not np.allclose(one, classifier.apply(variables, features, False))


def test_numerics_can_be_replaced():
    model = _model("googlenet_bn", numerics=spec.TF)
    params = jax.eval_shape(model.init, jax.random.key(0), _images("googlenet_bn"))["params"]
    assert set(params["conv1"]["bn"]) == {"bias"}


def test_images_whose_branches_would_disagree_are_refused():
    """Its convolutions halve 37 pixels to 19 and its pools to 18: so do the original's, deep inside."""
    model = _model("bn_inception")
    message = "bn_inception cannot run at 299 pixels: .*The nearest size is 294"
    for shape in ((299, 224), (224, 299)):
        with pytest.raises(ValueError, match=message):
            model.init(jax.random.key(0), jnp.zeros((1, *shape, 3)))
    images = jnp.zeros((1, 294, 224, 3))
    assert jax.eval_shape(model.apply, _variables("bn_inception"), images).endpoints["5b"].shape[1:3] == (9, 7)
