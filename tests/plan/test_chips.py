"""The table of chips: figures that hang together, and names that are refused."""

import pytest

from inception_jax.errors import UserError
from inception_jax.plan.chips import CHIPS, parse_slice


@pytest.mark.parametrize("name", CHIPS)
def test_figures_are_of_one_kind_and_order(name):
    chip = CHIPS[name]
    assert chip.name == name
    assert chip.source == f"docs.cloud.google.com/tpu/docs/{name}"
    assert 1e14 < chip.flops < 1e16
    assert 150 < chip.flops / chip.hbm_bandwidth < 600  # FLOPs a byte, where the roofline bends
    assert 0.95 < chip.usable / chip.hbm < 1.01
    assert len(set(chip.shapes)) == len(chip.shapes)
    assert {shape.count("x") for shape in chip.shapes} == {1 if name in ("v5e", "v6e") else 2}


@pytest.mark.parametrize(
    ("topology", "chips", "devices"),
    [("v5e:1x1", 1, 1), ("v5e:16x16", 256, 256), ("v4:4x8x8", 256, 256), ("tpu7x:2x2x1", 4, 8)],
)
def test_a_slice_has_chips_and_devices(topology, chips, devices):
    part = parse_slice(topology)
    assert (part.name, part.chips, part.devices) == (topology, chips, devices)


@pytest.mark.parametrize(
    ("topology", "message"),
    [
        ("v9:2x2", "no chip is called 'v9'; it must be one of v4, v5e, v5p, v6e, tpu7x."),
        ("v5e:3x5", "v5e has no slice '3x5'; it has 1x1, 2x2, 2x4, 4x4, 4x8, 8x8, 8x16, 16x16: write 'v5e:2x2'."),
        ("v5p:2x2", "v5p has no slice '2x2'; it has 1x1x1, 2x2x1, "),
        ("v6e", "v6e has no slice ''"),
    ],
)
def test_a_wrong_slice_names_the_right_ones(topology, message):
    with pytest.raises(UserError) as error:
        parse_slice(topology)
    assert message in str(error.value)
