"""Frozen TensorFlow graphs, byte by byte."""

import numpy as np
import pytest

from inception_jax.errors import UserError
from inception_jax.weights.readers import read_content, read_tensors
from tests.weights.graph_def import constant, convolution, node
from tests.weights.small_files import BIAS, KERNEL, assert_equal, truncations

pytestmark = pytest.mark.usefixtures("in_process")
NORM = [BIAS + i for i in range(4)]  # beta, mean, variance, gamma


def test_constants_of_a_graph(tmp_path):
    """What are arguments of operators stays out: numbers without dimensions, and integers."""
    path = tmp_path / "x.pb"
    path.write_bytes(
        constant("softmax/weights", KERNEL[0, 0])
        + constant("listed", BIAS, as_content=False)
        + constant("Sub/y", np.float32(128))
        + constant("pool_3/_reshape/shape", np.array([-1, 2048], np.int32))
        + node("Sub", "Sub", "images", "Sub/y")
    )
    assert_equal(read_tensors(path), {"softmax/weights": KERNEL[0, 0], "listed": BIAS})


@pytest.mark.parametrize("scaled", [False, True])
def test_a_scale_that_the_norm_does_not_use_is_no_weight(tmp_path, scaled):
    path = tmp_path / "x.pb"
    path.write_bytes(convolution("mixed/conv", KERNEL, *NORM, scaled=scaled, epsilon=0.002))
    content = read_content(path)
    names = ["conv2d_params", "batchnorm/beta", "batchnorm/gamma", "batchnorm/moving_mean", "batchnorm/moving_variance"]
    assert [name.removeprefix("mixed/conv/") for name in content.tensors] == [
        name for name in names if scaled or "gamma" not in name
    ]
    np.testing.assert_array_equal(content.tensors["mixed/conv/batchnorm/moving_variance"], NORM[2])
    assert content.statement.epsilon == 0.002


def test_one_number_stands_for_all(tmp_path):
    path = tmp_path / "x.pb"
    path.write_bytes(constant("sevens", np.float32([7]), as_content=False, shape=(2, 3)))
    assert_equal(read_tensors(path), {"sevens": np.full((2, 3), 7, np.float32)})


def test_graphs_that_are_wrong(tmp_path):
    path = tmp_path / "x.pb"

    def refused(data, words):
        path.write_bytes(data)
        with pytest.raises(UserError, match=words) as caught:
            read_tensors(path)
        assert "\n" not in str(caught.value)

    whole = constant("a", KERNEL)
    refused(whole + whole, "holds 'a' twice")
    refused(node("a", "Const"), "holds no tensors")
    refused(convolution("a", KERNEL, *NORM) + convolution("b", KERNEL, *NORM, epsilon=0.1), r"epsilons, \[0.001, 0.1\]")
    refused(constant("a", BIAS, shape=(3,)), r"'a' has 4 values and the shape \(3,\)")
    refused(constant("a", BIAS, shape=(5,)), r"'a' claims the shape \(5,\), 20 bytes, and the file holds 16")
    refused(constant("a", BIAS, as_content=False, shape=(5,)), r"'a' has 4 values and the shape")
    for data in truncations(whole):
        refused(data, "of TensorFlow graphs, but it")


def test_a_shape_without_values_is_refused_before_it_is_allocated(tmp_path):
    path = tmp_path / "x.pb"
    path.write_bytes(constant("a", np.float32([1]), as_content=False, shape=(1 << 40,)))
    with pytest.raises(UserError, match="makes too much"):
        read_tensors(path)
