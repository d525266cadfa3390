"""Runs of several processes: they train as one process does, and end together when one of them fails."""

import json
import signal
import socket
import time

import chex
import jax
import pytest

from inception_jax.training import read_variables, train_and_evaluate
from inception_jax.training.checkpoints import checksums
from inception_jax.training.writers import read_metrics
from tests.pods.bucket import NAME
from tests.pods.conftest import STEPS, final_state, losses
from tests.selection import cases

pytestmark = pytest.mark.usefixtures("short_network")


def test_two_processes_train_as_one(undisturbed, config, tmp_path):
    """Two processes of four devices compute what one of eight does, but for the rounding of sums."""
    alone = jax.device_get(train_and_evaluate(config, tmp_path / "alone"))
    state = jax.device_get(final_state(config, undisturbed))
    chex.assert_trees_all_close(state, alone, rtol=1e-3, atol=1e-4)
    ours, theirs = (read_metrics(workdir / "metrics.jsonl") for workdir in (undisturbed, tmp_path / "alone"))
    assert [record.keys() for record in ours] == [record.keys() for record in theirs]
    for our, their in zip(ours, theirs, strict=True):
        for name in our.keys() & {"train/loss", "train/top1", "eval/loss", "eval/count", "eval_ema/loss"}:
            assert our[name] == pytest.approx(their[name], rel=1e-3), (our["step"], name)
    names = [{path.name for path in workdir.iterdir()} for workdir in (undisturbed, tmp_path / "alone")]
    assert names[0] == names[1]
    assert json.loads((undisturbed / "summary.json").read_text())["processes"] == 2
    variables = read_variables(undisturbed, average=False, step=STEPS).variables
    chex.assert_trees_all_equal(variables["params"], state.params)


@pytest.mark.slow  # so do the tests of test_faults.py
def test_a_signal_to_one_process_stops_all_after_the_same_step_and_loses_nothing(pod, config, undisturbed, tmp_path):
    workdir = tmp_path / "run"
    with pod(workdir) as processes:
        processes.wait_for("step 2/")
        processes.processes[1].send_signal(signal.SIGTERM)
        assert processes.wait() == {0: 75, 1: 75}, processes.log(0) + processes.log(1)
        said = {line for i in (0, 1) for line in processes.log(i).splitlines() if "SIGTERM" in line}
    assert len(said) == 1
    step = int(said.pop().split("SIGTERM: step ")[1].split()[0])
    assert (workdir / "checkpoints" / str(step)).is_dir()
    with pod(workdir) as processes:
        assert processes.wait() == {0: 0, 1: 0}
        assert f"resumes after step {step}" in processes.log(0)
    assert checksums(final_state(config, workdir)) == checksums(final_state(config, undisturbed))


@pytest.mark.slow
def test_a_killed_process_ends_the_others_and_one_process_resumes(pod, config, undisturbed, tmp_path):
    workdir = tmp_path / "run"
    with pod(workdir) as processes:
        processes.wait_for("step 4/")
        processes.processes[1].kill()
        killed = time.monotonic()
        assert processes.wait(60)[0] != 0
        print(f"process 0 ended {time.monotonic() - killed:.1f} s after process 1 was killed")
    state = jax.device_get(train_and_evaluate(config, workdir))
    chex.assert_trees_all_close(state, jax.device_get(final_state(config, undisturbed)), rtol=1e-3, atol=1e-4)
    ours, theirs = (losses(each) for each in (workdir, undisturbed))
    assert sorted(ours) == list(range(2, STEPS + 1, 2))
    assert ours == pytest.approx(theirs, rel=1e-3), "no batch is lost or repeated"


@pytest.mark.slow  # test_interruptions.py kills runs in folders
def test_a_run_in_a_bucket_is_killed_and_resumes(pod, config, undisturbed, bucket, tmp_path):
    """Two processes write checkpoints into a bucket and are killed during a save, and one goes on."""
    workdir = f"gs://{NAME}/runs/one"
    with pod(workdir, logs=tmp_path / "two") as processes:
        while not any(name.startswith("6/") for name in bucket.names("runs/one/checkpoints/")):
            assert processes.processes[0].poll() is None, processes.log(0)[-3000:]
            time.sleep(0.01)
    with pod(workdir, processes=1, devices=8, logs=tmp_path / "one") as processes:
        assert processes.wait() == {0: 0}, processes.log(0)[-3000:]
        step = int(processes.log(0).split("resumes after step ")[1].split()[0])
    assert step in (4, 6)
    held = bucket.names("runs/one/checkpoints/")
    steps = {name.split("/")[0] for name in held}
    assert str(STEPS) in steps
    assert steps == {name.split("/")[0] for name in held if name.endswith("/commit_success.txt")}, "all are whole"
    assert len(steps) <= config.keep_checkpoints + 1
    (tmp_path / "metrics.jsonl").write_bytes(bucket.read("runs/one/metrics.jsonl"))
    assert losses(tmp_path) == pytest.approx(losses(undisturbed), rel=1e-3), "no batch is lost or repeated"


@pytest.mark.slow
def test_processes_that_differ_stop_with_the_difference(pod, tmp_path):
    other = {1: ["--config.batch_size=64"]}
    with pod(tmp_path / "run", extra=other) as processes:
        assert processes.wait(60) == {0: 2, 1: 2}, processes.log(0)
        for i in (0, 1):
            assert "Process 1 (on " in processes.log(i)
            assert "config.batch_size: 64 there, 32 here" in processes.log(i)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_fault_of_one_process_stops_all_and_names_it(pod, tmp_path):
    with pod(tmp_path / "run", extra={1: ["--config.data.eval_split=nothing"]}) as processes:
        assert processes.wait(60) == {0: 2, 1: 2}, processes.log(0)
        assert "error: Process 1 (on " in processes.log(0)
        assert "has no split 'nothing'" in processes.log(0)


@pytest.mark.parametrize("wrong", cases([0, 1], fast=[]))
def test_the_wrong_platform_of_one_process_stops_all_and_names_it(pod, tmp_path, wrong):
    with pod(tmp_path / "run", extra={wrong: ["--config.platform=tpu"]}) as processes:
        assert processes.wait(60) == {0: 2, 1: 2}, processes.log(0) + processes.log(1)
        message = "config.platform is 'tpu', but JAX runs on 'cpu'"
        assert f"error: {message}" in processes.log(wrong)
        assert f"error: Process {wrong} (on {socket.gethostname()}): {message}" in processes.log(1 - wrong)


@pytest.mark.slow
def test_processes_without_a_common_folder_are_refused(pod, tmp_path):
    with pod(tmp_path / "run", workdirs={1: tmp_path / "other"}) as processes:
        assert processes.wait(60) == {0: 2, 1: 2}, processes.log(0)
        assert "error: Process 1 (on " in processes.log(0)
        assert "is another folder here than for process 0" in processes.log(0)


@pytest.mark.slow
def test_a_missing_process_is_an_error_after_the_timeout(pod, tmp_path):
    with pod(tmp_path / "run", start=[0], timeout=6) as processes:
        assert processes.wait(60) == {0: 2}
        assert "process 0/2" in processes.log(0)
        assert "waited 6 s for the others at 127.0.0.1:" in processes.log(0)
