"""What is made of a compiled program; the compiler itself is asked in tests/parity/test_plan.py."""

import dataclasses
import importlib.metadata
import importlib.util
import unittest.mock

import jax
import pytest

from configs import default
from inception_jax.errors import UserError
from inception_jax.plan import compile_tpu, plan
from inception_jax.plan.chips import parse_slice
from inception_jax.plan.hlo import Collective
from inception_jax.training.config import TrainConfig
from tests.plan.program import COUNTED, IN_HBM, LOOP, TEXT, TOTAL

MEMORY = {"arguments": 100, "outputs": 60, "aliased": 50, "temporaries": 1000, "code": 7}


def question(topology="v5e:2x4", model="googlenet_cifar", **changes):
    values = default.get_config()
    values.batch_size, values.model.name = 32, model
    return plan.Question("default", TrainConfig.parse(values), parse_slice(topology), **changes)


def read(topology="v5e:2x4", text=TEXT, total=COUNTED, batch=4):
    part = parse_slice(topology)
    facts = {"batch_per_chip": batch, "batch_size": batch * part.chips, "num_classes": 10}
    program = compile_tpu.Program(flops=8e6, bytes_accessed=float(total), memory=MEMORY, text=text, seconds=3.0)
    return plan.read_program(question(topology), facts, program)


def test_memory_holds_aliased_outputs_once():
    assert read().memory == {**MEMORY, "total": 100 + 60 - 50 + 1000 + 7}


def test_a_chip_of_two_devices_has_twice_of_all():
    one, two = read(), read("tpu7x:2x2x1")
    assert two.memory["total"] == 2 * one.memory["total"]
    assert (two.flops, two.bytes_accessed, two.hbm_bytes) == (2 * one.flops, 2 * one.bytes_accessed, 2 * one.hbm_bytes)


def test_bytes_in_hbm_are_told_where_our_sum_is_the_compilers():
    assert read().hbm_bytes == IN_HBM
    assert read(total=COUNTED * 1.2).hbm_bytes is None
    assert not read(total=COUNTED * 1.2).by_op


def test_what_steps_move_by_kind_adds_up(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda package: "1")  # libtpu need not be installed
    record = read(batch=4).to_json(by_op=True)
    assert sum(part["moved_per_image"] for part in record["by_op"]) == TOTAL / 4
    assert sum(part["bytes_per_image"] for part in record["by_op"]) == record["bytes_per_image"]
    assert sum(part["hbm_bytes_per_image"] for part in record["by_op"]) == record["hbm_bytes_per_image"]
    assert {part["kind"] for part in record["by_op"]} == {"asynchronous copy", "collective", "other"}
    assert "by_op" not in read().to_json()


def test_a_loop_leaves_memory_and_collectives_alone():
    found = read(text=LOOP)
    assert found.memory["total"] == 1117
    assert found.collectives == (Collective("all-reduce", 1, 16),)
    assert (found.flops, found.bytes_accessed, found.times, found.images_per_second) == (None, None, {}, None)


def test_roofline_by_hand():
    times = plan.roofline(parse_slice("v5e:2x4"), 197e9, 8.19e9, [Collective("all-reduce", 1, 8_000_000)])
    assert times == {
        "compute": pytest.approx(1e-3),
        "HBM": pytest.approx(10e-3),
        "interconnect": pytest.approx(2 * 8e6 * 7 / 8 / 200e9),
    }
    gathered = plan.roofline(parse_slice("v5e:2x4"), 1.0, 1.0, [Collective("all-gather", 1, 8_000_000)])
    assert gathered["interconnect"] == pytest.approx(times["interconnect"] / 2)
    assert "interconnect" not in plan.roofline(parse_slice("v5e:1x1"), 1.0, 1.0, [])
    assert "interconnect" not in plan.roofline(parse_slice("v4:2x2x1"), 1.0, 1.0, [Collective("all-reduce", 1, 8)])


def test_what_takes_longest_bounds_images_a_second():
    found = dataclasses.replace(read(batch=4), times={"compute": 1e-3, "HBM": 8e-3})
    assert found.bound_by == "HBM"
    assert found.images_per_second == pytest.approx(8 * 4 / 8e-3)


def fake_planner(bytes_per_image, refused_from=10**9):
    calls = []

    def planner(asked):
        batch = asked.batch_per_chip
        calls.append(batch)
        refusal = "too large" if batch >= refused_from else None
        memory = {} if refusal else {"total": 2**30 + batch * bytes_per_image}
        return plan.Plan(asked, {"batch_per_chip": batch}, refusal=refusal, memory=memory)

    return planner, calls


def test_the_largest_batch_is_where_the_line_meets_the_memory():
    planner, calls = fake_planner(2**25)
    batch, found = plan.largest_batch(planner(question(batch_per_chip=64)), planner)
    assert batch == found.batch_per_chip == int(14.75 * 2**30 / 2**25) // 8 * 8 == 472
    assert calls == [64, 32, 472]


def test_a_refused_largest_batch_is_lowered_by_a_sixteenth():
    planner, calls = fake_planner(2**25, refused_from=440)
    assert plan.largest_batch(planner(question(batch_per_chip=64)), planner)[0] == 408
    assert calls == [64, 32, 472, 440, 408]


def test_the_largest_batch_is_found_where_small_ones_take_more_memory_an_image():
    planner, calls = fake_planner(2**25)

    def curved(asked):
        found = planner(asked)
        batch = asked.batch_per_chip
        return dataclasses.replace(found, memory={"total": 2**30 + 2**25 * min(batch, 64) + 2**24 * max(batch - 64, 0)})

    batch, found = plan.largest_batch(curved(question(batch_per_chip=64)), curved)
    assert batch == found.batch_per_chip == 880
    assert calls == [64, 32, 472, 880]


def test_no_largest_batch_is_an_error():
    planner, _ = fake_planner(2**25, refused_from=65)
    with pytest.raises(UserError, match="6 trials"):
        plan.largest_batch(planner(question(batch_per_chip=64)), planner)
    with pytest.raises(UserError, match="cannot be halved"):
        plan.largest_batch(planner(question(batch_per_chip=1)), planner)
    with pytest.raises(UserError, match="66 images per chip do not fit"):
        plan.largest_batch(planner(question(batch_per_chip=66)), planner)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"topology": "v5e:8x8"}, "config.batch_size is 32; it must be a multiple of the 64 devices of v5e:8x8."),
        (
            {"topology": "tpu7x:1x1x1", "batch_per_chip": 3},
            "--batch-per-chip x chips is 3; it must be a multiple of the 2 devices of tpu7x:1x1x1.",
        ),
    ],
)
def test_a_batch_that_does_not_divide_is_refused(changes, message):
    with pytest.raises(UserError) as error:
        plan.make_plan(question(**changes))
    assert str(error.value) == message


def test_unknown_data_need_their_classes():
    values = default.get_config()
    values.data.name = "folder:flowers"
    with pytest.raises(UserError, match="'folder:flowers' is not known: give --classes"):
        plan.make_plan(plan.Question("default", TrainConfig.parse(values), parse_slice("v5e:2x2")))


def test_without_libtpu_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs libtpu, .* pip install inception_jax\[tpu\]"):
        plan.make_plan(question())


def test_what_is_compiled_is_the_step_of_a_run(monkeypatch, short_network):
    traced = []
    monkeypatch.setattr(compile_tpu, "devices", lambda part: jax.devices()[: part.devices])
    monkeypatch.setattr(plan.compile_tpu, "compile_for_tpu", lambda each, options: traced.append(each) or _refuse())
    found = plan.make_plan(question(model="short", batch_per_chip=4))
    assert found.refusal == "Used 17.5G of 15.75G hbm."
    assert found.facts["batch_size"] == 32
    (step,) = traced
    assert "train_step" in step.fun_name
    state, batch = step.args_info[0]
    assert batch["image"].shape == (32, 32, 32, 3)
    assert {leaf.donated for leaf in jax.tree.leaves(state)} == {True}
    assert {leaf.donated for leaf in jax.tree.leaves(batch)} == {False}


def test_inference_compiles_the_predictors_program(monkeypatch, short_network):
    traced = []
    monkeypatch.setattr(compile_tpu, "devices", lambda part: jax.devices()[: part.devices])
    compiler = unittest.mock.Mock(side_effect=lambda each, options: traced.append(each) or _refuse())
    monkeypatch.setattr(plan.compile_tpu, "compile_for_tpu", compiler)
    rewrite = unittest.mock.Mock(side_effect=plan.for_inference)
    monkeypatch.setattr(plan, "for_inference", rewrite)
    asked = question(model="short", batch_per_chip=1, inference=True)
    plan.make_plan(dataclasses.replace(asked, options={"name": "value"}))
    assert compiler.call_args.args[1] == {"name": "value"}
    assert rewrite.call_args.args[2] == "tpu"
    params, images = traced[0].args_info[0]
    assert images.shape == (8, 32, 32, 3)
    assert not [path for path, _ in jax.tree.leaves_with_path(params) if "bn" in jax.tree_util.keystr(path)]
    assert {name: leaf.shape for name, leaf in traced[0].out_info.items()} == {"logits": (8, 10)}


def _refuse():
    raise compile_tpu.TooLarge("Used 17.5G of 15.75G hbm.")
