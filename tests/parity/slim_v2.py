"""Inception-v2 as TF-slim defines it, line by line in PyTorch: no package has it without TensorFlow."""

import numpy as np
import torch
from torch.nn import functional

from tests.parity import fixtures

MODULES = (  # 1x1, 3x3 reduction, 3x3, double 3x3 reduction, double 3x3, pool and its projection
    (64, 64, 64, 64, 96, "avg", 32),
    (64, 64, 96, 64, 96, "avg", 64),
    (0, 128, 160, 64, 96, "max", 0),
    (224, 64, 96, 96, 128, "avg", 128),
    (192, 96, 128, 96, 128, "avg", 128),
    (160, 128, 160, 128, 160, "avg", 96),
    (96, 128, 192, 160, 192, "avg", 96),
    (0, 128, 192, 192, 256, "max", 0),
    (352, 192, 320, 160, 224, "avg", 128),
    (352, 192, 320, 192, 224, "max", 128),
)


def logits(images, classes):
    """Returns the logits [B, K] of NHWC images under the filling rule, without gains, in float64."""
    x = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    x = functional.conv2d(_same(x, 7, 2, 0.0), _tensor(fixtures.weight((24, 1, 7, 7), 3)), stride=2, groups=3)
    bias = _tensor(0.2 * (fixtures.uniform(64, 2) - 0.5))
    x = functional.relu(functional.conv2d(x, _tensor(fixtures.weight((64, 24, 1, 1))), bias))
    x = _max(x, 2)
    x = _max(_conv(_conv(x, 64, 1), 192, 3), 2)
    for n1x1, reduce, n3x3, double_reduce, double, pool, projection in MODULES:
        stride = 1 if n1x1 else 2
        branches = [_conv(x, n1x1, 1)] if n1x1 else []
        branches.append(_conv(_conv(x, reduce, 1), n3x3, 3, stride))
        branches.append(_conv(_conv(_conv(x, double_reduce, 1), double, 3), double, 3, stride))
        pooled = _max(x, stride) if pool == "max" else functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        branches.append(_conv(pooled, projection, 1) if projection else pooled)
        x = torch.cat(branches, 1)
    bias = _tensor(0.2 * (fixtures.uniform(classes, 2) - 0.5))
    return functional.linear(x.mean((2, 3)), _tensor(fixtures.weight((classes, 1024))), bias).numpy()


def _tensor(values):
    return torch.from_numpy(np.ascontiguousarray(values))


def _same(x, kernel, stride, value):
    borders = []
    for size in (x.shape[3], x.shape[2]):  # torch wants the last axis first
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        borders += [total // 2, total - total // 2]
    return functional.pad(x, borders, value=value)


def _max(x, stride):
    return functional.max_pool2d(_same(x, 3, stride, -np.inf), 3, stride)


def _conv(x, features, kernel, stride=1):
    x = functional.conv2d(
        _same(x, kernel, stride, 0.0), _tensor(fixtures.weight((features, x.shape[1], kernel, kernel))), stride=stride
    )
    beta, mean, var = (fixtures.uniform(features, stream) for stream in (4, 5, 6))
    mean, var, beta = (_tensor(v) for v in (0.2 * (mean - 0.5), 0.8 + 0.4 * var, 0.2 * (beta - 0.5)))
    return functional.relu(functional.batch_norm(x, mean, var, bias=beta, eps=1e-3))
