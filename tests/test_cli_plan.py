"""`inception-jax plan`: what it prints and how it refuses; the compiler is a fake here."""

import json
import pathlib

import pytest

from inception_jax.cli.config import read_config
from inception_jax.errors import UserError
from inception_jax.plan import compile_tpu, plan
from tests.plan.program import COUNTED, TEXT

ROOT = pathlib.Path(__file__).parent.parent
DIGITS = str(ROOT / "configs" / "digits.py")
GOOGLENET = str(ROOT / "configs" / "imagenet_googlenet.py")


@pytest.fixture
def compiler(monkeypatch):
    """Puts a program in the place of the compiler's; 64 images per chip do not fit."""

    def fake(question):
        batch = question.batch_per_chip or question.config.batch_size // question.slice.chips
        facts = {"model": question.config.model.name, "dtype": question.config.model.dtype, "num_classes": 10}
        facts |= {"batch_per_chip": batch, "batch_size": batch * question.slice.chips}
        if batch == 64:
            return plan.Plan(question, facts, refusal="Used 17.5G of 15.75G hbm.")
        memory = {"arguments": 2**20, "outputs": 0, "aliased": 0, "temporaries": 2**20 * batch, "code": 0}
        return plan.read_program(question, facts, compile_tpu.Program(8e9, float(COUNTED), memory, TEXT, 3.0))

    monkeypatch.setattr(plan, "make_plan", fake)
    monkeypatch.setattr(compile_tpu, "check_installed", lambda: None)
    monkeypatch.setattr(plan, "versions", lambda: {})


def rows(out):
    return {line[:26].strip(): line[26:].split() for line in out.splitlines()}


def test_configs_and_slices_stand_side_by_side(run, compiler):
    code, out, err = run(
        "plan", "--config", DIGITS, "--compare", GOOGLENET, "--batch-per-chip", "4",
        "--topology", "v5e:1x1", "--topology", "v5e:2x4",
        columns=120,
    )  # fmt: skip
    assert code == 0
    found = rows(out)
    assert found["model"] == ["googlenet_cifar"] * 2 + ["googlenet_bn"] * 2
    assert found["chips"] == ["1", "8", "1", "8"]
    assert found["images per chip"] == ["4"] * 4
    assert found["total, MiB per chip"] == ["5.0"] * 4
    assert found["GFLOP per image"] == ["2.00"] * 4
    assert found["all-reduce: count"] == ["1"] * 4
    assert "197 TFLOP/s in bfloat16, 819 GB/s of HBM, 400 GB/s of interconnect (docs.cloud.google.com" in out
    assert "4 of 4: compiling the training step of imagenet_googlenet for v5e:2x4, 4 images per chip" in err


def test_json_has_the_whole_record(run, compiler):
    code, out, _ = run("plan", "--config", DIGITS, "--topology", "v5e:2x2", "--set", "model.dtype=bfloat16", "--json")
    (record,) = json.loads(out)
    assert code == 0
    assert (record["dtype"], record["topology"], record["fits"]) == ("bfloat16", "v5e:2x2", True)
    assert record["flops_per_image"] * record["batch_per_chip"] == 8e9
    assert record["collectives"] == [{"kind": "all-reduce", "count": 1, "bytes": 4108}]


def test_traffic_by_kind_is_shown_on_request(run, compiler):
    command = ("plan", "--config", DIGITS, "--topology", "v5e:1x1", "--batch-per-chip", "16", "--by-op")
    _, out, _ = run(*command, columns=160)
    kinds = ("all", "asynchronous copy", "collective", "other")
    lines = [line.strip() for line in out.splitlines()]
    found = {kind: line.removeprefix(kind).split() for line in lines for kind in kinds if line.startswith(f"{kind} ")}
    assert found["all"][0] == "4"
    assert found["asynchronous copy"][0] == "2"
    assert found["collective"][-2:] == ["other", "0.0"]
    _, out, _ = run(*command, "--json")
    assert {part["kind"] for part in json.loads(out)[0]["by_op"]} == set(found) & {"other", "collective"} | {
        "asynchronous copy"
    }


def test_what_does_not_fit_says_why(run, compiler):
    _, out, _ = run("plan", "--config", DIGITS, "--topology", "v5e:2x2", "--batch-per-chip", "64")
    assert rows(out)["fits"] == ["no"]
    assert "digits on v5e:2x2 does not fit: Used 17.5G of 15.75G hbm." in out


def test_largest_batch_is_searched_on_request(run, compiler):
    _, out, err = run(
        *("plan", "--config", DIGITS, "--topology", "v5e:1x1", "--batch-per-chip", "16", "--largest-batch")
    )
    assert rows(out)["images per chip"] == ["16,120"]  # (15.75 GiB - 1 MiB) / 1 MiB, down to a multiple of 8
    assert "16120 images per chip" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--config", "none.py", "--topology", "v5e:2x2"), "--config none.py: there is no such file."),
        (("--config", DIGITS, "--topology", "v7:2x2"), "no chip is called 'v7'; it must be one of v4, v5e,"),
        (("--config", DIGITS, "--topology", "v5e:3x3"), "v5e has no slice '3x3'; it has 1x1, 2x2, 2x4,"),
        (("--config", DIGITS, "--topology", "v5e:2x2", "--set", "model.aux"), "it must be FIELD=VALUE"),
        (("--config", DIGITS, "--topology", "v5e:2x2", "--set", "model.wdth=1"), "nearest: width"),
        (("--config", DIGITS, "--topology", "v5e:2x2", "--set", "modl.width=1"), "nearest: model"),
        (
            ("--config", DIGITS, "--topology", "v5e:2x2", "--set", "model.width=wide"),
            "'wide'; it must be a number.",
        ),
    ],
)
def test_a_mistake_is_one_line(run, arguments, message):
    code, out, err = run("plan", *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1


def test_a_config_is_read_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = read_config(pathlib.Path(GOOGLENET), ["model.aux=False", "loss.aux_weights={}", "duration=2 epochs"])
    assert (config.model.aux, config.loss.aux_weights, config.duration) == (False, {}, "2 epochs")
    broken = tmp_path / "broken.py"
    broken.write_text("def get_config():\n    return 1 / 0\n")
    with pytest.raises(UserError, match=r"broken.py: ZeroDivisionError: division by zero"):
        read_config(broken)


def test_options_reach_the_compiler_and_the_record(run, compiler):
    arguments = ("plan", "--config", DIGITS, "--topology", "v5e:2x2", "--json")
    code, out, _ = run(*arguments, "--option", "xla_tpu_scoped_vmem_limit_kib=20480", "--option", "a=b=c")
    assert code == 0
    assert json.loads(out)[0]["compiler_options"] == {"xla_tpu_scoped_vmem_limit_kib": "20480", "a": "b=c"}


@pytest.mark.parametrize("option", ["name", "name=", "=value"])
def test_an_option_without_name_or_value_is_refused(run, compiler, option):
    code, _, err = run("plan", "--config", DIGITS, "--topology", "v5e:2x2", "--option", option)
    assert code == 2
    assert f"--option {option}: it must be NAME=VALUE" in err
