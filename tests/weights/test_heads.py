"""Heads of foreign networks, found by structure: computed as a chain, and as the linear layers that are taken."""

import numpy as np
import pytest

from inception_jax.models import spec
from inception_jax.weights import heads, keras_head
from inception_jax.weights.head_layers import Linear, Norm, Other, Untaken, by_shapes, modules_of
from inception_jax.weights.naming.layouts import KERAS, SLIM_1X1, TORCH
from inception_jax.weights.readers.statement import Layer
from tests.weights import synthetic

RNG = np.random.default_rng(0)
GOOGLENET, XCEPTION = synthetic.GOOGLENET, synthetic.lineage("keras", "xception")
SLIM = synthetic.lineage("slim", "inception_v1_slim")


def draw(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def linear(name, inputs, outputs, bias=True):
    """Returns the tensors of a linear layer of PyTorch."""
    return {f"{name}.weight": draw(outputs, inputs)} | ({f"{name}.bias": draw(outputs)} if bias else {})


def norm(name, size):
    """Returns the tensors of a batch norm of PyTorch."""
    its = {f"{name}.{leaf}": draw(size) for leaf in ("weight", "bias", "running_mean")}
    return its | {f"{name}.running_var": np.abs(draw(size)) + 0.5}


def dense(name, inputs, outputs):
    return {f"{name}/kernel": draw(inputs, outputs), f"{name}/bias": draw(outputs)}


def keras_norm(name, size):
    its = {f"{name}/{leaf}": draw(size) for leaf in ("beta", "moving_mean")}
    return its | {f"{name}/moving_variance": np.abs(draw(size)) + 0.5}


def computed(found, x):
    """Returns what the head that was taken computes."""
    layout = found.lineage.layout
    named = found.lineage.naming(synthetic.model_of(found.lineage, found.outputs))
    rows = [
        *zip(named["head"], found.lineage.head.rows, strict=True),
        (named["classifier"][0], spec.Conv(1, relu=False)),
    ]
    for unit, row in rows:
        kernel = found.tensors[unit.layer + layout.leaves["linear", "kernel"]]
        kernel = kernel.T if layout.outputs_first else kernel.reshape(kernel.shape[-2:])
        x = x @ kernel + found.tensors[unit.layer + layout.leaves["linear", "bias"]]
        x = np.maximum(x, 0) if row.relu else x
    return x


def apply(x, tensors, name, epsilon=1e-5):
    """Returns what a module of PyTorch computes."""
    if f"{name}.running_var" in tensors:
        scaled = (x - tensors[f"{name}.running_mean"]) / np.sqrt(tensors[f"{name}.running_var"] + epsilon)
        return scaled * tensors[f"{name}.weight"] + tensors[f"{name}.bias"]
    return x @ tensors[f"{name}.weight"].T + tensors.get(f"{name}.bias", 0)


# ---- PyTorch: shapes and names -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["fc", "last_linear", "head.fc", "classifier.1", "dense"])
def test_one_linear_layer_by_any_name(name):
    found = heads.find(linear(name, 1024, 7), GOOGLENET, 1024)
    assert (found.outputs, found.lineage.head, found.notes, found.strays) == (7, spec.NO_HEAD, (), ())
    assert set(found.tensors) == {f"{name}.weight", f"{name}.bias"}


@pytest.mark.parametrize(
    ("modules", "order"),
    [
        ("fc.0:L8 fc.2:L5", "fc.0 relu fc.2"),
        ("fc.10:L16 fc.9:L16", "fc.9 relu fc.10"),  # fc.10 comes after fc.9
        ("fc.0:L8 fc.1:N fc.4:L5", "fc.0 fc.1 relu fc.4"),
        ("fc.0:L8 fc.2:N fc.4:L5", "fc.0 relu fc.2 fc.4"),  # fc.1 is the relu
        ("bn:N fc:L5", "bn fc"),
        ("hidden:L8 bn:N classifier:L5", "hidden bn relu classifier"),  # the order of the file
        ("z:L8 a:L16 m:L5", "z relu a relu m"),
        ("fc:L5 norm:N", "fc norm"),
    ],
)
def test_the_order_of_a_chain(modules, order):
    tensors, size = {}, 16
    for each in modules.split():
        name, _, kind = each.partition(":")
        if kind == "N":
            tensors |= norm(name, size)
        else:
            tensors |= linear(name, size, int(kind[1:]))
            size = int(kind[1:])
    x = draw(3, 16)
    expected = x
    for name in order.split():
        expected = np.maximum(expected, 0) if name == "relu" else apply(expected, tensors, name)
    found = heads.find(tensors, GOOGLENET, 16)
    np.testing.assert_allclose(computed(found, x), expected, rtol=1e-4, atol=1e-5)
    assert ("ReLU between its linear layers is assumed" in str(found.notes)) == ("relu" in order)
    assert ("assumed to be 1e-05" in str(found.notes)) == (":N" in modules)


def test_an_order_that_only_the_shapes_tell():
    tensors = linear("b", 16, 8) | linear("c", 8, 4) | linear("a", 4, 3)
    shuffled = dict(sorted(tensors.items(), reverse=True))
    elements, _ = by_shapes(modules_of(shuffled, TORCH), 16)
    assert [each if isinstance(each, str) else each.name for each in elements] == ["b", "relu", "c", "relu", "a"]


def test_a_layer_without_bias():
    found = heads.find(linear("fc", 16, 3, bias=False), GOOGLENET, 16)
    np.testing.assert_array_equal(found.tensors["fc.bias"], np.zeros(3))
    assert found.notes == ("its fc (16 -> 3) has no bias; zeros stand for it",)


def test_what_belongs_to_no_head_is_a_stray():
    found = heads.find(linear("fc", 16, 3) | {"conv9.weight": draw(3)}, GOOGLENET, 16)
    assert found.strays == ("conv9.weight",)
    assert heads.find({}, GOOGLENET, 16) is None


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        (linear("fc", 64, 3), r"do not lead from the 16 pooled features"),
        (linear("a", 16, 3) | linear("b", 16, 4), "do not lead from the 16"),
        (linear("a", 16, 16) | linear("c", 16, 4) | linear("b", 16, 16), None),  # a, b, c, by name
        ({"conv.weight": draw(4, 16, 3, 3)}, "it has no linear layer"),
        (norm("bn", 16), "do not lead from the 16"),
    ],
)
def test_heads_that_are_not_taken(tensors, words):
    if words is None:
        names = [each.layer for each in heads.find(tensors, GOOGLENET, 16).lineage.naming(None or _model())["head"]]
        assert names == ["a", "b"]
        return
    with pytest.raises(Untaken, match=words):
        heads.find(tensors, GOOGLENET, 16)


def _model():
    return synthetic.model_of(GOOGLENET, 3)


def test_a_chain_behind_an_embedding_is_not_taken():
    faces = synthetic.lineage("facenet_pytorch", "inception_resnet_v1")
    own = faces.naming(synthetic.model_of(faces, 3))["head"]
    found = heads.find(linear("people", 512, 3), faces, 512, own)
    assert found.lineage.head.embedding
    with pytest.raises(Untaken, match="2 linear layers follow last_linear, where one does"):
        heads.find(linear("a", 512, 8) | linear("b", 8, 3), faces, 512, own)


def test_modules():
    modules = modules_of(
        linear("fc", 4, 2) | norm("bn", 3) | {"conv.weight": draw(5, 4, 1, 1), "ln.weight": draw(3), "x": draw(1)},
        TORCH,
    )
    assert [(name, type(each)) for name, each in modules.items()] == [
        ("fc", Linear), ("bn", Norm), ("conv", Linear), ("ln", Other), ("x", Other),
    ]  # fmt: skip
    assert modules["conv"].kernel.shape == (4, 5)
    assert str(modules["bn"]) == "bn (batch norm of 3)"
    slim = modules_of({"Logits/x/weights": draw(1, 1, 8, 1), "Logits/x/biases": draw(1)}, SLIM_1X1)
    assert slim["Logits/x"].kernel.shape == (8, 1)
    assert heads.find({"Logits/x/weights": draw(1, 1, 8, 5)}, SLIM, 8).tensors["Logits/x/weights"].shape == (1, 1, 8, 5)
    assert isinstance(modules_of({"d/kernel": draw(3, 3, 4, 4)}, KERAS)["d"], Other)


# ---- Keras: the layers of the config -------------------------------------------------------------------------------

CONV, RELU = Layer("Conv2D", "conv"), Layer("Activation", "act", ("bn",), "relu")
BODY = (CONV, Layer("BatchNormalization", "bn", ("conv",)), RELU)
POOL = Layer("GlobalAveragePooling2D", "pool", ("act",))


def keras(layers, tensors):
    """Returns the head behind one convolution."""
    body, behind = keras_head.split((*BODY, *layers), 1)
    return heads.find(tensors, XCEPTION, 16, (), behind, body)


def test_a_body_ends_with_its_last_convolution():
    more = (Layer("Conv2D", "head_conv"), POOL)
    assert keras_head.split((*BODY, *more), 1) == (BODY, more)
    assert keras_head.split((*BODY, *more), 2) == ((*BODY, more[0]), (POOL,))
    assert keras_head.split((), 3) == ((), ())


def test_layers_in_the_order_of_the_config():
    layers = (
        POOL,
        Layer("BatchNormalization", "n", ("pool",), epsilon=0.1),
        Layer("Dense", "z", ("n",), "relu"),
        Layer("Dense", "a", ("z",), "softmax"),
    )
    tensors = dense("a", 8, 3) | keras_norm("n", 16) | dense("z", 16, 8)
    found = keras(layers, tensors)
    x = draw(4, 16)
    y = (x - tensors["n/moving_mean"]) / np.sqrt(tensors["n/moving_variance"] + 0.1) + tensors["n/beta"]
    y = np.maximum(y @ tensors["z/kernel"] + tensors["z/bias"], 0) @ tensors["a/kernel"] + tensors["a/bias"]
    np.testing.assert_allclose(computed(found, x), y, rtol=1e-4, atol=1e-5)
    assert found.lineage.head.rows == (spec.Conv(8, norm=False),)
    both = dense("z", 16, 8) | dense("a", 8, 3)
    without_relu = keras((POOL, Layer("Dense", "z", ("pool",)), Layer("Dense", "a", ("z",))), both)
    assert not without_relu.lineage.head.rows[0].relu


def test_a_batch_norm_before_the_pooling():
    """It acts on each channel alone, so it may as well stand behind the average."""
    tensors = keras_norm("bn_1", 16) | dense("d", 16, 3)
    last = Layer("BatchNormalization", "bn_1", ("act",))
    layers = (last, POOL._replace(inputs=("bn_1",)), Layer("Dense", "d", ("pool",)))
    x = draw(4, 16)
    y = (x - tensors["bn_1/moving_mean"]) / np.sqrt(tensors["bn_1/moving_variance"] + 1e-3) + tensors["bn_1/beta"]
    np.testing.assert_allclose(
        computed(keras(layers, tensors), x), y @ tensors["d/kernel"] + tensors["d/bias"], rtol=1e-4, atol=1e-5
    )
    relu = Layer("ReLU", "r", ("bn_1",), "relu")
    with pytest.raises(Untaken, match="belongs to none of its layers"):
        keras((last, relu, POOL._replace(inputs=("r",)), Layer("Dense", "d", ("pool",))), tensors)


def test_one_output_with_a_sigmoid_is_two_classes():
    tensors = dense("d", 16, 1)
    found = keras((POOL, Layer("Dense", "d", ("pool",), "sigmoid")), tensors)
    x = draw(4, 16)
    logits = computed(found, x)
    probability = np.exp(logits[:, 1]) / np.exp(logits).sum(-1)
    z = x @ tensors["d/kernel"][:, 0] + tensors["d/bias"][0]
    np.testing.assert_allclose(probability, 1 / (1 + np.exp(-z)), rtol=1e-5)
    assert found.outputs == 2


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ([Layer("GlobalMaxPooling2D", "p", ("act",)), "d"], r"its layer 'p' \('GlobalMaxPooling2D'\) stands where"),
        ([Layer("Flatten", "f", ("act",)), "d"], r"\('Flatten'\) stands where ours have global average pooling"),
        ([POOL, Layer("Dense", "d", ("pool",), "sigmoid")], "each of its 3 outputs has a sigmoid"),
        ([POOL, Layer("Dense", "d", ("pool",), "relu")], "does not end in a linear layer"),
        ([POOL, Layer("LeakyReLU", "l", ("pool",)), "d"], r"\('LeakyReLU'\) is none that our heads have"),
        ([POOL, Layer("ReLU", "r", ("pool",), "relu with limits"), "d"], "'relu with limits' stands where"),
        ([POOL, Layer("Activation", "r", ("pool",), "relu"), "d"], "'relu' stands where"),
        ([POOL, Layer("Concatenate", "c", ("pool", "other")), "d"], r"reads pool, other: it is no chain"),
        ([POOL, Layer("Dense", "e", ("pool",)), Layer("Dense", "d", ("pool",))], "reads pool: it is no chain"),
        ([POOL, Layer("operation Multiply", "m", ("pool",)), "d"], "'operation Multiply'"),
        ([POOL, Layer("Dense", "lost", ("pool",))], "has no tensors of its kind"),
        ([POOL, Layer("BatchNormalization", "n", ("pool",)), "d"], r"n \(batch norm of 9\) does not fit|fit behind"),
    ],
)
def test_heads_of_keras_that_are_not_taken(layers, words):
    layers = [Layer("Dense", "d", (layers[i - 1].name,)) if each == "d" else each for i, each in enumerate(layers)]
    tensors = dense("d", 16, 3) | (dense("e", 16, 3) if len(layers) > 2 and layers[1].name == "e" else {})
    tensors |= keras_norm("n", 9) if layers[1].name == "n" else {}
    tensors = {} if layers[1].name == "lost" else tensors
    with pytest.raises(Untaken, match=words):
        keras(layers, tensors)


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (Layer("Rescaling", "r"), r"x: its layer 'r' \('Rescaling'\) changes what the network computes"),
        (Layer("Lambda", "mine"), "'mine'"),
        (Layer("operation Multiply", "m"), "'operation Multiply'"),
        (Layer("Activation", "a", (), "gelu"), "has the activation 'gelu'"),
        (Layer("ReLU", "six", (), "relu with limits"), "'relu with limits'"),
        (Layer("Dense", "d"), "'Dense'"),
    ],
)
def test_layers_that_bodies_do_not_have(layer, words):
    from inception_jax.errors import UserError

    with pytest.raises(UserError, match=words):
        keras_head.check_body((CONV, layer), "x")
    keras_head.check_body((*BODY, Layer("Lambda", "block35_1"), Layer("Add", "add")), "x")
