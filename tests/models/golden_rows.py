"""What is known of every model of the zoo from elsewhere: one row a model, in the order of the zoo.

Figures are those of the papers' tables or of the originals, or worked out by hand from them; none is our own output.
A convolution of k x k from c to n channels with an output of h x w has k k c n weights and h w k k c n multiply-adds.
"""

from typing import NamedTuple


class Golden(NamedTuple):
    """What a model is at 1000 classes and full width.

    Attributes:
      size: pixels of the image that its card states.
      params: parameters without the auxiliary heads.
      params_with_aux: with them.
      macs: multiply-adds of convolutions and linear layers on one image of `size`, without the heads.
      minimum: the smallest image in pixels, without and with the heads.
      heads: the endpoints that auxiliary heads read.
      endpoints: height (= width) and channels of each row of the summary, without the classifier.
    """

    size: int
    params: int
    params_with_aux: int
    macs: int
    minimum: tuple[int, int]
    heads: tuple[str, ...]
    endpoints: dict[str, tuple[int, int]]


# Row: height (= width), channels, parameters and multiply-adds.
STEM_V3 = {
    "Conv2d_1a_3x3": (149, 32, 928, 19_181_664),
    "Conv2d_2a_3x3": (147, 32, 9_280, 199_148_544),
    "Conv2d_2b_3x3": (147, 64, 18_560, 398_297_088),
    "MaxPool_3a_3x3": (73, 64, 0, 0),
    "Conv2d_3b_1x1": (73, 80, 5_280, 27_284_480),
    "Conv2d_4a_3x3": (71, 192, 138_624, 696_867_840),
    "MaxPool_5a_3x3": (35, 192, 0, 0),
}
ROWS = {
    "inception_v3": STEM_V3
    | {
        "Mixed_5b": (35, 256, 255_904, 312_345_600),
        "Mixed_5c": (35, 288, 277_472, 338_688_000),
        "Mixed_5d": (35, 288, 285_152, 348_096_000),
        "Mixed_6a": (17, 768, 1_153_280, 401_937_408),
        "Mixed_6b": (17, 768, 1_297_408, 374_063_104),
        "Mixed_6c": (17, 768, 1_691_008, 487_702_528),
        "Mixed_6d": (17, 768, 1_691_008, 487_702_528),
        "Mixed_6e": (17, 768, 2_141_952, 617_914_368),
        "Mixed_7a": (8, 1280, 1_698_304, 291_004_416),
        "Mixed_7b": (8, 2048, 5_044_608, 322_437_120),
        "Mixed_7c": (8, 2048, 6_076_800, 388_497_408),
        "linear": (1, 1000, 2_049_000, 2_048_000),
        "aux Mixed_6e": (1, 1000, 3_326_696, 5_683_200),
    },
    "inception_v4": {
        **{name: STEM_V3[name] for name in ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3")},
        "Mixed_3a": (73, 160, 55_488, 294_672_384),
        "Mixed_4a": (71, 192, 189_312, 972_218_368),
        "Mixed_5a": (35, 384, 332_160, 406_425_600),
        **{f"Mixed_5{x}": (35, 384, 317_632, 387_609_600) for x in "bcde"},
        "Mixed_6a": (17, 1024, 2_306_112, 1_097_164_800),
        **{f"Mixed_6{x}": (17, 1024, 2_936_256, 847_264_768) for x in "bcdefgh"},
        "Mixed_7a": (8, 1536, 2_747_392, 511_098_880),
        **{f"Mixed_7{x}": (8, 1536, 4_553_088, 290_979_840) for x in "bcd"},
        "linear": (1, 1000, 1_537_000, 1_536_000),
    },
    "inception_resnet_v2": STEM_V3
    | {
        "Mixed_5b": (35, 320, 268_320, 327_398_400),
        **{f"block35_{i}": (35, 320, 123_168, 149_900_800) for i in range(1, 11)},
        "Mixed_6a": (17, 1088, 2_664_960, 1_398_185_984),
        **{f"block17_{i}": (17, 1088, 1_126_784, 324_937_728) for i in range(1, 21)},
        "Mixed_7a": (8, 2080, 3_880_960, 585_424_896),
        **{f"block8_{i}": (8, 2080, 2_035_424, 130_023_424) for i in range(1, 10)},
        "Block8": (8, 2080, 2_035_424, 130_023_424),
        "Conv2d_7b_1x1": (8, 1536, 3_197_952, 204_472_320),
        "linear": (1, 1000, 1_537_000, 1_536_000),
    },
    "xception": {
        "block1_conv1": (149, 32, 864 + 2 * 32, 19_181_664),
        "block1_conv2": (147, 64, 18_432 + 2 * 64, 398_297_088),
        "block2": (74, 128, 35_264, 613_262_528),
        "block3": (37, 256, 136_064, 602_097_152),
        "block4": (19, 728, 915_944, 1_060_088_600),
        **{f"block{i}": (19, 728, 1_613_976, 581_068_488) for i in range(5, 13)},
        "block13": (10, 1024, 2_039_584, 539_717_360),
        "block14_sepconv1": (10, 1536, 1_582_080 + 2 * 1536, 158_208_000),
        "block14_sepconv2": (10, 2048, 3_159_552 + 2 * 2048, 315_955_200),
        "linear": (1, 1000, 2_049_000, 2_048_000),
    },
}


def _shapes(rows: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, int]]:
    """Returns height and channels of rows, without the classifier and the heads."""
    return {name: (row[0], row[1]) for name, row in rows.items() if name != "linear" and not name.startswith("aux ")}


# fmt: off
STEM = {"conv1": (112, 64), "pool1": (56, 64), "conv2": (56, 192), "pool2": (28, 192)}
STEM_LRN = {
    "conv1": (112, 64), "pool1": (56, 64), "norm1": (56, 64),
    "conv2": (56, 192), "norm2": (56, 192), "pool2": (28, 192),
}
UP_TO_4E = {
    "3a": (28, 256), "3b": (28, 480), "pool3": (14, 480),
    "4a": (14, 512), "4b": (14, 512), "4c": (14, 512), "4d": (14, 528), "4e": (14, 832),
}
BODY = UP_TO_4E | {"pool4": (7, 832), "5a": (7, 832), "5b": (7, 1024)}
GAP = STEM_LRN | UP_TO_4E | {"CAM_conv": (14, 1024)}
CIFAR = {
    "conv1": (32, 192), "3a": (32, 256), "3b": (32, 480), "pool3": (16, 480),
    "4a": (16, 512), "4b": (16, 512), "4c": (16, 512), "4d": (16, 528), "4e": (16, 832),
    "pool4": (8, 832), "5a": (8, 832), "5b": (8, 1024),
}
NAIVE = STEM_LRN | {  # a module adds the outputs of its convolutions; its pool returns all channels of its input
    "3a": (28, 416), "3b": (28, 832), "pool3": (14, 832),
    "4a": (14, 1280), "4b": (14, 1728), "4c": (14, 2176), "4d": (14, 2640), "4e": (14, 3344),
    "pool4": (7, 3344), "5a": (7, 4048), "5b": (7, 4944),
}
SLIM_V1 = {
    "Conv2d_1a_7x7": (112, 64), "MaxPool_2a_3x3": (56, 64), "Conv2d_2b_1x1": (56, 64), "Conv2d_2c_3x3": (56, 192),
    "MaxPool_3a_3x3": (28, 192), "Mixed_3b": (28, 256), "Mixed_3c": (28, 480),
    "MaxPool_4a_3x3": (14, 480), "Mixed_4b": (14, 512), "Mixed_4c": (14, 512), "Mixed_4d": (14, 512),
    "Mixed_4e": (14, 528), "Mixed_4f": (14, 832), "MaxPool_5a_2x2": (7, 832),
    "Mixed_5b": (7, 832), "Mixed_5c": (7, 1024),
}
BN_INCEPTION = STEM | {
    "3a": (28, 256), "3b": (28, 320), "3c": (14, 576), "4a": (14, 576), "4b": (14, 576), "4c": (14, 608),
    "4d": (14, 608), "4e": (7, 1056), "5a": (7, 1024), "5b": (7, 1024),
}
SLIM_V2 = {
    "Conv2d_1a_7x7": (112, 64), "MaxPool_2a_3x3": (56, 64), "Conv2d_2b_1x1": (56, 64), "Conv2d_2c_3x3": (56, 192),
    "MaxPool_3a_3x3": (28, 192), "Mixed_3b": (28, 256), "Mixed_3c": (28, 320),
    "Mixed_4a": (14, 576), "Mixed_4b": (14, 576), "Mixed_4c": (14, 576), "Mixed_4d": (14, 576), "Mixed_4e": (14, 576),
    "Mixed_5a": (7, 1024), "Mixed_5b": (7, 1024), "Mixed_5c": (7, 1024),
}
RESNET_V1 = {name: shape for name, shape in _shapes(STEM_V3).items() if name != "MaxPool_5a_3x3"} | {
    "Conv2d_4b_3x3": (35, 256),
    **{f"block35_{i}": (35, 256) for i in range(1, 6)},
    "Mixed_6a": (17, 896),
    **{f"block17_{i}": (17, 896) for i in range(1, 11)},
    "Mixed_7a": (8, 1792),
    **{f"block8_{i}": (8, 1792) for i in range(1, 6)},
    "Block8": (8, 1792),
}
# fmt: on
V3 = _shapes(ROWS["inception_v3"])
V4 = _shapes(ROWS["inception_v4"])
RESNET_V2 = _shapes(ROWS["inception_resnet_v2"])
XCEPTION = _shapes(ROWS["xception"])
PAPER_HEADS = ("4a", "4d")

# TF-slim and facenet learn no scale (gamma), one number for each channel they normalise; the figures of their originals
# come with and without, so the differences stand here.
GOLDEN = {
    "googlenet": Golden(224, 6_998_552, 13_378_280, 1_582_671_872, (31, 79), PAPER_HEADS, STEM_LRN | BODY),
    # By hand: a block of c inputs has c (n1x1 + 9 n3x3 + 25 n5x5) weights and c + n1x1 + n3x3 + n5x5 outputs.
    "googlenet_naive": Golden(224, 97_526_008, 104_274_376, 12_568_061_056, (31, 79), PAPER_HEADS, NAIVE),
    "googlenet_bn": Golden(224, 7_005_832, 13_385_816, 1_582_671_872, (31, 79), PAPER_HEADS, STEM | BODY),
    # googlenet less 5a and 5b (Table 1, with biases), and 9*832*1024 weights and 1024 biases of a 3x3 convolution.
    "googlenet_gap": Golden(224, 12_179_752, 18_559_480, 2_963_766_272, (15, 79), PAPER_HEADS, GAP),
    "googlenet_torchvision": Golden(224, 6_624_904, 13_004_888, 1_498_376_192, (15, 15), PAPER_HEADS, STEM | BODY),
    # googlenet_bn: the stem is 3*3*3*192 weights and 192 scales and biases; the other 7_005_832 - 124_736 stay. Its
    # feature maps of 32, 16 and 8 pixels are (32 / 28)^2 times as large.
    "googlenet_cifar": Golden(32, 6_886_664, 13_266_648, 1_448_255_488, (4, 10), PAPER_HEADS, CIFAR),
    "inception_v1_slim": Golden(224, 6_624_904 - 7_280, 6_624_904 - 7_280, 1_498_376_192, (1, 1), (), SLIM_V1),
    "bn_inception": Golden(224, 11_295_240, 11_295_240, 2_032_600_064, (31, 31), (), BN_INCEPTION),
    "inception_v2": Golden(224, 11_188_224 - 9_888, 11_188_224 - 9_888, 1_934_857_216, (1, 1), (), SLIM_V2),
    "inception_v3": Golden(299, 23_834_568, 27_161_264, 5_713_216_096, (75, 299), ("Mixed_6e",), V3),
    "inception_v3_tf": Golden(299, 23_817_352, 27_161_264 - 18_112, 5_713_216_096, (75, 299), ("Mixed_6e",), V3),
    "inception_v3_fid": Golden(299, 23_834_568, 23_834_568, 5_713_216_096, (75, 75), (), V3 | {"pool3": (1, 2048)}),
    "inception_v4": Golden(299, 42_679_816, 46_041_586 - 2 * 1_537 + 768, 12_253_974_624, (75, 299), ("Mixed_6h",), V4),
    "inception_resnet_v1": Golden(
        299, 24_357_096 - 14_288, 24_357_096 - 14_288, 6_308_597_856, (75, 75), (), RESNET_V1
    ),
    "inception_resnet_v2": Golden(
        299, 55_843_464, 59_213_426 - 2 * 1_537 + 768, 13_155_794_016, (75, 299), ("block17_20",), RESNET_V2
    ),
    "xception": Golden(299, 22_855_952, 22_855_952, 8_357_403_496, (7, 7), (), XCEPTION),
    "xception_timm": Golden(299, 22_855_952, 22_855_952, 8_357_403_496, (7, 7), (), XCEPTION),
}
