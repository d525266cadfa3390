"""Inception-v4 (arXiv 1602.07261) as it was released, as a table.

Where the paper's figures draw a 1xn and an nx1 the other way round, the released order stands.
"""

from __future__ import annotations

from inception_jax.models.inception_v3 import AUX_HEAD, MAX_3X3_S2
from inception_jax.models.spec import VALID, Block, Conv, Pool, Row

STEM: dict[str, Row | Block] = {  # fig. 3
    "Conv2d_1a_3x3": Conv(32, (3, 3), 2, VALID),  # 149x149x32
    "Conv2d_2a_3x3": Conv(32, (3, 3), padding=VALID),  # 147x147x32
    "Conv2d_2b_3x3": Conv(64, (3, 3)),  # 147x147x64
    "Mixed_3a": ((MAX_3X3_S2,), (Conv(96, (3, 3), 2, VALID),)),  # 73x73x160
    "Mixed_4a": (  # 71x71x192
        (Conv(64), Conv(96, (3, 3), padding=VALID)),
        (Conv(64), Conv(64, (1, 7)), Conv(64, (7, 1)), Conv(96, (3, 3), padding=VALID)),
    ),
    "Mixed_5a": ((Conv(192, (3, 3), 2, VALID),), (MAX_3X3_S2,)),  # 35x35x384
}

INCEPTION_A: Block = (  # fig. 4
    (Conv(96),),
    (Conv(64), Conv(96, (3, 3))),
    (Conv(64), Conv(96, (3, 3)), Conv(96, (3, 3))),
    (Pool("avg"), Conv(96)),
)
INCEPTION_B: Block = (  # fig. 5
    (Conv(384),),
    (Conv(192), Conv(224, (1, 7)), Conv(256, (7, 1))),
    (Conv(192), Conv(192, (7, 1)), Conv(224, (1, 7)), Conv(224, (7, 1)), Conv(256, (1, 7))),
    (Pool("avg"), Conv(128)),
)
FORK: Block = ((Conv(256, (1, 3)),), (Conv(256, (3, 1)),))
INCEPTION_C: Block = (  # fig. 6
    (Conv(256),),
    (Conv(384), FORK),
    (Conv(384), Conv(448, (3, 1)), Conv(512, (1, 3)), FORK),
    (Pool("avg"), Conv(256)),
)


def reduction_a(k: int, l: int, m: int, n: int) -> Block:  # noqa: E741, the paper's names
    """Returns the reduction from 35x35 to 17x17 pixels (fig. 7, Table 1)."""
    return (
        (Conv(n, (3, 3), 2, VALID),),
        (Conv(k), Conv(l, (3, 3)), Conv(m, (3, 3), 2, VALID)),
        (MAX_3X3_S2,),
    )


REDUCTION_B: Block = (  # fig. 8
    (Conv(192), Conv(192, (3, 3), 2, VALID)),
    (Conv(256), Conv(256, (1, 7)), Conv(320, (7, 1)), Conv(320, (3, 3), 2, VALID)),
    (MAX_3X3_S2,),
)

INCEPTION_V4: dict[str, Row | Block] = {
    **STEM,
    **{f"Mixed_5{letter}": INCEPTION_A for letter in "bcde"},  # 35x35x384
    "Mixed_6a": reduction_a(192, 224, 256, 384),  # 17x17x1024
    **{f"Mixed_6{letter}": INCEPTION_B for letter in "bcdefgh"},  # 17x17x1024
    "Mixed_7a": REDUCTION_B,  # 8x8x1536
    **{f"Mixed_7{letter}": INCEPTION_C for letter in "bcd"},  # 8x8x1536
}
AUX = {"Mixed_6h": AUX_HEAD}
