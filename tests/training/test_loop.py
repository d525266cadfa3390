"""A whole run: what it leaves, what it refuses, and how it ends."""

import contextlib
import errno
import json
import logging
import os
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from inception_jax.data.sources import open_source
from inception_jax.errors import NonFiniteLossError, UserError
from inception_jax.inference.evaluation import evaluate
from inception_jax.inference.predictor import Predictor
from inception_jax.training import loop, prepare, train_and_evaluate
from inception_jax.training.checkpoints import checksums
from inception_jax.training.compilation import CompilationLog
from inception_jax.training.workdir import locked
from inception_jax.training.writers import MetricsFile, read_metrics


@pytest.fixture(scope="module")
def finished(short, tmp_path_factory):
    """Returns (workdir, state, log of compilations, log records) of a run of 8 steps with an average, on 8 devices."""
    workdir = tmp_path_factory.mktemp("run")
    with CompilationLog() as log, capture_logs() as logs:
        state = train_and_evaluate(short(), workdir)
    return workdir, state, log, logs


@contextlib.contextmanager
def capture_logs():
    """Yields the list that collects every record of every logger."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append
    logging.getLogger().addHandler(handler)
    try:
        yield records
    finally:
        logging.getLogger().removeHandler(handler)


def test_files_of_a_run(finished):
    workdir, state, *_ = finished
    assert {path.name for path in workdir.iterdir()} == {
        ".lock", "checkpoints", "classes.txt", "curves.png", "metrics.jsonl", "summary.json", "tensorboard",
    }  # fmt: skip
    assert int(state.step) == 8
    summary = json.loads((workdir / "summary.json").read_text())
    assert summary["step"] == 8
    assert summary["skipped"] == 0
    assert summary["best"]["top1"] >= summary["last"]["top1"]
    assert (workdir / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_evaluation_of_a_run_gives_the_figures_of_its_loop(finished, digits_dir):
    workdir = finished[0]
    predictor = Predictor.from_checkpoint(workdir)
    assert predictor.class_names == tuple("0123456789")
    best = json.loads((workdir / "summary.json").read_text())["best"]
    found = evaluate([predictor], open_source("digits", "test[:96]", digits_dir)).metrics()
    assert found == pytest.approx({**best, "count": 96}, rel=1e-5)


def test_metrics_hold_what_was_seen(finished):
    records = read_metrics(finished[0] / "metrics.jsonl")
    train = [record for record in records if "train/loss" in record]
    evaluation = [record for record in records if "eval/top1" in record]
    assert [record["step"] for record in train] == [2, 4, 6, 8]
    assert [record["step"] for record in evaluation] == [4, 8]
    for record in train:
        parts = record["train/loss_main"] + 0.3 * record["train/loss_aux_4a"]
        assert record["train/loss"] == pytest.approx(parts, rel=1e-5)
        assert 0 <= record["train/data_wait"] <= 1
        assert record["train/epoch"] == pytest.approx(record["step"] * 32 / 1437)
    for record in evaluation:
        assert record["eval/count"] == record["eval_ema/count"] == 96
        assert record["eval/loss"] != record["eval_ema/loss"]


def test_tensorboard_files_hold_the_same_scalars(finished):
    from tensorboardX.proto.event_pb2 import Event

    workdir = finished[0]
    content = next((workdir / "tensorboard").iterdir()).read_bytes()
    scalars, offset = {}, 0
    while offset < len(content):  # a record: length, its checksum, the event, its checksum
        length = int.from_bytes(content[offset : offset + 8], "little")
        event = Event.FromString(content[offset + 12 : offset + 12 + length])
        scalars |= {(event.step, value.tag): value.simple_value for value in event.summary.value}
        offset += 16 + length
    for record in read_metrics(workdir / "metrics.jsonl"):
        for name, value in record.items():
            if name != "step":
                assert scalars[record["step"], name] == pytest.approx(value, rel=1e-6)


def test_each_step_function_compiles_once(finished):
    compilations = finished[2].compilations
    for name in ("train_step", "eval_step"):
        assert sum(name in each for each in compilations) == 1, compilations


def test_a_finished_run_is_left_as_it_is(finished, short, capsys):
    workdir, state, *_ = finished
    files = [path for path in workdir.iterdir() if path.is_file() and path.name != ".lock"]
    before = {path: path.read_bytes() for path in files}
    again = train_and_evaluate(short(), workdir)
    assert {path: path.read_bytes() for path in files} == before
    assert checksums(again) == checksums(state)
    assert "Nothing is left to do" in capsys.readouterr().out
    assert [record["step"] for record in read_metrics(workdir / "metrics.jsonl")] == [2, 4, 4, 6, 8, 8]


def test_resumed_run_equals_the_uninterrupted_one(finished, short, tmp_path):
    train_and_evaluate(short(duration="4 steps"), tmp_path)
    resumed = train_and_evaluate(short(), tmp_path)
    assert checksums(resumed) == checksums(finished[1])
    ours, theirs = (read_metrics(workdir / "metrics.jsonl") for workdir in (tmp_path, finished[0]))
    for records in (ours, theirs):
        for record in records:
            record.pop("train/images_per_second", None)
            record.pop("train/data_wait", None)
    assert ours == theirs


def test_other_config_in_the_same_workdir_is_refused(finished, short):
    with pytest.raises(UserError, match=r"config\.seed: 0 then, 1 now"):
        train_and_evaluate(short(seed=1), finished[0])


def test_numbers_that_are_not_finite_name_the_step_and_are_not_saved(short, tmp_path):
    config = short(optimizer={"learning_rate": 1e10}, checkpoint_every="1 steps", log_every="1 steps")
    with pytest.raises(NonFiniteLossError, match=r"The \w+ of step \d is (nan|inf); saved steps: ") as stopped:
        train_and_evaluate(config, tmp_path)
    step = int(str(stopped.value).split("of step ")[1].split()[0])
    saved = sorted(int(entry.name) for entry in (tmp_path / "checkpoints").iterdir())
    assert saved == list(range(1, step))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 36}, r"config\.batch_size is 36; it must be a multiple of 8 .*such as 32"),
        ({"batch_size": 32, "grad_accum_steps": 8}, r"must be a multiple of 64 .*such as 64"),
        ({"model": {"bn_group_size": 5}}, r"config\.model\.bn_group_size is 5; it must divide the 32"),
        ({"model": {"name": "googlenet"}}, r"config\.data\.image_size is 12; googlenet trains on \d+ or more"),
        ({"model": {"name": "inception_v9"}}, r"config\.model: No model is called 'inception_v9'"),
        ({"mesh": {"fsdp": 3}}, r"config\.mesh is data=-1, fsdp=3; their product must be the 8 devices"),
        ({"platform": "tpu"}, r"config\.platform is 'tpu', but JAX runs on 'cpu'"),
        (
            {"loss": {"aux_weights": {"aux_4a": 0.3, "aux_4b": 0.3}}},
            r"config\.loss\.aux_weights names aux_4b; googlenet_cifar has aux_4a, aux_4d: name these",
        ),
        (
            {"schedule": {"warmup": "8 steps"}},
            r"config\.schedule\.warmup is '8 steps', 8 steps; it must end before the run",
        ),
        (
            {"schedule": {"name": "exponential", "decay_every": "0 steps"}},
            r"config\.schedule\.decay_every is '0 steps'",
        ),
        ({"data": {"eval_split": "validation"}}, r"no split 'validation'"),
        ({"data": {"crop_area": (0.5, 0.2)}}, r"config\.data\.crop_area is \(0\.5, 0\.2\)"),
        ({"duration": "2e9 epochs"}, r"config\.duration is '2e9 epochs', over 2,147,483,647 steps of 32 images"),
        ({"log_every": "2e9 epochs"}, r"config\.log_every is '2e9 epochs', over 2,147,483,647 steps of 32 images"),
        ({"duration": "0 epochs"}, r"config\.duration is '0 epochs'; it must be above 0"),
        ({"duration": "0 steps"}, r"config\.duration is '0 steps'; it must be above 0"),
    ],
)
def test_pre_flight_refuses_before_compiling(tiny, tmp_path, changes, message):
    with CompilationLog() as log, pytest.raises(UserError, match=message):
        prepare(tiny(**changes), tmp_path)
    assert log.compilations == []


def test_pre_flight_of_a_good_run_compiles_nothing(tiny, tmp_path):
    with CompilationLog() as log:
        experiment = prepare(tiny(), tmp_path)
    assert log.compilations == []
    assert experiment.total_steps == 8
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("aux", "named", "expected"),
    [
        (True, {}, {"aux_4a": 0.3, "aux_4d": 0.3}),
        (True, {"aux_4d": 0.2}, {"aux_4a": 0.3, "aux_4d": 0.2}),
        (False, {"aux_4d": 0.2}, {}),
    ],
)
def test_weights_of_the_heads_are_the_models_own_unless_named(tiny, tmp_path, aux, named, expected):
    experiment = prepare(tiny(model={"aux": aux}, loss={"aux_weights": named}), tmp_path)
    assert experiment.aux_weights == expected


def test_pre_flight_sees_a_disk_that_is_too_small(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 99, 1))
    with pytest.raises(UserError, match=r"has 0 MiB free; 5 checkpoints of .* need"):
        prepare(tiny(), tmp_path)


def test_pre_flight_names_a_folder_that_cannot_be(tiny):
    with pytest.raises(UserError, match="workdir /proc/run cannot be created"):
        prepare(tiny(), Path("/proc/run"))


def test_broken_images_are_skipped_up_to_the_limit(short, tmp_path):
    from PIL import Image

    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 2)):
        for label in range(10):  # as many classes as digits has: the same program
            folder = tmp_path / "images" / split / str(label)
            folder.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(rng.integers(0, 256, (12, 12, 3), np.uint8)).save(folder / f"{i}.png")
    (tmp_path / "images" / "train" / "4" / "3.png").write_bytes(b"not a picture")
    (tmp_path / "images" / "test" / "7" / "1.png").write_bytes(b"")
    data = {"name": f"folder:{tmp_path / 'images'}", "data_dir": None, "eval_split": "test"}

    with pytest.raises(UserError, match=r"\.png|record \d+"):
        train_and_evaluate(short(duration="5 steps", data=data), tmp_path / "raise")
    skipping = short(duration="5 steps", data=data | {"on_error": "skip"})
    train_and_evaluate(skipping, tmp_path / "skip")
    records = read_metrics(tmp_path / "skip" / "metrics.jsonl")
    assert [record["eval/count"] for record in records if "eval/count" in record] == [19, 19]
    assert json.loads((tmp_path / "skip" / "summary.json").read_text())["skipped"] == 2, "each image counts once"
    limited = short(duration="5 steps", data=data | {"on_error": "skip", "max_skipped": 1})
    with pytest.raises(UserError, match=r"config\.data\.max_skipped is 1"):
        train_and_evaluate(limited, tmp_path / "limited")


def test_an_accidental_transfer_in_the_loop_is_an_error(short, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "shard_batch", lambda batch, sharding: jax.jit(lambda x: x)(batch))
    with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        train_and_evaluate(short(), tmp_path)


def test_nothing_is_logged_as_a_warning(finished):
    messages = [record.getMessage() for record in finished[3] if record.levelno >= logging.WARNING]
    of_busy_machines = ("Waiting for previous save", "% of the time since the last line went by waiting for images")
    assert [text for text in messages if not any(each in text for each in of_busy_machines)] == []


def test_evaluation_that_a_signal_cut_off_is_made_up(finished, short, tmp_path):
    """The state of step 8 is saved and its evaluation is not written: the next start writes it."""
    shutil.copytree(finished[0], tmp_path / "run")
    path = tmp_path / "run" / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]))
    train_and_evaluate(short(), tmp_path / "run")
    assert path.read_text().splitlines(keepends=True) == lines


def test_full_disk_is_one_line_that_says_how_to_go_on(short, tmp_path, monkeypatch):
    def write(self, step, values):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "metrics.jsonl"))

    monkeypatch.setattr(MetricsFile, "write", write)
    with pytest.raises(UserError, match=r"metrics\.jsonl: No space left on device; the same command resumes"):
        train_and_evaluate(short(), tmp_path)


def test_two_processes_do_not_share_a_workdir(short, tmp_path):
    with locked(tmp_path), pytest.raises(UserError, match=r"Another process is training in"):
        train_and_evaluate(short(), tmp_path)


def test_urls_but_those_of_buckets_are_refused(tiny):
    with pytest.raises(UserError, match=r"workdir s3://bucket/run is a URL; allowed are gs://... and folders"):
        train_and_evaluate(tiny(), "s3://bucket/run")
