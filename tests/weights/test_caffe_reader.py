"""Files of Caffe, byte by byte."""

import struct

import numpy as np
import pytest

from inception_jax.errors import UserError
from inception_jax.weights.readers import read_tensors
from tests.weights.small_files import BIAS, KERNEL, assert_equal, truncations

pytestmark = pytest.mark.usefixtures("in_process")


def varint(value):
    low, rest = value & 127, value >> 7
    return bytes([low | 128]) + varint(rest) if rest else bytes([low])


def field(number, payload):
    """Returns a field of the wire format: a number as varint, bytes with their length."""
    if isinstance(payload, int):
        return varint(number << 3) + varint(payload)
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def floats(array, code="f"):
    return struct.pack(f"<{array.size}{code}", *array.ravel())


def blob(array):
    return field(7, field(1, b"".join(map(varint, array.shape)))) + field(5, floats(array))


def old_blob(array):
    """Returns a blob with four axes, as of 2014."""
    return b"".join(field(i, size) for i, size in enumerate(array.shape, start=1)) + field(5, floats(array))


def net_v1(*layers):
    """Returns a net of V1 layers, with the fields around the weights that real ones have."""
    return field(1, b"GoogLeNet") + b"".join(
        field(2, field(2, b"data") + field(4, name.encode()) + field(5, 4) + b"".join(field(6, x) for x in blobs))
        for name, *blobs in layers
    )


def net_v2(*layers):
    return field(1, b"net") + b"".join(
        field(100, field(1, name.encode()) + field(2, b"Convolution") + b"".join(field(7, x) for x in blobs))
        for name, *blobs in layers
    )


def test_caffe_of_2014(tmp_path):
    path = tmp_path / "x.caffemodel"
    kernel, bias = KERNEL.transpose(3, 2, 0, 1), BIAS.reshape(1, 1, 1, 4)
    path.write_bytes(net_v1(("data",), ("conv1/7x7_s2", old_blob(kernel) + field(6, bytes(4)), old_blob(bias))))
    assert_equal(read_tensors(path), {"conv1/7x7_s2/0": kernel, "conv1/7x7_s2/1": bias})


def test_caffe_since_2015(tmp_path):
    path = tmp_path / "x.caffemodel"
    double = field(7, field(1, varint(2) + varint(2))) + field(8, floats(BIAS, "d"))
    scalar = field(7, b"") + field(5, floats(np.float32([7])))
    path.write_bytes(net_v2(("fc", blob(KERNEL[0, 0]), double, scalar), ("relu",)))
    expected = {"fc/0": KERNEL[0, 0], "fc/1": BIAS.reshape(2, 2).astype(np.float64), "fc/2": np.array(7, np.float32)}
    assert_equal(read_tensors(path), expected)


def test_caffe_that_is_wrong(tmp_path):
    path = tmp_path / "x.caffemodel"
    path.write_bytes(net_v2(("fc", field(7, field(1, varint(5))) + field(5, floats(BIAS)))))
    with pytest.raises(UserError, match=r"'fc/0' has 4 values and the shape \(5,\)"):
        read_tensors(path)
    path.write_bytes(net_v2(("fc", blob(BIAS)), ("fc", blob(BIAS))))
    with pytest.raises(UserError, match="holds 'fc/0' twice"):
        read_tensors(path)
    for data in truncations(net_v2(("fc", blob(KERNEL)))):
        path.write_bytes(data)
        with pytest.raises(UserError, match="of Caffe, but it"):
            read_tensors(path)
