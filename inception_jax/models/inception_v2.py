"""BN-Inception (arXiv 1502.03167) and its TF-slim form, Inception-v2, as tables."""

from __future__ import annotations

import functools
from typing import Literal

from inception_jax.models.spec import Block, Conv, Init, Pool, Row, SeparableConv

MAX_3X3_S2 = Pool("max", 3, 2)
REDUCTION = Init("truncated", 0.09)  # TF-slim's 1x1 convolutions in front of others
PROJECTION = Init("truncated", 0.1)  # and those behind pools


def module(
    n1x1: int,
    n3x3_reduce: int,
    n3x3: int,
    double_reduce: int,
    double: int,
    pool_proj: int,
    pool: Literal["max", "avg"] = "avg",
    *,
    reduction: Init | None = None,
    projection: Init | None = None,
) -> Block:
    """Returns the module whose 5x5 is two 3x3 (appendix, fig. 5)."""
    return (
        (Conv(n1x1),),
        (Conv(n3x3_reduce, init=reduction), Conv(n3x3, (3, 3))),
        (Conv(double_reduce, init=reduction), Conv(double, (3, 3)), Conv(double, (3, 3))),
        (Pool(pool), Conv(pool_proj, init=projection)),
    )


def reduction(
    n3x3_reduce: int, n3x3: int, double_reduce: int, double: int, *, reduce_init: Init | None = None
) -> Block:
    """Returns the module of stride 2: the last rows have it, and the pool keeps all channels of the input."""
    return (
        (Conv(n3x3_reduce, init=reduce_init), Conv(n3x3, (3, 3), 2)),
        (Conv(double_reduce, init=reduce_init), Conv(double, (3, 3)), Conv(double, (3, 3), 2)),
        (MAX_3X3_S2,),
    )


# Figure 5 of the paper. Its 4c and 4d print 576 channels and projections of 128, which make 608; so do the weights.
BN_INCEPTION: dict[str, Row | Block] = {
    "conv1": Conv(64, (7, 7), 2),  # 112x112x64
    "pool1": MAX_3X3_S2,  # 56x56x64
    "conv2_reduce": Conv(64),
    "conv2": Conv(192, (3, 3)),  # 56x56x192
    "pool2": MAX_3X3_S2,  # 28x28x192
    "3a": module(64, 64, 64, 64, 96, 32),  # 28x28x256
    "3b": module(64, 64, 96, 64, 96, 64),  # 28x28x320
    "3c": reduction(128, 160, 64, 96),  # 14x14x576
    "4a": module(224, 64, 96, 96, 128, 128),  # 14x14x576
    "4b": module(192, 96, 128, 96, 128, 128),  # 14x14x576
    "4c": module(160, 128, 160, 128, 160, 128),  # 14x14x608
    "4d": module(96, 128, 192, 160, 192, 128),  # 14x14x608
    "4e": reduction(128, 192, 192, 256),  # 7x7x1056
    "5a": module(352, 192, 320, 160, 224, 128),  # 7x7x1024
    "5b": module(352, 192, 320, 192, 224, 128, "max"),  # 7x7x1024
}


slim_module = functools.partial(module, reduction=REDUCTION, projection=PROJECTION)
slim_reduction = functools.partial(reduction, reduce_init=REDUCTION)

# The stem is separable, with a bias and no norm; projections of 96 keep the 576 channels that the paper prints.
INCEPTION_V2: dict[str, Row | Block] = {
    "Conv2d_1a_7x7": SeparableConv(64, (7, 7), 2, norm=False, multiplier=8, init=Init("truncated", 1.0)),  # 112x112x64
    "MaxPool_2a_3x3": MAX_3X3_S2,  # 56x56x64
    "Conv2d_2b_1x1": Conv(64, init=PROJECTION),
    "Conv2d_2c_3x3": Conv(192, (3, 3)),  # 56x56x192
    "MaxPool_3a_3x3": MAX_3X3_S2,  # 28x28x192
    "Mixed_3b": slim_module(64, 64, 64, 64, 96, 32),  # 28x28x256
    "Mixed_3c": slim_module(64, 64, 96, 64, 96, 64),  # 28x28x320
    "Mixed_4a": slim_reduction(128, 160, 64, 96),  # 14x14x576
    "Mixed_4b": slim_module(224, 64, 96, 96, 128, 128),  # 14x14x576
    "Mixed_4c": slim_module(192, 96, 128, 96, 128, 128),
    "Mixed_4d": slim_module(160, 128, 160, 128, 160, 96),
    "Mixed_4e": slim_module(96, 128, 192, 160, 192, 96),  # 14x14x576
    "Mixed_5a": slim_reduction(128, 192, 192, 256),  # 7x7x1024
    "Mixed_5b": slim_module(352, 192, 320, 160, 224, 128),  # 7x7x1024
    "Mixed_5c": slim_module(352, 192, 320, 192, 224, 128, "max"),  # 7x7x1024
}
