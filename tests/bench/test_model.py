"""`bench model` with engines that are fakes: where their seconds end up, and what is refused. One run is real."""

import contextlib
import json
import re

import numpy as np
import pytest

from inception_jax.bench import compare, model, records, timing
from inception_jax.bench.case import Case, flops_per_image, images, random_weights
from inception_jax.bench.engines import on_jax
from inception_jax.describe import summary
from inception_jax.errors import UserError
from inception_jax.training.config import TrainConfig

CASE = Case("googlenet_torchvision", "inference", 4, image_size=32)
EFFORT = model.Effort(seconds=8.0, rounds=2)


class Machine:
    """A clock that engines move by what they do, and a list of who did what."""

    def __init__(self):
        self.now, self.log = 0.0, []

    def __call__(self):
        return self.now


class FakeWorker:
    """An engine in this process, that takes `compile_seconds` once and `call_seconds` a call."""

    machine = Machine()
    speeds = {"jax": (500.0, 1.0), "torch": (3.0, 2.0)}  # noqa: RUF012
    logits = {"jax": 1.0, "torch": 1.0}  # noqa: RUF012

    def __init__(self, name, *_):
        self.name = name
        self.compile_seconds, self.call_seconds = self.speeds[name]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.machine.log.append((self.name, "stop"))

    def call(self):
        self.machine.now += self.call_seconds

    def compile(self):
        self.machine.now += self.compile_seconds

    def ask(self, what, *arguments):
        self.machine.log.append((self.name, what))
        clock = self.machine
        return {
            "build": lambda: {
                "compile": timing.timed(self.compile, clock)[1],
                "first_call": timing.timed(self.call, clock)[1],
            },
            "outputs": lambda: {"logits": np.full((4, 1000), self.logits[self.name])},
            "turn": lambda: timing.turn(self.call, *arguments, clock),
            "ceilings": lambda: {"flops": 1e12, "bandwidth": 1e11},
            "facts": lambda: {"device": "fake", "flags": {"threads": 2}, "memory": {}},
            "peak": lambda: 2**20,
        }[what]()


@pytest.fixture
def fakes(monkeypatch):
    monkeypatch.setattr(model, "Worker", FakeWorker)
    monkeypatch.setattr(model, "write_weights", lambda *_: None)
    monkeypatch.setattr(timing, "busy_cores", lambda: 0.25)
    monkeypatch.setattr(FakeWorker, "machine", Machine())
    monkeypatch.setattr(FakeWorker, "logits", dict(FakeWorker.logits))
    return FakeWorker


def measure(names=("jax", "torch"), baseline="torch"):
    return model.measure(CASE, names, baseline, EFFORT, "a command", lambda _: contextlib.nullcontext())


def test_a_slow_compilation_shows_up_in_its_phase_alone(fakes):
    found = measure().figures["engines"]["jax"]
    assert found["phases"] == {"compile": 500.0, "first_call": 1.0}
    assert found["to_first_result"] == 501.0
    assert [found["steady"][key] for key in ("median", "p10", "p90")] == [1.0, 1.0, 1.0]
    assert found["warm_seconds"] == {"compile": 500.0, "first_call": 1.0}
    assert found["images_per_second"] == 4.0
    assert found["ratio"]["median"] == 2.0
    assert found["utilisation"] == pytest.approx(flops_per_image(CASE) * 4 / 1e12)


def test_outputs_are_compared_before_turns_that_alternate(fakes):
    row = measure()
    assert row.figures["cores_busy_for_others"] == [0.25, 0.25]
    order = [(name, what) for name, what in fakes.machine.log if what in ("outputs", "turn")]
    assert order == [(name, what) for what in ("outputs", "turn", "turn") for name in ("jax", "torch")]
    assert [(check.engine, check.reference, check.what) for check in row.outputs_compared] == [
        ("torch", "jax", "logits")
    ]
    assert records.parse(row.model_dump(mode="json")) == row


def test_engines_that_compute_something_else_are_not_timed(fakes):
    fakes.logits["torch"] = 1.001
    with pytest.raises(UserError, match=r"torch and jax do not compute the same: their logits differ by 0\.001"):
        measure()
    assert "turn" not in {what for _, what in fakes.machine.log}
    assert ("jax", "stop") in fakes.machine.log


def test_not_a_number_is_a_difference(fakes):
    fakes.logits["torch"] = float("nan")
    with pytest.raises(UserError, match="differ by nan"):
        measure()


def test_gradients_are_compared_under_our_names():
    case = Case("googlenet_torchvision", "train", 2, image_size=32, num_classes=7)
    start = random_weights(case)
    flat = {tuple(name.split("/")): leaf for name, leaf in start.flat().items()}
    stepped = {path: leaf + np.float32(1e-3) for path, leaf in flat.items()}
    theirs = model.weights.export(model.Weights.of(start.info, stepped), "torchvision")
    outputs = {"jax": {"loss": 1.0, "variables": stepped}, "torch": {"loss": 1.0, "variables": theirs}}
    checks = compare.compare(case, start, outputs)
    assert len(checks) == 4
    assert all(check.max_abs_difference == 0 < check.largest_value for check in checks)
    outputs["torch"]["variables"]["inception4b.branch3.0.conv.weight"] += 5e-3
    with pytest.raises(UserError, match=r"their gradient norm differ|their gradients"):
        compare.compare(case, start, outputs)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--engine", "tensorflow"], "There is no engine 'tensorflow'. Nearest: torch. Engines: jax, torch"),
        (["--model", "googlenet", "--engine", "torch"], "googlenet has no original in torch"),
        (["--mode", "dream"], "mode is 'dream'; it must be one of inference, train"),
        (["--dtype", "int8"], "dtype is 'int8'"),
        (["--image-size", "9"], "at least 15 x 15"),
        (["--baseline", "torch"], "The baseline torch is not among the engines: jax"),
        (["--seconds", "0"], r"seconds is 0\.0; it must be above 0"),
        (["--model", "xception", "--mode", "train", "--aux"], "xception has no auxiliary heads"),
        (["--model", "googlenets"], "googlenet"),
    ],
)
def test_refusals(run, arguments, message):
    code, out, err = run("bench", "model", *arguments)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert re.search(message, err)


def test_a_row_of_ours_alone(run, tmp_path):
    path = tmp_path / "rows.jsonl"
    words = "bench model --model googlenet_cifar --batch 2 --classes 10 --seconds 0.02 --rounds 2 --no-warm --save"
    code, out, err = run(*words.split(), str(path), "--note", "a test")
    assert code == 0, err
    assert "images/s" in out
    row = json.loads(path.read_text())
    assert row["command"] == f"inception-jax {words.removesuffix(' --save')} --note 'a test'"
    found = row["figures"]["engines"]["jax"]
    assert set(found["phases"]) == {"trace", "lower", "compile", "first_call"}
    assert min(*found["phases"].values(), found["steady"]["median"], found["memory"]["process_peak"]) > 0
    assert {"jax", "jaxlib", "flax"} <= set(row["versions"])


def test_flops_are_counted_by_hand():
    macs = summary.summarize("googlenet_torchvision", 32).totals["macs"]
    assert flops_per_image(CASE) == 2 * macs
    stem = 16 * 16 * 7 * 7 * 3 * 64
    assert flops_per_image(Case("googlenet_torchvision", "train", 1, image_size=32)) == 2 * (3 * macs - stem)


def test_batches_differ_and_repeat():
    first, second = images(CASE), images(CASE)
    assert np.array_equal(first, second)
    assert first.shape == (4, 4, 32, 32, 3)
    assert not np.array_equal(first[0], first[1])
    assert 10 < first.std() < 100


def test_the_step_that_is_timed_has_every_field_of_a_config():
    case = Case("googlenet_torchvision", "train", 8, image_size=64)
    assert TrainConfig.parse(on_jax.train_config(case, "weights.safetensors")).model.bn_decay is None
