"""Writes GraphDef, the protocol buffer of frozen TensorFlow graphs, byte by byte."""

import struct

import numpy as np

from tests.weights.test_caffe_reader import field, varint


def constant(name, array, as_content=True, shape=None):
    """Returns a node Const: its values are bytes, as TensorFlow writes them, or a list of numbers.

    `shape` is stated in place of the true one.
    """
    array = np.asarray(array)
    kinds = {"float32": 1, "float64": 2, "int32": 3}
    shape = b"".join(field(2, field(1, n)) for n in shape or array.shape)
    if as_content:
        values = field(4, array.tobytes())
    else:
        number = {"float32": 5, "float64": 6, "int32": 7}[array.dtype.name]
        values = field(number, array.tobytes())
    tensor = field(1, kinds[array.dtype.name]) + field(2, shape) + values
    return node(name, "Const", value=field(8, tensor))


def node(name, op, *inputs, **attributes):
    """Returns a node as a field of GraphDef; attributes are encoded values, or numbers and truth values."""
    body = field(1, name.encode()) + field(2, op.encode()) + b"".join(field(3, each.encode()) for each in inputs)
    for key, value in attributes.items():
        if isinstance(value, bool):
            value = field(5, int(value))
        elif isinstance(value, float):
            value = varint(4 << 3 | 5) + struct.pack("<f", value)
        body += field(5, field(1, key.encode()) + field(2, value))
    return field(1, body)


def convolution(name, kernel, beta, mean, variance, gamma, scaled=False, epsilon=0.001):
    """Returns the nodes of a convolution and its batch norm, as the graph of 2015 has them."""
    norm = f"{name}/batchnorm"
    leaves = {"beta": beta, "gamma": gamma, "moving_mean": mean, "moving_variance": variance}
    inputs = [f"{name}/Conv2D", *(f"{norm}/{leaf}" for leaf in ("moving_mean", "moving_variance", "beta", "gamma"))]
    return (
        constant(f"{name}/conv2d_params", kernel)
        + node(f"{name}/Conv2D", "Conv2D", "input", f"{name}/conv2d_params")
        + b"".join(constant(f"{norm}/{leaf}", array) for leaf, array in leaves.items())
        + node(
            norm,
            "BatchNormWithGlobalNormalization",
            *inputs,
            variance_epsilon=epsilon,
            scale_after_normalization=scaled,
        )
    )
