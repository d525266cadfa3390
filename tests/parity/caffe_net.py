"""A network of ours as Caffe keeps it: a description in text, which no weight file of ours reads, and a .caffemodel.

Layers are named as in BVLC's GoogLeNet.
"""

import numpy as np

from inception_jax.models import spec
from inception_jax.weights.readers import caffe

PARTS = {(0, 0): "1x1", (1, 0): "3x3_reduce", (1, 1): "3x3", (2, 0): "5x5_reduce", (2, 1): "5x5", (3, 1): "pool_proj"}
STEM = {"conv1": "conv1/7x7_s2", "conv2_reduce": "conv2/3x3_reduce", "conv2": "conv2/3x3"}


class CaffeNet:
    """Walks a table and collects `text` and `blobs`: the weight and the bias of each layer, outputs first."""

    def __init__(self, table, params, size):
        self.params, self.blobs = params, {}
        self.text = f'input: "data" input_shape {{ dim: 1 dim: 3 dim: {size} dim: {size} }}\n'
        self.top = "data"
        for name, row in table.items():
            if isinstance(row, spec.Row):
                self.row(STEM.get(name, name), row, params.get(name))
            else:
                self.module(f"inception_{name}", row)
        self.layer("Pooling", "pool5", "pooling_param { pool: AVE global_pooling: true }")
        kernel, bias = (params["classifier"]["linear"][leaf] for leaf in ("kernel", "bias"))
        self.layer("InnerProduct", "loss3/classifier", f"inner_product_param {{ num_output: {bias.size} }}")
        self.blobs["loss3/classifier"] = (kernel.T, bias)

    def layer(self, kind, name, parameters="", bottoms=None, top=None):
        bottoms = "".join(f' bottom: "{bottom}"' for bottom in bottoms or [self.top])
        self.top = top or name
        self.text += f'layer {{ name: "{name}" type: "{kind}"{bottoms} top: "{self.top}" {parameters} }}\n'

    def row(self, name, row, params):
        match row:
            case spec.Conv():
                height, width = row.kernel
                size = f"kernel_h: {height} kernel_w: {width} stride: {row.stride} pad: {height // 2}"
                self.layer("Convolution", name, f"convolution_param {{ num_output: {row.features} {size} }}")
                self.blobs[name] = (params["conv"]["kernel"].transpose(3, 2, 0, 1), params["conv"]["bias"])
                self.layer("ReLU", f"{name}/relu", top=name)
            case spec.Pool():
                pad = 1 if row.stride == 1 else 0
                size = f"kernel_size: {row.window} stride: {row.stride} pad: {pad}"
                self.layer("Pooling", name, f"pooling_param {{ pool: MAX {size} }}")
            case spec.LocalResponseNorm():
                self.layer("LRN", name, "lrn_param { local_size: 5 alpha: 0.0001 beta: 0.75 }")

    def module(self, name, branches):
        bottom, tops = self.top, []
        for i, branch in enumerate(branches):
            self.top = bottom
            for j, row in enumerate(branch):
                self.row(f"{name}/{PARTS.get((i, j), 'pool')}", row, self.params[name].get(f"branch{i + 1}_{j}"))
            tops.append(self.top)
        self.layer("Concat", f"{name}/output", bottoms=tops)

    def caffemodel(self, version):
        """Returns the file of 2014 (V1: blobs of four axes) or of 2015 (V2: blobs with a shape)."""
        net = caffe.classes()["NetParameter"]()
        for name, arrays in self.blobs.items():
            layer = net.layers.add(name=name) if version == 1 else net.layer.add(name=name)
            for array in arrays:
                blob = layer.blobs.add(data=array.astype(np.float32).ravel())
                if version == 2:
                    blob.shape.dim.extend(array.shape)
                else:
                    blob.num, blob.channels, blob.height, blob.width = (1,) * (4 - array.ndim) + array.shape
        return net.SerializeToString()
