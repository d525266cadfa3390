"""The descendants of GoogLeNet: counts, costs and maps as their papers and originals state them, by `summarize`."""

import jax
import jax.numpy as jnp
import pytest

from inception_jax.describe import summary
from inception_jax.models import zoo
from tests.models import test_googlenet
from tests.selection import networks

# Parameters without and with the auxiliary head, multiply-adds. TF-slim and facenet learn no gains, one for each of the
# channels they normalise; the figures of their originals come with and without, so both are checked.
COUNTS = {
    "inception_v1_slim": (6_624_904 - 7_280, 6_624_904 - 7_280, 1_498_376_192),
    "bn_inception": (11_295_240, 11_295_240, 2_032_600_064),
    "inception_v2": (11_188_224 - 9_888, 11_188_224 - 9_888, 1_934_857_216),
    "inception_v3": (23_834_568, 27_161_264, 5_713_216_096),
    "inception_v3_tf": (23_817_352, 27_161_264 - 18_112, 5_713_216_096),
    "inception_v3_fid": (23_834_568, 23_834_568, 5_713_216_096),
    "inception_v4": (42_679_816, 46_041_586 - 2 * 1_537 + 768, 12_253_974_624),
    "inception_resnet_v1": (24_357_096 - 14_288, 24_357_096 - 14_288, 6_308_597_856),
    "inception_resnet_v2": (55_843_464, 59_213_426 - 2 * 1_537 + 768, 13_155_794_016),
    "xception": (22_855_952, 22_855_952, 8_357_403_496),
    "xception_timm": (22_855_952, 22_855_952, 8_357_403_496),
}
GIGA_MACS = {  # as printed in reference sheets of the originals
    **{"inception_v1_slim": 1.498, "bn_inception": 2.033, "inception_v2": 1.935, "inception_v3": 5.713},
    **{"inception_v4": 12.254, "inception_resnet_v2": 13.156, "xception": 8.357},
}
# All variables of TF-slim's networks without classifier (weights, biases, beta, mean, variance), from its own tests.
SLIM_BASE = {"inception_v1_slim": 5_607_184, "inception_v2": 10_173_112, "inception_v3_tf": 21_802_784}

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
# Height and channels of the endpoints of the networks without figures by row.
SHAPES = {
    "inception_v1_slim": {
        **{"Conv2d_1a_7x7": (112, 64), "MaxPool_2a_3x3": (56, 64), "Conv2d_2b_1x1": (56, 64)},
        **{"Conv2d_2c_3x3": (56, 192), "MaxPool_3a_3x3": (28, 192), "Mixed_3b": (28, 256), "Mixed_3c": (28, 480)},
        **{"MaxPool_4a_3x3": (14, 480), "Mixed_4b": (14, 512), "Mixed_4c": (14, 512), "Mixed_4d": (14, 512)},
        **{"Mixed_4e": (14, 528), "Mixed_4f": (14, 832), "MaxPool_5a_2x2": (7, 832)},
        **{"Mixed_5b": (7, 832), "Mixed_5c": (7, 1024)},
    },
    "bn_inception": {
        **{"conv1": (112, 64), "pool1": (56, 64), "conv2": (56, 192), "pool2": (28, 192)},
        **{"3a": (28, 256), "3b": (28, 320), "3c": (14, 576), "4a": (14, 576), "4b": (14, 576), "4c": (14, 608)},
        **{"4d": (14, 608), "4e": (7, 1056), "5a": (7, 1024), "5b": (7, 1024)},
    },
    "inception_v2": {
        **{"Conv2d_1a_7x7": (112, 64), "MaxPool_2a_3x3": (56, 64), "Conv2d_2b_1x1": (56, 64)},
        **{"Conv2d_2c_3x3": (56, 192), "MaxPool_3a_3x3": (28, 192), "Mixed_3b": (28, 256), "Mixed_3c": (28, 320)},
        **{"Mixed_4a": (14, 576), "Mixed_4b": (14, 576), "Mixed_4c": (14, 576), "Mixed_4d": (14, 576)},
        **{"Mixed_4e": (14, 576), "Mixed_5a": (7, 1024), "Mixed_5b": (7, 1024), "Mixed_5c": (7, 1024)},
    },
    "inception_resnet_v1": {
        **{name: row[:2] for name, row in STEM_V3.items() if name != "MaxPool_5a_3x3"},
        "Conv2d_4b_3x3": (35, 256),
        **{f"block35_{i}": (35, 256) for i in range(1, 6)},
        "Mixed_6a": (17, 896),
        **{f"block17_{i}": (17, 896) for i in range(1, 11)},
        "Mixed_7a": (8, 1792),
        **{f"block8_{i}": (8, 1792) for i in range(1, 6)},
        "Block8": (8, 1792),
    },
    "inception_v3_fid": {name: row[:2] for name, row in ROWS["inception_v3"].items() if name[0] in "CM"}
    | {"pool3": (1, 2048)},
}


def test_every_model_of_the_zoo_is_counted():
    assert {**COUNTS, **test_googlenet.COUNTS}.keys() == set(zoo.list_models())
    assert COUNTS.keys() == {**ROWS, **SHAPES}.keys() | {"inception_v3_tf", "xception_timm"}  # these as their relatives


@pytest.mark.parametrize("name", COUNTS)
def test_parameters_and_multiply_adds(name):
    totals = summary.summarize(name).totals
    assert (totals["params"], totals["params_with_aux"], totals["macs"]) == COUNTS[name]
    assert totals["params"] == totals["weights"] + totals["biases"] + totals["norm"]
    if name in GIGA_MACS:
        assert round(totals["macs"] / 1e9, 3) == GIGA_MACS[name]


@pytest.mark.parametrize("name", networks(name for name in COUNTS if zoo.MODELS[name].aux_heads))
def test_without_its_head_a_network_has_its_other_parameters_only(name):
    model = zoo.create_model(name, aux=False)
    shapes = jax.eval_shape(lambda key: model.init(key, jnp.zeros((1, 75, 75, 3))), jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == COUNTS[name][0]


@pytest.mark.parametrize("name", SLIM_BASE)
def test_variables_of_slim_without_the_classifier(name):
    rows = [row for row in summary.summarize(name).rows if row.name != "linear"]
    assert sum(row.params + 2 * row.norm for row in rows) == SLIM_BASE[name]  # as many means and variances as betas


@pytest.mark.parametrize("name", ROWS)
def test_rows(name):
    found = summary.summarize(name)
    rows = {row.name: row for row in (*found.rows, *found.aux) if row.kind not in ("dropout", "average pool")}
    if name != "inception_v3":
        rows = {key: row for key, row in rows.items() if not key.startswith("aux")}
    assert {key: (row.output[0], row.output[2], row.params, row.macs) for key, row in rows.items()} == ROWS[name]
    assert all(row.output[0] == row.output[1] for row in rows.values())


@pytest.mark.parametrize("name", SHAPES)
def test_endpoints(name):
    found = {row.name: (row.output[0], row.output[2]) for row in summary.summarize(name).rows}
    assert {key: shape for key, shape in found.items() if key not in ("pool5", "drop", "linear")} == SHAPES[name]


def test_variants_share_their_endpoints():
    for one, other in (("inception_v3", "inception_v3_tf"), ("xception", "xception_timm")):
        assert [(row.name, row.output, row.macs) for row in summary.summarize(one).rows if row.kind != "dropout"] == [
            (row.name, row.output, row.macs) for row in summary.summarize(other).rows if row.kind != "dropout"
        ]


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (299, (149, 73, 35, 17, 8)),
        (224, (111, 54, 25, 12, 5)),
        (150, (74, 35, 16, 7, 3)),
        (128, (63, 30, 13, 6, 2)),
        (96, (47, 22, 9, 4, 1)),
        (75, (37, 17, 7, 3, 1)),
    ],
)
def test_map_sizes_of_v3(size, expected):
    rows = {row.name: row.output[0] for row in summary.summarize("inception_v3", size, width=0.1, aux=False).rows}
    names = ("Conv2d_1a_3x3", "MaxPool_3a_3x3", "MaxPool_5a_3x3", "Mixed_6a", "Mixed_7a")
    assert tuple(rows[name] for name in names) == expected


def test_depth_counts_layers_on_the_longest_path():
    # Xception: 36 convolutions (1610.02357, section 4) and the classifier; a separable one counts once.
    depths = {
        name: summary.summarize(name).totals["depth"] for name in ("inception_v1_slim", "inception_v3", "xception")
    }
    assert depths == {"inception_v1_slim": 22, "inception_v3": 48, "xception": 37}


def test_forks_residuals_and_separable_convolutions_in_words():
    words = {
        name: {row.name: row.branches for row in (*summary.summarize(name).rows, *summary.summarize(name).aux)}
        for name in ("inception_v3", "inception_resnet_v2", "xception")
    }
    assert words["inception_v3"]["Mixed_7b"] == "320 | 384-(384 | 384) | 448-384-(384 | 384) | 192"
    assert words["inception_v3"]["Mixed_6a"] == "384 | 64-96-96"
    assert words["inception_v3"]["aux Mixed_6e"] == "128-768-1000"
    assert words["inception_resnet_v2"]["block35_1"] == "32 | 32-32 | 32-48-64"
    assert words["xception"]["block2"] == "128-128 + 128"
    assert words["xception"]["block14_sepconv2"] == "2048"


@pytest.mark.parametrize("name", networks(["inception_resnet_v1", "inception_resnet_v2", "xception"]))
@pytest.mark.parametrize("width", [0.05, 0.3])
def test_any_width_keeps_residuals_addable(name, width):
    model = zoo.create_model(name, width=width, aux=False)
    output = jax.eval_shape(lambda key: model.init_with_output(key, jnp.zeros((1, 75, 75, 3)))[0], jax.random.key(0))
    assert output.logits.shape == (1, 1000)
