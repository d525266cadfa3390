"""Inception-ResNet-v1 and -v2 (arXiv 1602.07261) as they were released, as tables.

The released v2 is larger than the paper's: stem of v3, more blocks, and a 1x1 convolution before the average.
"""

from __future__ import annotations

from inception_jax.models import inception_v3
from inception_jax.models.inception_v3 import AUX_HEAD, MAX_3X3_S2
from inception_jax.models.inception_v4 import reduction_a
from inception_jax.models.spec import VALID, Block, Conv, Pool, Residual, Row


def block35(n3x3: int, n3x3_double: int) -> Residual:
    """Returns the residual block at 35x35 pixels (figs. 10 and 16)."""
    branches = (
        (Conv(32),),
        (Conv(32), Conv(32, (3, 3))),
        (Conv(32), Conv(n3x3, (3, 3)), Conv(n3x3_double, (3, 3))),
    )
    return Residual((branches,), 0.17, up=True, relu=True)


def block17(n1x1: int, n1x7: int, n7x1: int) -> Residual:
    """Returns the residual block at 17x17 pixels (figs. 11 and 17)."""
    branches = ((Conv(n1x1),), (Conv(128), Conv(n1x7, (1, 7)), Conv(n7x1, (7, 1))))
    return Residual((branches,), 0.10, up=True, relu=True)


def block8(n1x3: int, n3x1: int) -> Residual:
    """Returns the residual block at 8x8 pixels (figs. 13 and 19)."""
    branches = ((Conv(192),), (Conv(192), Conv(n1x3, (1, 3)), Conv(n3x1, (3, 1))))
    return Residual((branches,), 0.20, up=True, relu=True)


def reduction_b(n3x3: int, n3x3_reduce: int, n3x3_double: int) -> Block:
    """Returns the reduction from 17x17 to 8x8 pixels (figs. 12 and 18)."""
    return (
        (Conv(256), Conv(384, (3, 3), 2, VALID)),
        (Conv(256), Conv(n3x3, (3, 3), 2, VALID)),
        (Conv(256), Conv(n3x3_reduce, (3, 3)), Conv(n3x3_double, (3, 3), 2, VALID)),
        (MAX_3X3_S2,),
    )


def repeat(name: str, block: Residual, times: int) -> dict[str, Row | Block]:
    """Returns `times` rows of the same block: `name`_1, `name`_2, ..."""
    return {f"{name}_{i}": block for i in range(1, times + 1)}


def linear(block: Residual) -> Residual:
    """Returns the block that ends the repeats: added whole, and not activated."""
    return block._replace(scale=1.0, relu=False)


V1_BLOCK8 = block8(192, 192)
INCEPTION_RESNET_V1: dict[str, Row | Block] = {
    **inception_v3.STEM,
    "Conv2d_4b_3x3": Conv(256, (3, 3), 2, VALID),  # 35x35x256, in place of the pool of v3
    **repeat("block35", block35(32, 32), 5),
    "Mixed_6a": reduction_a(192, 192, 256, 384),  # 17x17x896
    **repeat("block17", block17(128, 128, 128), 10),
    "Mixed_7a": reduction_b(256, 256, 256),  # 8x8x1792
    **repeat("block8", V1_BLOCK8, 5),
    "Block8": linear(V1_BLOCK8),  # 8x8x1792
}
del INCEPTION_RESNET_V1["MaxPool_5a_3x3"]

V2_BLOCK8 = block8(224, 256)
INCEPTION_RESNET_V2: dict[str, Row | Block] = {
    **inception_v3.STEM,
    "Mixed_5b": (  # 35x35x320
        (Conv(96),),
        (Conv(48), Conv(64, (5, 5))),
        (Conv(64), Conv(96, (3, 3)), Conv(96, (3, 3))),
        (Pool("avg"), Conv(64)),
    ),
    **repeat("block35", block35(48, 64), 10),
    "Mixed_6a": reduction_a(256, 256, 384, 384),  # 17x17x1088
    **repeat("block17", block17(192, 160, 192), 20),
    "Mixed_7a": reduction_b(288, 288, 320),  # 8x8x2080
    **repeat("block8", V2_BLOCK8, 9),
    "Block8": linear(V2_BLOCK8),  # 8x8x2080
    "Conv2d_7b_1x1": Conv(1536),  # 8x8x1536
}
V2_AUX = {"block17_20": AUX_HEAD}
