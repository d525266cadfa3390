"""Arrays and layers of small files of weights, and what writes and compares them."""

import io
import json
import zipfile

import h5py
import numpy as np

RNG = np.random.default_rng(0)
KERNEL, BIAS = RNG.normal(size=(3, 3, 2, 4)).astype(np.float32), np.arange(4, dtype=np.float32)


def assert_equal(found, expected):
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype, name
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def truncations(data):
    return [data[:n] for n in (1, 4, 9, len(data) // 3, len(data) // 2, len(data) - 40, len(data) - 1)]


def write_named(group, layers, parts=1):
    """Writes {layer: {weight name: array}} as Keras 1 and 2 do; long lists of names are written in parts."""
    names = [name.encode() for name in layers]
    if parts == 1:
        group.attrs["layer_names"] = names
    else:
        for i, part in enumerate(np.array_split(np.array(names), parts)):
            group.attrs[f"layer_names{i}"] = part
    for layer, weights in layers.items():
        member = group.create_group(layer)
        member.attrs["weight_names"] = [name.encode() for name in weights]
        for name, array in weights.items():
            member[name] = array


KERAS_2 = {
    "input_1": {},
    "conv2d_2": {"conv2d_2_1/kernel:0": KERNEL, "conv2d_2_1/bias:0": BIAS},
    "bn": {f"bn/{x}:0": BIAS + i for i, x in enumerate(("gamma", "beta", "moving_mean", "moving_variance"))},
    "conv2d_1": {"conv2d_1/kernel:0": 2 * KERNEL},
}


def write_numbered(file, layers, named=True, container="layers"):
    """Writes {member: (layer name, arrays)} as Keras 3 does."""
    for member, (name, arrays) in layers.items():
        variables = file.create_group(f"{container}/{member}/vars")
        if named:
            variables.attrs["name"] = name
        for i, array in enumerate(arrays):
            variables[str(i)] = array


KERAS_3 = {
    "input_layer": ("in", ()),
    "conv2d": ("stem", (KERNEL, BIAS)),
    "conv2d_2": ("conv2d_7", (2 * KERNEL,)),
    "conv2d_10": ("conv2d_1", (3 * KERNEL,)),
    "separable_conv2d": ("sep", (KERNEL, KERNEL[:1, :1])),
    "batch_normalization": ("bn", (BIAS, BIAS + 1, BIAS + 2, BIAS + 3)),
    "batch_normalization_1": ("bn_1", (BIAS, BIAS + 1, BIAS + 2)),
    "custom": ("mine", [BIAS + i for i in range(11)]),
}


def archive(path, config, layers, **settings):
    weights = io.BytesIO()
    with h5py.File(weights, "w") as file:
        write_numbered(file, layers, **settings)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("config.json", json.dumps(config))
        file.writestr("model.weights.h5", weights.getvalue())
