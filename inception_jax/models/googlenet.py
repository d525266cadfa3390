"""GoogLeNet, Inception-v1 (arXiv 1409.4842), and its variants, as tables."""

from __future__ import annotations

from collections.abc import Callable

from inception_jax.models.spec import (
    AdaptivePool,
    AuxHead,
    Block,
    Conv,
    LocalResponseNorm,
    Pool,
    Row,
)


def inception_v1(n1x1: int, n3x3_reduce: int, n3x3: int, n5x5_reduce: int, n5x5: int, pool_proj: int) -> Block:
    """Returns the module with 1x1 reductions (fig. 2b)."""
    return (
        (Conv(n1x1),),
        (Conv(n3x3_reduce), Conv(n3x3, (3, 3))),
        (Conv(n5x5_reduce), Conv(n5x5, (5, 5))),
        (Pool("max"), Conv(pool_proj)),
    )


def inception_naive(n1x1: int, _n3x3_reduce: int, n3x3: int, _n5x5_reduce: int, n5x5: int, _pool_proj: int) -> Block:
    """Returns the module without reductions (fig. 2a); the pool keeps all its channels, so channels only grow."""
    return (
        (Conv(n1x1),),
        (Conv(n3x3, (3, 3)),),
        (Conv(n5x5, (5, 5)),),
        (Pool("max"),),
    )


def inception_torchvision(n1x1: int, n3x3_reduce: int, n3x3: int, n5x5_reduce: int, n5x5: int, pool_proj: int) -> Block:
    """Returns the module whose "5x5" branch is a 3x3, as in the weights that torchvision and TF-slim publish."""
    return (
        (Conv(n1x1),),
        (Conv(n3x3_reduce), Conv(n3x3, (3, 3))),
        (Conv(n5x5_reduce), Conv(n5x5, (3, 3))),
        (Pool("max"), Conv(pool_proj)),
    )


POOL_3X3_S2 = Pool("max", 3, 2)

STEM: dict[str, Row | Block] = {  # 1409.4842, Table 1 and fig. 3
    "conv1": Conv(64, (7, 7), 2),  # 112x112x64
    "pool1": POOL_3X3_S2,  # 56x56x64
    "norm1": LocalResponseNorm(),
    "conv2_reduce": Conv(64),
    "conv2": Conv(192, (3, 3)),  # 56x56x192
    "norm2": LocalResponseNorm(),
    "pool2": POOL_3X3_S2,  # 28x28x192
}
STEM_BN: dict[str, Row | Block] = {name: row for name, row in STEM.items() if not isinstance(row, LocalResponseNorm)}
STEM_CIFAR: dict[str, Row | Block] = {"conv1": Conv(192, (3, 3))}  # 32x32x192: as many channels as pool2 has

PAPER_AUX = {"4a": AuxHead(), "4d": AuxHead()}
TORCHVISION_AUX = {tap: AuxHead(rows=(AdaptivePool(4), Conv(128))) for tap in PAPER_AUX}


def table1(
    stem: dict[str, Row | Block], module: Callable[..., Block] = inception_v1, pool4: Pool = POOL_3X3_S2
) -> dict[str, Row | Block]:
    """Returns the stem and the nine modules of Table 1; the sizes are those of a 224 pixel image and fig. 2b."""
    return stem | {
        "3a": module(64, 96, 128, 16, 32, 32),  # 28x28x256
        "3b": module(128, 128, 192, 32, 96, 64),  # 28x28x480
        "pool3": POOL_3X3_S2,  # 14x14x480
        "4a": module(192, 96, 208, 16, 48, 64),  # 14x14x512
        "4b": module(160, 112, 224, 24, 64, 64),  # 14x14x512
        "4c": module(128, 128, 256, 24, 64, 64),  # 14x14x512
        "4d": module(112, 144, 288, 32, 64, 64),  # 14x14x528
        "4e": module(256, 160, 320, 32, 128, 128),  # 14x14x832
        "pool4": pool4,  # 7x7x832
        "5a": module(256, 160, 320, 32, 128, 128),  # 7x7x832
        "5b": module(384, 192, 384, 48, 128, 128),  # 7x7x1024
    }


GOOGLENET = table1(STEM)
GOOGLENET_NAIVE = table1(STEM, inception_naive)
GOOGLENET_BN = table1(STEM_BN)
GOOGLENET_GAP = {name: row for name, row in GOOGLENET.items() if name not in ("pool4", "5a", "5b")} | {
    "CAM_conv": Conv(1024, (3, 3)),  # 14x14x1024
}
GOOGLENET_TORCHVISION = table1(STEM_BN, inception_torchvision, pool4=Pool("max", 2, 2))
GOOGLENET_CIFAR = table1(STEM_CIFAR)

# fmt: off
SLIM_NAMES = {  # TF-slim's names; the letters of its modules are one further than the paper's
    "conv1": "Conv2d_1a_7x7", "pool1": "MaxPool_2a_3x3", "conv2_reduce": "Conv2d_2b_1x1", "conv2": "Conv2d_2c_3x3",
    "pool2": "MaxPool_3a_3x3", "pool3": "MaxPool_4a_3x3", "pool4": "MaxPool_5a_2x2",
    "3a": "Mixed_3b", "3b": "Mixed_3c",
    "4a": "Mixed_4b", "4b": "Mixed_4c", "4c": "Mixed_4d", "4d": "Mixed_4e", "4e": "Mixed_4f",
    "5a": "Mixed_5b", "5b": "Mixed_5c",
}
# fmt: on
INCEPTION_V1_SLIM = {SLIM_NAMES[name]: row for name, row in GOOGLENET_TORCHVISION.items()}
