"""Networks of the ONNX Model Zoo, written with the helpers of the package onnx under the names that they have there.

GoogLeNet and Inception v1 (`conv1/7x7_s2_w_0`, a bias beside each kernel) and Inception v2 (`conv1_7x7_s2_w_0`, a batch
norm with its own scale and bias, then a multiplication and an addition by number of channel). The values are random.
"""

import numpy as np
import onnx
from onnx import helper, numpy_helper

from inception_jax.models import spec
from tests.parity.caffe_net import PARTS, STEM

BN_PARTS = {**PARTS, (2, 0): "double_3x3_reduce", (2, 1): "double_3x3_1", (2, 2): "double_3x3_2"}
BN_REDUCTION = {(0, 0): "3x3_reduce", (0, 1): "3x3", **{(1, j): BN_PARTS[2, j] for j in range(3)}}


class ZooGraph:
    """Walks a table and writes nodes and constants, as converters of Caffe2 do."""

    def __init__(self, table, size, classes, *, norm, rounds_up=True, counts_padding=False, seed=0):
        self.rng, self.size, self.classes = np.random.default_rng(seed), size, classes
        self.norm, self.rounds_up, self.counts = norm, rounds_up, counts_padding
        self.nodes, self.constants = [], []
        self.top, self.channels = "data_0", 3
        for name, row in table.items():
            self.row(STEM.get(name, name), row) if isinstance(row, spec.Row) else self.module(name, row)
        self.node("AveragePool", "pool5", kernel_shape=[self.size] * 2, strides=[1, 1])
        shape = self.constant("shape", np.array([0, -1]))
        self.node("Reshape", "flat", shape)
        weight = self.constant("loss3/classifier_w_0", self.random((classes, self.channels), 1 / self.channels))
        bias = self.constant("loss3/classifier_b_0", self.random((classes,), 1))
        self.node("Gemm", "loss3/classifier_1", weight, bias, transB=1)
        self.logits = self.top
        self.node("Softmax", "prob_1")

    def model(self, size, opset=9):
        """Returns the model; its second output are the logits."""
        values = [helper.make_tensor_value_info(name, 1, [1, self.classes]) for name in ("prob_1", self.logits)]
        data = helper.make_tensor_value_info("data_0", 1, [1, 3, size, size])
        graph = helper.make_graph(self.nodes, "inception", [data], values, self.constants)
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], producer_name="onnx-caffe2")
        made.ir_version = 4
        onnx.checker.check_model(made)
        return made

    def random(self, shape, variance):
        return self.rng.normal(0, variance**0.5, shape).astype(np.float32)

    def constant(self, name, array):
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def node(self, op, output, *inputs, bottoms=None, **attributes):
        self.nodes.append(helper.make_node(op, [*(bottoms or [self.top]), *inputs], [output], output, **attributes))
        self.top = output

    def row(self, name, row):
        match row:
            case spec.Conv():
                self.convolution(name, row)
            case spec.Pool():
                self.pool(name, row)
            case spec.LocalResponseNorm():
                self.node("LRN", f"{name}_1", size=5, alpha=1e-4, beta=0.75, bias=1.0)

    def convolution(self, name, row):
        name = name.replace("/", "_") if self.norm else name
        kernel = (row.features, self.channels, *row.kernel)
        inputs = [self.constant(f"{name}_w_0", self.random(kernel, 2 / np.prod(kernel[1:])))]
        if not self.norm:
            inputs.append(self.constant(f"{name}_b_0", self.random(kernel[:1], 0.01)))
        pads = [k // 2 for k in row.kernel] * 2
        self.node("Conv", f"{name}_1", *inputs, kernel_shape=row.kernel, strides=[row.stride] * 2, pads=pads)
        if self.norm:
            self.norm_and_scale(name, row.features)
        self.node("Relu", f"{name}_2")
        self.size = (self.size + pads[0] + pads[2] - row.kernel[0]) // row.stride + 1
        self.channels = row.features

    def norm_and_scale(self, name, features):
        leaves = {"scale": 1, "bias": 0, "mean": 0, "var": 1}
        inputs = [
            self.constant(f"{name}_bn_{leaf}_0", np.float32(around + self.rng.uniform(-0.2, 0.2, features)))
            for leaf, around in leaves.items()
        ]
        self.node("BatchNormalization", f"{name}_bn_1", *inputs, epsilon=1e-5)
        x = self.top
        for op, leaf, around in (("Mul", "w", 1), ("Add", "b", 0)):
            numbers = self.constant(
                f"{name}_bn_sc_{leaf}_0", np.float32(around + self.rng.uniform(-0.2, 0.2, features))
            )
            self.node("Unsqueeze", f"{name}_{leaf}_shaped", bottoms=[numbers], axes=[1, 2])
            self.node(op, f"{name}_bn_sc_{leaf}", bottoms=[x, self.top])
            x = self.top

    def pool(self, name, row):
        high = (row.window - self.size) % row.stride if self.rounds_up else 0
        pads = [1, 1, 1, 1] if row.stride == 1 else [0, 0, high, high]
        counts = {"count_include_pad": 1} if row.kind == "avg" and self.counts else {}
        op = "MaxPool" if row.kind == "max" else "AveragePool"
        self.node(op, f"{name}_1", kernel_shape=[row.window] * 2, strides=[row.stride] * 2, pads=pads, **counts)
        self.size = (self.size + pads[0] + pads[2] - row.window) // row.stride + 1

    def module(self, name, branches):
        bottom, tops, size, channels, total = self.top, [], self.size, self.channels, 0
        parts = PARTS if not self.norm else BN_PARTS if len(branches) == 4 else BN_REDUCTION
        for i, branch in enumerate(branches):
            self.top, self.size, self.channels = bottom, size, channels
            for j, row in enumerate(branch):
                self.row(f"inception_{name}/{parts.get((i, j), 'pool')}", row)
            tops.append(self.top)
            total += self.channels
        self.node("Concat", f"inception_{name}/output_1", bottoms=tops, axis=1)
        self.channels = total
