"""A whole run: the files it writes, the input it refuses, and its exit codes."""

import contextlib
import errno
import json
import logging
import multiprocessing
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import matplotlib.image
import numpy as np
import pytest

from inception_jax.data import unguarded
from inception_jax.data.sources import open_source
from inception_jax.errors import Interrupted, NonFiniteLossError, UserError
from inception_jax.inference.evaluation import evaluate
from inception_jax.inference.predictor import Predictor
from inception_jax.training import loop, prepare, train_and_evaluate
from inception_jax.training.checkpoints import checksums
from inception_jax.training.compilation import CompilationLog
from inception_jax.training.records import sign
from inception_jax.training.saved import read_variables
from inception_jax.training.workdir import locked, resolve_workdir, saved_steps
from inception_jax.training.writers import MetricsFile, read_metrics
from tests.training.conftest import ROOT


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
    assert shlex.split(summary["command"])[-len(sys.argv) :][1:] == sys.argv[1:]
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
        total = record["train/loss_main"] + 0.3 * record["train/loss_aux_4a"]
        assert record["train/loss"] == pytest.approx(total, rel=1e-5)
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
def test_checks_refuse_before_compiling(tiny, tmp_path, changes, message):
    with CompilationLog() as log, pytest.raises(UserError, match=message):
        prepare(tiny(**changes), tmp_path)
    assert log.compilations == []


def test_checks_of_a_good_run_compile_nothing(tiny, tmp_path):
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


def test_a_disk_that_is_too_small_is_refused(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 99, 1))
    with pytest.raises(UserError, match=r"has 0 MiB free; 5 checkpoints of .* need"):
        prepare(tiny(), tmp_path)


def test_a_folder_that_cannot_be_created_is_named(tiny):
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


def test_an_evaluation_that_a_signal_cancelled_is_repeated(finished, short, tmp_path):
    """The state of step 8 is saved and its evaluation is not written: the next start writes it."""
    shutil.copytree(finished[0], tmp_path / "run")
    path = tmp_path / "run" / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]))
    train_and_evaluate(short(), tmp_path / "run")
    assert path.read_text().splitlines(keepends=True) == lines


def script_evaluations(monkeypatch, best, signal_at=None):
    """Makes the evaluation after step `best` the best, and has SIGTERM come during that of another."""
    evaluate_step = loop.Run._evaluate

    def evaluate(self, step, state):
        self.evaluated_step = step
        if step == signal_at:
            self.stop.note(signal.SIGTERM)
        return evaluate_step(self, step, state)

    def figures(self, variables, until=lambda: False):
        top1 = 0.9 if self.evaluated_step == best else 0.1 + self.evaluated_step / 100
        return {} if until() else {"top1": top1, "top5": 0.95, "loss": 1.5, "count": 96.0}

    monkeypatch.setattr(loop.Run, "_evaluate", evaluate)
    monkeypatch.setattr(loop.Run, "evaluate", figures)


@pytest.mark.slow
def test_a_signal_during_the_best_evaluation_loses_no_checkpoint(short, tmp_path, monkeypatch):
    """The resumed run repeats the evaluation; its metrics decide which checkpoints stay, as without a signal."""
    config = short(eval_every="2 steps", keep_checkpoints=1)
    with monkeypatch.context() as patch:
        script_evaluations(patch, best=4)
        train_and_evaluate(config, tmp_path / "undisturbed")
    with monkeypatch.context() as patch:
        script_evaluations(patch, best=4, signal_at=4)
        with pytest.raises(Interrupted, match="SIGTERM: step 4 is saved"):
            train_and_evaluate(config, tmp_path / "interrupted")
    with monkeypatch.context() as patch:
        script_evaluations(patch, best=4)
        train_and_evaluate(config, tmp_path / "interrupted")
    for workdir in (tmp_path / "undisturbed", tmp_path / "interrupted"):
        assert saved_steps(workdir) == [4, 8]
        assert json.loads((workdir / "summary.json").read_text())["best_step"] == 4
        assert read_variables(workdir).step == 4, "what predict, evaluate and export take"


def test_metrics_that_a_kill_kept_from_the_checkpoint_reach_it(short, tmp_path, monkeypatch):
    """They were written to metrics.jsonl, and the process ended before they were beside the checkpoint."""
    config = short(eval_every="2 steps", duration="4 steps")
    with monkeypatch.context() as patch:
        script_evaluations(patch, best=4, signal_at=4)
        train_and_evaluate(config, tmp_path)  # the last step is finished in any case
        record = tmp_path / "checkpoints" / "4" / "meta" / "metadata"
        meta = json.loads(record.read_text()) | {"metrics": None}
        meta.pop("checksum")
        record.write_text(json.dumps(sign(meta)))
        (tmp_path / "summary.json").unlink()
    with CompilationLog() as log:
        train_and_evaluate(config, tmp_path)
    assert not any("train_step" in name for name in log.compilations), "nothing is evaluated again"
    assert json.loads((tmp_path / "summary.json").read_text())["best"]["top1"] == 0.9


def test_damaged_files_of_a_finished_run_are_written_again(finished, short, tmp_path):
    workdir = Path(shutil.copytree(finished[0], tmp_path / "run"))
    expected = json.loads((workdir / "summary.json").read_text())
    lines = (workdir / "metrics.jsonl").read_text()
    (workdir / "metrics.jsonl").write_text(
        "5\n{}\n" + lines + '{"stfp": 8, "train/loss": 1.0}\n"step"\n{"step": "8"}\n'
    )
    (workdir / "summary.json").write_text("")
    (workdir / "curves.png").unlink()
    train_and_evaluate(short(), workdir)
    summary = json.loads((workdir / "summary.json").read_text())
    assert {name: summary[name] for name in ("last", "best", "best_step")} == {
        name: expected[name] for name in ("last", "best", "best_step")
    }
    assert summary["images_per_second"] > 0
    assert (workdir / "metrics.jsonl").read_text() == lines
    assert matplotlib.image.imread(workdir / "curves.png").shape[:2] == (840, 1320)


def test_the_summary_names_a_checkpoint_that_is_there(finished, short, tmp_path, caplog):
    workdir = Path(shutil.copytree(finished[0], tmp_path / "run"))
    best = json.loads((workdir / "summary.json").read_text())["best_step"]
    other = {4: 8, 8: 4}[best]
    shutil.rmtree(workdir / "checkpoints" / str(best))
    (workdir / "metrics.jsonl").unlink()
    train_and_evaluate(short(), workdir)
    summary = json.loads((workdir / "summary.json").read_text())
    assert summary["best_step"] in saved_steps(workdir)
    assert read_variables(workdir).step == summary["best_step"]
    assert other in saved_steps(workdir)


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


@pytest.mark.parametrize(
    ("workdir", "message"),
    [
        ("", "workdir is ''; it must name a folder"),
        ("  ", "workdir is '  '; it must name a folder"),
        ("~nosuch/x", "is no user of this machine"),
        ("x" * 300, "File name too long"),
        ("/etc/passwd", "workdir /etc/passwd is no folder"),
        ("/dev/null", "workdir /dev/null is no folder"),
        ("a\0b", "NUL"),
    ],
)
def test_what_is_no_workdir_is_refused(workdir, message):
    with pytest.raises(UserError, match=message):
        resolve_workdir(workdir)


def test_a_fifo_is_no_workdir(tmp_path):
    os.mkfifo(tmp_path / "run")
    with pytest.raises(UserError, match="is no folder"):
        resolve_workdir(tmp_path / "run")


def test_a_worker_that_trains_leaves_and_the_parent_says_why(short, tmp_path, monkeypatch, capsys):
    left = []
    monkeypatch.setattr(multiprocessing.current_process(), "_inheriting", True, raising=False)
    monkeypatch.setattr(os, "_exit", left.append)
    unguarded.leave_worker_that_trains()
    assert left == [unguarded.EXIT_CODE]
    monkeypatch.undo()

    def prepare_together(*_):
        unguarded.check(RuntimeError(f"Worker process was terminated unexpectedly with exit code {left[0]}."))

    monkeypatch.setattr(loop, "prepare_together", prepare_together)
    with pytest.raises(SystemExit) as ended:
        train_and_evaluate(short(), tmp_path)
    assert ended.value.code == 2
    line = capsys.readouterr().err
    assert 'if __name__ == "__main__":' in line
    assert line.count("\n") == 1


SCRIPT = """
import sys
from configs import default
from inception_jax.training import train_and_evaluate
config = default.get_config()
config.model.name, config.model.width = "googlenet_cifar", 0.05
config.data.data_dir, config.data.workers, config.platform = sys.argv[1], 2, "cpu"
train_and_evaluate(config, sys.argv[2])
"""


@pytest.mark.slow
def test_a_script_without_a_guard_ends_with_one_line(tmp_path, digits_dir):
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, tmp_path / "script.py", digits_dir, tmp_path / "run"],
        env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: A data worker imported the script")
    assert "Traceback" not in done.stderr
