"""Inception-v3 (arXiv 1512.00567) as it was released, and the variant behind FID, as tables.

The released network is not Table 1 of the paper: its stem pools twice, and its first modules keep a 5x5 branch.
"""

from __future__ import annotations

from typing import Literal

from inception_jax.models.spec import VALID, AdaptivePool, AuxHead, Block, Conv, Init, Pool, Row

MAX_3X3_S2 = Pool("max", 3, 2, VALID)

STEM: dict[str, Row | Block] = {
    "Conv2d_1a_3x3": Conv(32, (3, 3), 2, VALID),  # 149x149x32
    "Conv2d_2a_3x3": Conv(32, (3, 3), padding=VALID),  # 147x147x32
    "Conv2d_2b_3x3": Conv(64, (3, 3)),  # 147x147x64
    "MaxPool_3a_3x3": MAX_3X3_S2,  # 73x73x64
    "Conv2d_3b_1x1": Conv(80),  # 73x73x80
    "Conv2d_4a_3x3": Conv(192, (3, 3), padding=VALID),  # 71x71x192
    "MaxPool_5a_3x3": MAX_3X3_S2,  # 35x35x192
}


def module_35(pool_proj: int) -> Block:
    """Returns the module at 35x35 pixels: the 5x5 branch stays, the other one is two 3x3 (section 3.1, fig. 5)."""
    return (
        (Conv(64),),
        (Conv(48), Conv(64, (5, 5))),
        (Conv(64), Conv(96, (3, 3)), Conv(96, (3, 3))),
        (Pool("avg"), Conv(pool_proj)),
    )


def module_17(n7x7: int) -> Block:
    """Returns the module at 17x17 pixels, where 7x7 is 1x7 and 7x1 (section 3.2, fig. 6)."""
    return (
        (Conv(192),),
        (Conv(n7x7), Conv(n7x7, (1, 7)), Conv(192, (7, 1))),
        (Conv(n7x7), Conv(n7x7, (7, 1)), Conv(n7x7, (1, 7)), Conv(n7x7, (7, 1)), Conv(192, (1, 7))),
        (Pool("avg"), Conv(192)),
    )


def module_8(pool: Literal["max", "avg"] = "avg") -> Block:
    """Returns the module at 8x8 pixels: a 3x3 forks into 1x3 and 3x1, an expanded filter bank (section 6, fig. 7)."""
    fork = ((Conv(384, (1, 3)),), (Conv(384, (3, 1)),))
    return (
        (Conv(320),),
        (Conv(384), fork),
        (Conv(448), Conv(384, (3, 3)), fork),
        (Pool(pool), Conv(192)),
    )


INCEPTION_V3: dict[str, Row | Block] = STEM | {
    "Mixed_5b": module_35(32),  # 35x35x256
    "Mixed_5c": module_35(64),  # 35x35x288
    "Mixed_5d": module_35(64),  # 35x35x288
    "Mixed_6a": (  # 17x17x768: a reduction by convolutions and a pool in parallel (section 5, fig. 10)
        (Conv(384, (3, 3), 2, VALID),),
        (Conv(64), Conv(96, (3, 3)), Conv(96, (3, 3), 2, VALID)),
        (MAX_3X3_S2,),
    ),
    "Mixed_6b": module_17(128),  # 17x17x768
    "Mixed_6c": module_17(160),
    "Mixed_6d": module_17(160),
    "Mixed_6e": module_17(192),
    "Mixed_7a": (  # 8x8x1280
        (Conv(192), Conv(320, (3, 3), 2, VALID)),
        (Conv(192), Conv(192, (1, 7)), Conv(192, (7, 1)), Conv(192, (3, 3), 2, VALID)),
        (MAX_3X3_S2,),
    ),
    "Mixed_7b": module_8(),  # 8x8x2048
    "Mixed_7c": module_8(),  # 8x8x2048
}
# What the FID and the Inception score read (arXiv 1706.08500): a max pool in the last module, features in "pool3".
INCEPTION_V3_FID: dict[str, Row | Block] = INCEPTION_V3 | {"Mixed_7c": module_8("max"), "pool3": AdaptivePool(1)}

# In place of the hidden layer: a 5x5 convolution of the whole 5x5 input, with batch norm (section 4, fig. 8).
AUX_HEAD = AuxHead(
    rows=(Pool("avg", 5, 3, VALID), Conv(128), Conv(768, (5, 5), padding=VALID, init=Init("normal", 0.01))),
    hidden=None,
    dropout=0.0,
    init=Init("normal", 0.001),
    weight=0.4,  # as TF-slim's training script weighs it
)
AUX = {"Mixed_6e": AUX_HEAD}
