"""What `create_model` and a model are given: wrong values are one sentence each; reprs are one line."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from inception_jax.models import arguments, spec, zoo

TABLE = {"c": spec.Conv(4, (3, 3)), "b": spec.Conv(4)}


@pytest.fixture(scope="module")
def model():
    return zoo.create_model("googlenet_cifar", 5, aux=False, dropout=0.5).clone(table=TABLE)


@pytest.fixture(scope="module")
def variables(model):
    return jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ({"dtype": "int8"}, "dtype is 'int8'; it must be one of bfloat16, float16, float32, float64."),
        ({"dtype": "no"}, "dtype is 'no'; it must be one of bfloat16, float16, float32, float64."),
        ({"dtype": None}, "dtype is None; it must be one of bfloat16, float16, float32, float64."),
        ({"num_classes": 10.5}, "num_classes is 10.5; it must be a whole number of at least 0."),
        ({"num_classes": True}, "num_classes is True; it must be a whole number of at least 0."),
        ({"num_classes": "10"}, "num_classes is '10'; it must be a whole number of at least 0."),
        ({"num_classes": -1}, "num_classes is -1; it must be at least 0."),
        ({"width": "a"}, "width is 'a'; it must be a number above 0."),
        ({"width": True}, "width is True; it must be a number above 0."),
        ({"width": float("inf")}, "width is inf; it must be a number above 0."),
        ({"width": 0}, "width is 0; it must be above 0."),
        ({"aux": 3}, "aux is 3; it must be True or False."),
        ({"dropout": 1.0}, "dropout is 1.0; it must be at least 0 and below 1."),
        ({"dropout": "half"}, "dropout is 'half'; it must be a number of at least 0 and below 1."),
        ({"bn_group_size": 2.5}, "bn_group_size is 2.5; it must be a whole number of at least 1."),
    ],
    ids=str,
)
def test_wrong_arguments_of_create_model(argument, said):
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        zoo.create_model("googlenet_cifar", **argument)


def test_numbers_of_numpy_are_numbers():
    arguments = {"num_classes": np.int64(7), "width": np.float32(0.5), "aux": np.True_, "bn_group_size": np.int32(2)}
    model = zoo.create_model("googlenet_cifar", dtype=np.dtype("float32"), dropout=np.float64(0.25), **arguments)
    plain = zoo.create_model("googlenet_cifar", 7, "float32", True, width=0.5, dropout=0.25, bn_group_size=2)
    assert (model.num_classes, model.dropout, model.bn_group_size) == (7, 0.25, 2)
    assert type(model.num_classes) is int
    assert (model.table, model.aux_heads) == (plain.table, plain.aux_heads)


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (
            np.zeros((2, 3, 8, 8), "float32"),
            r"float32\[2, 3, 8, 8\]; this looks like NCHW: jnp.moveaxis\(images, 1, -1\)",
        ),
        (np.zeros((2, 8, 8, 1), "float32"), r"\[B, H, W, 3\] \(NHWC\), not float32\[2, 8, 8, 1\]\."),
        (np.zeros((8, 8, 3), "float32"), r"not float32\[8, 8, 3\]; one image is a batch of one: images\[None\]"),
        (np.zeros((8, 3), "float32"), r"not float32\[8, 3\]\."),
        (np.zeros((2, 8, 8, 3), "uint8"), r"not uint8\[2, 8, 8, 3\]; the model's card says how pixels are normalised"),
        ([[1.0]], "not a list"),
    ],
    ids=["NCHW", "grey", "one image", "rank 2", "integers", "list"],
)
def test_wrong_images(model, variables, images, said):
    with pytest.raises(ValueError, match=said):
        jax.eval_shape(lambda variables: model.apply(variables, images), variables)


def test_what_training_needs_is_said(model, variables):
    images, key = jnp.zeros((2, 8, 8, 3)), jax.random.key(0)

    def train(variables, **given):
        return jax.eval_shape(lambda images: model.apply(variables, images, train=True, **given), images)

    for said, given in (
        ("needs mutable: model.apply", {}),
        ("needs mutable: model.apply", {"rngs": {"dropout": key}}),
        (r'needs rngs: model.apply\(.*rngs=\{"dropout": key\}', {"mutable": ["batch_stats"]}),
    ):
        with pytest.raises(ValueError, match=said):
            train(variables, **given)
    both = {"mutable": ["batch_stats"], "rngs": {"dropout": key}}
    with pytest.raises(ValueError, match="hold no batch_stats of c/bn: pass what `init` returned"):
        train({"params": variables["params"]}, **both)
    output, updated = train(variables, **both)
    assert output.logits.shape == (2, 5)
    assert set(updated) == {"batch_stats"}


def test_reprs_are_a_line(model, variables):
    assert repr(model) == (
        "InceptionNet('googlenet_cifar', num_classes=5, dtype='float32', aux=(), dropout=0.5, rows=2)"
    )
    features = zoo.create_model("googlenet_bn", dtype=jnp.bfloat16, features_only=("3b", "4e"), freeze="backbone")
    assert "dtype='bfloat16'" in repr(features)
    assert "features=('3b', '4e'), frozen_up_to='4e'" in repr(features)
    output = jax.eval_shape(model.apply, variables, jnp.zeros((2, 8, 8, 3)))
    assert repr(output) == (
        "ModelOutput(logits=float32[2, 5], aux={}, endpoints={'c': float32[2, 8, 8, 4], 'b': float32[2, 8, 8, 4]}, "
        "pooled=float32[2, 4], embedding=float32[2, 0])"
    )
    assert repr(jax.tree.map(lambda leaf: 1, output)) == (
        "ModelOutput(logits=int, aux={}, endpoints={'c': int, 'b': int}, pooled=int, embedding=int)"
    )
    assert arguments.described(None) == "NoneType"
