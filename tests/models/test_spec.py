"""The words of the tables: paddings, output sizes, minimum inputs and the width rule."""

from typing import NamedTuple

import pytest

from inception_jax.models import googlenet, sizes, spec, widths
from inception_jax.models.spec import Conv, Pool


@pytest.mark.parametrize(
    ("size", "rule", "expected"),
    [
        (224, "tf", (2, 3)),
        (225, "tf", (3, 3)),
        (224, "symmetric", (3, 3)),
        (225, "symmetric", (3, 3)),
    ],
)
def test_stem_convolution_pads_low_and_high_by_lineage(size, rule, expected):
    assert sizes.explicit_padding(size, 7, 2, spec.SAME, rule) == expected


def test_valid_never_pads():
    assert {
        sizes.explicit_padding(size, 3, 2, spec.VALID, rule) for size in (8, 9) for rule in ("tf", "ceil", "symmetric")
    } == {(0, 0)}


@pytest.mark.parametrize(
    ("size", "ceil"), [(112, 56), (56, 28), (28, 14), (14, 7), (113, 56), (57, 28), (29, 14), (15, 7)]
)
def test_ceil_pools_equal_same_on_even_sizes_only(size, ceil):
    same = -(-size // 2)
    pool = Pool("max", 3, 2)
    assert sizes.out_size(pool, size, spec.TORCH) == ceil
    assert sizes.out_size(pool, size, spec.TF) == same
    assert (ceil == same) == (size % 2 == 0)


def test_a_stride_one_row_keeps_the_size_in_every_lineage():
    for numerics in (spec.CAFFE, spec.TORCH, spec.TF):
        for row in (Conv(8, (1, 7)), Conv(8, (5, 5)), Pool("avg"), Pool("max"), spec.LocalResponseNorm()):
            assert sizes.out_size(row, 17, numerics) == 17


@pytest.mark.parametrize(
    ("table", "numerics", "aux", "minimum"),
    [
        (googlenet.GOOGLENET, spec.CAFFE, None, 31),
        (googlenet.GOOGLENET, spec.CAFFE, googlenet.PAPER_AUX, 79),
        (googlenet.GOOGLENET_TORCHVISION, spec.TORCH, None, 15),
        (googlenet.GOOGLENET_TORCHVISION, spec.TORCH, googlenet.TORCHVISION_AUX, 15),
    ],
)
def test_minimum_input(table, numerics, aux, minimum):
    assert sizes.minimum_input(table, numerics, aux) == minimum


@pytest.mark.parametrize(
    ("features", "width", "expected"),
    [(64, 0.5, 32), (24, 0.5, 16), (16, 0.25, 16), (21, 0.9, 18), (64, 1.5, 96), (8, 1.0, 8), (8, 0.999, 16)],
)
def test_width_is_the_rule_of_slim(features, width, expected):
    assert widths.scale_features(features, width) == expected


def test_width_reaches_every_convolution_of_a_block_and_leaves_pools_alone():
    block = googlenet.inception_v1(64, 96, 128, 16, 32, 32)
    assert widths.scale_width(block, 0.5) == googlenet.inception_v1(32, 48, 64, 16, 16, 16)


def test_batch_norm_constants_of_the_presets():
    assert spec.CAFFE.norm is None
    assert spec.TORCH.norm == spec.BatchNorm(epsilon=1e-3, decay=0.9, scale=True, unbiased=True)
    assert spec.TF.norm == spec.BatchNorm(epsilon=1e-3, decay=0.9997, scale=False, unbiased=False)
    assert (spec.CAFFE.count_padding, spec.TORCH.count_padding, spec.TF.count_padding) == (True, True, False)


def test_a_row_of_an_unknown_kind_is_no_block():
    class Dilated(NamedTuple):
        features: int = 64

    for ask in (lambda: sizes.out_size(Dilated(), 17, spec.TF), lambda: sizes.out_channels(Dilated(), 3)):
        with pytest.raises(TypeError, match="Dilated is no kind of row"):
            ask()
