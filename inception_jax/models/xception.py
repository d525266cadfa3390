"""Xception (arXiv 1610.02357) as a table; the blocks carry the names of Keras."""

from __future__ import annotations

from inception_jax.models.spec import VALID, Block, Conv, Pool, Relu, Residual, Row, SeparableConv


def reduction(first: int, second: int, *, relu: bool = True) -> Residual:
    """Returns the module of stride 2 (fig. 5): the shortcut takes its input before the leading ReLU."""
    rows = (SeparableConv(first), SeparableConv(second, relu=False), Pool("max", 3, 2))
    return Residual((Relu(), *rows) if relu else rows, shortcut=Conv(second, stride=2, relu=False))


MIDDLE = Residual((Relu(), SeparableConv(728), SeparableConv(728), SeparableConv(728, relu=False)))  # fig. 5

XCEPTION: dict[str, Row | Block] = {
    "block1_conv1": Conv(32, (3, 3), 2, VALID),  # 149x149x32
    "block1_conv2": Conv(64, (3, 3), padding=VALID),  # 147x147x64
    "block2": reduction(128, 128, relu=False),  # 74x74x128
    "block3": reduction(256, 256),  # 37x37x256
    "block4": reduction(728, 728),  # 19x19x728
    **{f"block{i}": MIDDLE for i in range(5, 13)},  # 19x19x728
    "block13": reduction(728, 1024),  # 10x10x1024
    "block14_sepconv1": SeparableConv(1536),  # 10x10x1536
    "block14_sepconv2": SeparableConv(2048),  # 10x10x2048
}
