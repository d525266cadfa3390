"""What the steps of programs written by hand move, counted by hand."""

import pytest

from inception_jax.plan import hlo
from inception_jax.plan.traffic import Traffic, kind, layer, traffic, traffic_by
from tests.plan import program


def test_traffic_is_what_each_step_reads_and_writes_with_filled_tiles():
    moved = traffic(hlo.parse(program.TEXT))
    assert moved == Traffic(4, program.TOTAL, program.IN_HBM, program.COUNTED, 0)


def test_the_traffic_of_a_loop_is_not_known():
    assert traffic(hlo.parse(program.LOOP)) is None


def test_a_fusion_reads_the_slices_alone_of_what_it_reads_nothing_else_of():
    moved = traffic(hlo.parse(program.SLICED))
    assert moved.total == moved.counted == program.SLICED_NEGATION + program.SLICED_CONVOLUTION
    assert moved.hbm == moved.total - 2 * program.A  # b, written and read


def test_steps_by_kind_and_layer():
    module = hlo.parse(program.SLICED)
    found = traffic_by(module, lambda each: (kind(module, each), layer(each.op_name)))
    assert list(found) == [("convolution", "conv1, backward"), ("other", "conv1")]
    assert found["convolution", "conv1, backward"][:2] == (1, program.SLICED_CONVOLUTION)
    assert found["convolution", "conv1, backward"].cycles == 77
    assert found["other", "conv1"].total == program.SLICED_NEGATION


def test_kinds_of_steps_that_are_no_fusion():
    module = hlo.parse(program.TEXT)
    kinds = {each.opcode: kind(module, each) for each in module.entry}
    assert kinds["copy-start"] == kinds["slice-start"] == "asynchronous copy"
    assert kinds["all-reduce"] == "collective"
    assert kinds["fusion"] == kinds["custom-call"] == "other"
    ours = hlo.parse(program.TEXT.replace('custom_call_target="ConcatBitcast"', 'custom_call_target="tpu_custom_call"'))
    assert [kind(ours, each) for each in ours.entry if each.opcode == "custom-call"] == ["Pallas kernel"]


@pytest.mark.parametrize(
    ("op_name", "expected"),
    [
        ("jit(_forward)/InceptionNet/inception_3a/branch1_0/conv/conv_general_dilated", "inception_3a"),
        ("jit(train_step)/jvp(InceptionNet)/conv1/bn/sub", "conv1"),
        ("jit(train_step)/transpose(jvp(InceptionNet))/conv1/conv/conv_general_dilated", "conv1, backward"),
        ("jit(train_step)/add", "other"),
        ("", "other"),
    ],
)
def test_layers_by_the_names_of_operations(op_name, expected):
    assert layer(op_name) == expected


def test_bytes_by_layer_add_up():
    found = traffic_by(hlo.parse(program.TEXT), lambda each: each.opcode)
    assert sum(each.total for each in found.values()) == program.TOTAL
    assert [each.total for each in found.values()] == sorted((each.total for each in found.values()), reverse=True)
