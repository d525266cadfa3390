"""Files of Keras, written with h5py: names of Keras 1 and 2, numbers of Keras 3, and live models."""

import dataclasses
import json
import types

import h5py
import ml_dtypes
import numpy as np
import pytest

from inception_jax.errors import UserError
from inception_jax.weights.readers import Statement, read_content, read_tensors
from inception_jax.weights.readers.statement import Layer
from tests.weights.small_files import BIAS, KERAS_2, KERAS_3, KERNEL, archive, assert_equal, write_named, write_numbered

pytestmark = pytest.mark.usefixtures("in_process")

# ---- Names ---------------------------------------------------------------------------------------------------------

NAMED = {
    "conv2d_2/kernel": KERNEL,
    "conv2d_2/bias": BIAS,
    "bn/gamma": BIAS,
    "bn/beta": BIAS + 1,
    "bn/moving_mean": BIAS + 2,
    "bn/moving_variance": BIAS + 3,
    "conv2d_1/kernel": 2 * KERNEL,
}


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("group", ["/", "/model_weights"])
def test_keras_2_in_the_order_of_the_file(tmp_path, group, parts):
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        write_named(file.require_group(group), KERAS_2, parts)
    assert_equal(read_tensors(path), NAMED)


def test_a_model_as_a_layer_names_its_own_layers(tmp_path):
    path = tmp_path / "x.h5"
    inner = {"conv2d/kernel:0": KERNEL, "xception/bn/beta:0": BIAS}
    with h5py.File(path, "w") as file:
        write_named(file, {"xception": inner, "dense": {"dense/bias:0": BIAS}})
    assert_equal(read_tensors(path), {"conv2d/kernel": KERNEL, "bn/beta": BIAS, "dense/bias": BIAS})


def test_keras_1(tmp_path):
    path = tmp_path / "x.h5"
    conv, norm = "separableconvolution2d_1", "batchnormalization_3"
    with h5py.File(path, "w") as file:
        write_named(
            file,
            {
                conv: {f"{conv}_depthwise_kernel:0": KERNEL, f"{conv}_pointwise_kernel:0": KERNEL[:1, :1]},
                norm: {f"{norm}_{x}:0": BIAS for x in ("gamma", "beta", "running_mean", "running_std")},
                "dense_2": {"dense_2_W:0": KERNEL[0, 0], "dense_2_b_1:0": BIAS},
            },
        )
    assert list(read_tensors(path)) == [
        f"{conv}/depthwise_kernel",
        f"{conv}/pointwise_kernel",
        *(f"{norm}/{x}" for x in ("gamma", "beta", "moving_mean", "moving_variance")),
        "dense_2/kernel",
        "dense_2/bias",
    ]


def test_two_tensors_of_one_name_are_refused(tmp_path):
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        write_named(file, {"a": {"x/kernel:0": BIAS, "y/x/kernel:0": BIAS}})
    with pytest.raises(UserError, match="it holds 'x/kernel' twice"):
        read_tensors(path)


# ---- Numbers -------------------------------------------------------------------------------------------------------

NUMBERED = {
    "stem/kernel": KERNEL,
    "stem/bias": BIAS,
    "conv2d_7/kernel": 2 * KERNEL,
    "conv2d_1/kernel": 3 * KERNEL,
    "sep/depthwise_kernel": KERNEL,
    "sep/pointwise_kernel": KERNEL[:1, :1],
    "bn/gamma": BIAS,
    "bn/beta": BIAS + 1,
    "bn/moving_mean": BIAS + 2,
    "bn/moving_variance": BIAS + 3,
    "bn_1/beta": BIAS,
    "bn_1/moving_mean": BIAS + 1,
    "bn_1/moving_variance": BIAS + 2,
    **{f"mine/vars/{i}": BIAS + i for i in range(11)},
}


def test_weights_h5_takes_the_names_from_the_file(tmp_path):
    path = tmp_path / "x.weights.h5"
    with h5py.File(path, "w") as file:
        write_numbered(file, KERAS_3)
        write_numbered(file, {"dense": ("head", (BIAS,))}, container="layers/functional/layers")
        file["optimizer/vars/0"] = np.array(1)
    found = read_tensors(path)
    in_order = ["stem/kernel", "conv2d_7/kernel", "conv2d_1/kernel", "head/kernel"]
    assert [name for name in found if "kernel" in name][:4] == in_order
    assert_equal(dict(sorted(found.items())), dict(sorted((NUMBERED | {"head/kernel": BIAS}).items())))


def test_weights_h5_without_names_is_refused(tmp_path):
    path = tmp_path / "x.weights.h5"
    with h5py.File(path, "w") as file:
        write_numbered(file, KERAS_3, named=False)
    with pytest.raises(UserError, match=r"lacks the names of its layers.*or give the model itself"):
        read_tensors(path)


def layer(kind, name, **config):
    return {"class_name": kind, "config": {"name": name} | config}


@pytest.mark.parametrize("container", ["layers", "_layer_checkpoint_dependencies"])
def test_keras_archive_takes_the_names_from_its_config(tmp_path, container):
    path = tmp_path / "x.keras"
    layers = [
        layer("Conv2D", "last"),
        layer("BatchNormalization", "scales", center=False),
        layer("Conv2D", "first"),
        layer("BatchNormalization", "offsets", scale=False),
    ]
    pair = (BIAS, BIAS + 1, BIAS + 2)
    members = {
        "batch_normalization": pair,
        "batch_normalization_1": pair,
        "conv2d": (KERNEL,),
        "conv2d_1": (2 * KERNEL,),
    }
    members = {member: ("", arrays) for member, arrays in members.items()}
    archive(path, {"config": {"layers": layers}}, members, named=False, container=container)
    expected = {"scales/gamma": BIAS, "scales/moving_mean": BIAS + 1, "scales/moving_variance": BIAS + 2}
    expected |= {"offsets/beta": BIAS, "offsets/moving_mean": BIAS + 1, "offsets/moving_variance": BIAS + 2}
    assert_equal(read_tensors(path), expected | {"last/kernel": KERNEL, "first/kernel": 2 * KERNEL})


def test_an_archive_that_contradicts_itself_is_refused(tmp_path):
    path = tmp_path / "x.keras"
    archive(path, {"config": {"layers": [layer("Conv2D", "a")]}}, {"conv2d": ("b", (KERNEL,))})
    with pytest.raises(UserError, match="names 'conv2d' twice, 'a' and 'b'"):
        read_tensors(path)
    config = {"config": {"layers": [layer("BatchNormalization", "bn", scale=True)]}}
    archive(path, config, {"batch_normalization": ("bn", (BIAS, BIAS, BIAS))})
    with pytest.raises(UserError, match="'bn' has 3 variables, not gamma, beta, moving_mean, moving_variance"):
        read_tensors(path)


def test_bfloat16_of_keras(tmp_path):
    path = tmp_path / "x.weights.h5"
    with h5py.File(path, "w") as file:
        write_numbered(file, {"dense": ("d", (BIAS.astype(ml_dtypes.bfloat16),))})
        file["layers/dense/vars/0"].attrs["dtype"] = "bfloat16"
    assert_equal(read_tensors(path), {"d/kernel": BIAS})


def test_a_live_model():
    """Names of variables are "kernel" in Keras 3 and "conv/kernel:0" before."""

    def fake(name, **weights):
        variables = [types.SimpleNamespace(name=variable) for variable in weights]
        return types.SimpleNamespace(name=name, weights=variables, get_weights=lambda: list(weights.values()))

    inner = types.SimpleNamespace(name="inner", layers=[fake("bn", **{"bn/beta:0": BIAS})])
    model = types.SimpleNamespace(name="net", layers=[fake("in"), fake("conv", kernel=KERNEL), inner])
    assert_equal(read_tensors(model), {"conv/kernel": KERNEL, "bn/beta": BIAS})
    model.layers.append(model.layers[1])
    with pytest.raises(UserError, match="The model 'net' cannot be taken: it holds 'conv/kernel' twice"):
        read_tensors(model)


def test_the_error_of_a_library_is_told_in_one_line():
    def fail():
        raise RuntimeError("not built.\nHere is how:\n...")

    layers = [types.SimpleNamespace(name="conv", weights=[], get_weights=fail)]
    with pytest.raises(UserError, match=r"cannot be taken: it cannot be read: not built\.$"):
        read_tensors(types.SimpleNamespace(name="net", layers=layers))


# ---- The layers behind the first convolution, and what they read -----------------------------------------------------


def reads(*names):
    """Returns nodes of Keras 3: one call with these layers."""
    args = [{"class_name": "__keras_tensor__", "config": {"keras_history": [name, 0, 0]}} for name in names]
    return [{"args": [args] if len(args) > 1 else args, "kwargs": {"mask": None}}]


def old_reads(*names):
    """Returns nodes of Keras 2."""
    return [[[name, 0, 0, {}] for name in names]]


@pytest.mark.parametrize("nodes", [reads, old_reads])
def test_layers_read_what_models_and_idle_layers_return(tmp_path, nodes):
    """A model as a layer is replaced by its layers, and a dropout by what it reads."""

    def at(kind, name, *inputs, **config):
        return layer(kind, name, **config) | {"name": name, "inbound_nodes": nodes(*inputs) if inputs else []}

    body = at("InputLayer", "inner"), at("Conv2D", "conv", "inner"), at("ReLU", "relu", "conv", max_value=6)
    inner = at("Functional", "body", "in") | {"config": {"layers": body, "output_layers": [["relu", 0, 0]]}}
    top = {"class_name": "Sequential", "name": "top", "inbound_nodes": nodes("drop")}
    top["config"] = {"layers": [layer("Dense", "a", activation="relu"), layer("Dropout", "d"), layer("Dense", "b")]}
    outer = [
        at("InputLayer", "in", batch_shape=[None, 150, 150, 3]),
        inner,
        at("GlobalAveragePooling2D", "pool", "body"),
        at("Dropout", "drop", "pool"),
        top,
        at("Concatenate", "both", "top", "in"),
        at("BatchNormalization", "bn", "both", epsilon=0.5),
    ]
    path = tmp_path / "x.keras"
    config = {"class_name": "Functional", "config": {"layers": outer}}
    archive(path, config, {"conv2d": ("conv", (KERNEL,))}, named=False, container="layers/functional/layers")
    statement = read_content(path).statement
    assert statement.input_size == (150, 150)
    assert statement.after == (
        Layer("Conv2D", "conv", ("in",)),
        Layer("ReLU", "relu", ("conv",), "relu with limits"),
        Layer("GlobalAveragePooling2D", "pool", ("relu",)),
        Layer("Dense", "a", ("pool",), "relu"),
        Layer("Dense", "b", ("a",)),
        Layer("Concatenate", "both", ("b", "in")),
        Layer("BatchNormalization", "bn", ("both",), epsilon=0.5),
    )
    assert Statement.of_json(json.loads(json.dumps(dataclasses.asdict(statement)))) == statement


def test_the_state_of_an_optimizer_is_left_out(tmp_path):
    path = tmp_path / "x.weights.h5"
    with h5py.File(path, "w") as file:
        write_numbered(file, {"dense": ("d", (BIAS,))})
        file["optimizer/vars/0"] = BIAS
    content = read_content(path)
    assert (set(content.tensors), content.statement.left_out) == ({"d/kernel"}, ("optimizer",))
