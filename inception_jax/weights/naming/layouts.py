"""Layouts of parameters in other frameworks: how each tensor is reshaped and transposed into ours."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from inception_jax.weights.naming.names import Names, ParamPath

Shape = tuple[int, ...]


class Slot(NamedTuple):
    """One parameter of ours and the tensor of theirs with the same values.

    ours = theirs.reshape(view).transpose(axes).reshape(our_shape), reversed along axis `flip` if that is given.
    """

    path: ParamPath
    name: str
    our_shape: Shape
    their_shape: Shape
    view: Shape
    axes: Shape
    flip: int | None = None

    def to_ours(self, tensor: np.ndarray) -> np.ndarray:
        """Returns their tensor as ours."""
        ours = tensor.reshape(self.view).transpose(self.axes).reshape(self.our_shape)
        return np.ascontiguousarray(ours if self.flip is None else np.flip(ours, self.flip))

    def to_theirs(self, array: np.ndarray) -> np.ndarray:
        """Returns our array as theirs."""
        array = array if self.flip is None else np.flip(array, self.flip)
        transposed = array.reshape([self.view[axis] for axis in self.axes]).transpose(np.argsort(self.axes))
        return np.ascontiguousarray(transposed.reshape(self.their_shape))


class Unit(NamedTuple):
    """The facts about a unit (see `names`) on which the layout of its parameters depends."""

    names: Names
    multiplier: int = 1  # of a depthwise convolution
    channels: int = 1  # of the activations that a hidden layer reads, flattened
    linear: bool = False  # our 1x1 convolution of pooled features is a linear layer of theirs


class Layout(NamedTuple):
    """How a framework suffixes and orders parameters.

    leaves          suffix by our (sub-module, leaf); the sub-modules are conv, depthwise, pointwise, bn, linear, hidden
    outputs_first   kernels are [outputs, inputs, height, width], and activations are flattened as [C, H, W]; otherwise
                    they are as ours: [height, width, inputs, outputs], and [H, W, C]
    linear_as_conv  linear layers are 1x1 convolutions
    may_lack_scale  files may lack the scale (gamma) of batch norms, which then is one
    """

    leaves: Mapping[tuple[str, str], str]
    outputs_first: bool
    linear_as_conv: bool = False
    may_lack_scale: bool = False

    def slot(self, path: ParamPath, shape: Shape, unit: Unit) -> Slot:
        """Returns the slot of our parameter at `path` (collection, modules, leaf)."""
        module, leaf = path[-2:]
        name = (unit.names.norm if module == "bn" else unit.names.layer) + self.leaves[module, leaf]
        if leaf != "kernel":
            return Slot(path, name, shape, shape, shape, (0,))
        module, inner = ("linear", shape[-2:]) if unit.linear else (module, shape)
        if self.outputs_first:
            view, axes = _outputs_first(module, inner, unit)
            theirs = (view[0], math.prod(view[1:])) if module == "hidden" else view
            return Slot(path, name, shape, theirs, view, axes)
        if module == "depthwise":
            height, width, _, features = shape
            view = (height, width, features // unit.multiplier, unit.multiplier)
        else:
            view = (1, 1, *inner) if module == "linear" and self.linear_as_conv else inner
        return Slot(path, name, shape, view, view, tuple(range(len(view))))


def _outputs_first(module: str, shape: Shape, unit: Unit) -> tuple[Shape, Shape]:
    """Returns view and axes of a kernel whose outputs come first."""
    if module == "hidden":  # they flatten [C, H, W], we flatten [H, W, C]
        inputs, outputs = shape
        size = math.isqrt(inputs // unit.channels)
        return (outputs, unit.channels, size, size), (2, 3, 1, 0)
    if module == "linear":
        return shape[::-1], (1, 0)
    height, width, inputs, outputs = shape
    return (outputs, inputs, height, width), (2, 3, 1, 0)


_TF_NORM = {
    ("bn", "scale"): "gamma",
    ("bn", "bias"): "beta",
    ("bn", "mean"): "moving_mean",
    ("bn", "var"): "moving_variance",
}


def _leaves(separator: str, weight: str, bias: str, modules: tuple[str, ...]) -> dict[tuple[str, str], str]:
    return {
        (module, leaf): separator + name for module in modules for leaf, name in (("kernel", weight), ("bias", bias))
    }


PLAIN = ("conv", "linear", "hidden")
TORCH = Layout(
    _leaves(".", "weight", "bias", PLAIN)
    | {("depthwise", "kernel"): ".conv1.weight", ("pointwise", "kernel"): ".pointwise.weight"}
    | {
        ("bn", "scale"): ".weight",
        ("bn", "bias"): ".bias",
        ("bn", "mean"): ".running_mean",
        ("bn", "var"): ".running_var",
    },
    outputs_first=True,
)
CAFFE = Layout(_leaves("/", "0", "1", PLAIN), outputs_first=True)
SLIM = Layout(
    _leaves("/", "weights", "biases", PLAIN)
    | {("depthwise", "kernel"): "/depthwise_weights", ("pointwise", "kernel"): "/pointwise_weights"}
    | {("pointwise", "bias"): "/biases"}
    | {key: f"/{name}" for key, name in _TF_NORM.items()},
    outputs_first=False,
    may_lack_scale=True,
)
SLIM_1X1 = SLIM._replace(linear_as_conv=True)
KERAS = Layout(
    _leaves("/", "kernel", "bias", PLAIN)
    | {("depthwise", "kernel"): "/depthwise_kernel", ("pointwise", "kernel"): "/pointwise_kernel"}
    | {key: f"/{name}" for key, name in _TF_NORM.items()},
    outputs_first=False,
    may_lack_scale=True,
)
ONNX = TORCH._replace(  # of `readers.onnx_graph`
    leaves={
        **TORCH.leaves,
        ("depthwise", "kernel"): ".depthwise",
        ("pointwise", "kernel"): ".weight",
        ("pointwise", "bias"): ".bias",
    }
)
FROZEN = Layout(
    {
        ("conv", "kernel"): "/conv2d_params",
        ("linear", "kernel"): "/weights",
        ("linear", "bias"): "/biases",
        **{key: f"/{name}" for key, name in _TF_NORM.items()},
    },
    outputs_first=False,
    may_lack_scale=True,
)
NVIDIA = Layout(
    {
        ("conv", "kernel"): ".weight",
        ("linear", "kernel"): ".weight",
        ("linear", "bias"): ".bias",
        ("bn", "scale"): ".gamma",  # which no file has
        ("bn", "bias"): ".beta",
        ("bn", "mean"): ".mean",
        ("bn", "var"): ".var",
    },
    outputs_first=True,
    may_lack_scale=True,
)
