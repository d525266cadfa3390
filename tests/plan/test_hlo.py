"""Programs written by hand, whose bytes can be counted by hand."""

import pytest

from inception_jax.plan import hlo
from inception_jax.plan.hlo import Collective
from tests.plan.program import LOOP, START, TEXT


def test_collectives_of_a_tuple_count_once_without_the_padding_of_tiles():
    assert hlo.collectives(hlo.parse(TEXT)) == [Collective("all-reduce", 1, 3 * 4 + 16 * 128 * 2)]


def test_an_asynchronous_collective_counts_where_it_starts():
    assert hlo.collectives(hlo.parse(START)) == [
        Collective("all-gather", 1, 64),
        Collective("reduce-scatter", 1, 64),
        Collective("collective-permute", 1, 24),  # and two words of its context
        Collective("all-reduce", 1, 16),
    ]


def test_a_collective_in_a_loop_counts_once_and_the_loop_is_told():
    module = hlo.parse(LOOP)
    assert hlo.collectives(module) == [Collective("all-reduce", 1, 16)]
    assert hlo.has_loops(module)
    assert not hlo.has_loops(hlo.parse(TEXT))


@pytest.mark.parametrize(
    ("shape", "padded"),
    [
        ("f32[3]{0:T(128)}", 128 * 4),
        ("f32[]{:T(128)}", 128 * 4),
        ("f32[]", 4),
        ("f32[20,130]{1,0:T(8,128)}", 24 * 256 * 4),
        ("f32[130,20]{0,1:T(8,128)}", 24 * 256 * 4),
        ("bf16[256,14,14,3]{0,3,2,1:T(4,128)(2,1)}", 256 * 14 * 14 * 4 * 2),
        ("pred[256]{0:T(512)(128)(4,1)}", 512),
        ("s4[7]{0}", 4),
        ("f8e4m3fn[8]{0}", 8),
        ("f32[2,3]", 24),
    ],
)
def test_an_array_fills_up_its_tiles(shape, padded):
    (array,) = hlo.parse(f"ENTRY %m () -> x {{\n  ROOT %a = {shape} constant(0)\n}}").entry[0].results
    assert array.padded == padded


def test_what_is_no_program_is_refused():
    with pytest.raises(ValueError, match="no ENTRY"):
        hlo.parse("HloModule empty")
