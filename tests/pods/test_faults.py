"""Repeated faults of all kinds, run by hand as CONTRIBUTING.md says; docs/PODS.md has the results."""

import os
import random
import shutil
import signal
import time
from pathlib import Path

import chex
import jax
import pytest

from inception_jax.training.checkpoints import checksums
from inception_jax.training.workdir import saved_steps
from inception_jax.training.writers import read_metrics
from tests.pods.conftest import final_state

pytestmark = [pytest.mark.faults, pytest.mark.usefixtures("short_network")]

STEPS = 60
SHAPES = [(2, 4), (4, 2), (1, 8), (2, 4), (4, 2)]  # processes, devices of each


@pytest.fixture(scope="session")
def long_config(tiny):
    every = {"log_every": "4 steps", "checkpoint_every": "4 steps", "eval_every": "20 steps"}
    model, data = {"name": "short", "width": 1.0}, {"eval_split": "test[:90]"}
    slow = {"learning_rate": 0.002}  # at a higher rate steps 30 to 60 amplify rounding a hundred thousand times
    return tiny(duration=f"{STEPS} steps", model=model, data=data, optimizer=slow, **every)


@pytest.fixture(scope="session")
def long_undisturbed(pod, long_config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("undisturbed") / "run"
    with pod(workdir, config=long_config) as processes:
        assert processes.wait() == {0: 0, 1: 0}, processes.log(0)
    return workdir


def ends(processes, within=60, spare=()) -> float:
    """Returns the seconds until every process but `spare` has ended, with an error."""
    begin = time.monotonic()
    while any(process.poll() is None for i, process in processes.processes.items() if i not in spare):
        assert time.monotonic() - begin < within, processes.log(0)[-2000:]
        time.sleep(0.05)
    assert 0 not in [process.poll() for process in processes.processes.values()]
    return time.monotonic() - begin


def begun(processes) -> int:
    """Returns the step after which a run resumes."""
    processes.wait_for(" of 60 steps")
    log = processes.log(0)
    return int(log.split("resumes after step ")[1].split()[0]) if "resumes after step" in log else 0


def kill(pod, long_config, workdir, number, moments, shape):
    """Kills one process: at a random moment, or, every other time, during a save."""
    with pod(workdir, *shape, config=long_config) as processes:
        step = begun(processes)
        folder = workdir / "checkpoints"
        while processes.processes[0].poll() is None:
            if any(folder.glob("*tmp*")) if number % 2 else max(saved_steps(workdir), default=0) > step:
                break
            time.sleep(0.005)
        if number % 2 == 0:
            time.sleep(moments.uniform(0, 1))
        victim = moments.randrange(shape[0])
        processes.processes[victim].kill()
        saving = any(folder.glob("*tmp*"))
        return step, saving, ends(processes)


@pytest.mark.parametrize("shapes", [[(2, 4)], SHAPES], ids=["the same number", "other numbers"])
def test_killed_ten_times(pod, long_config, long_undisturbed, tmp_path, shapes):
    moments = random.Random(len(shapes))
    steps, saving, seconds = zip(
        *(kill(pod, long_config, tmp_path / "run", i, moments, shapes[i % len(shapes)]) for i in range(10)), strict=True
    )
    with pod(tmp_path / "run", config=long_config) as processes:
        assert set(processes.wait().values()) == {0}, processes.log(0)
    print(f"went on after steps {steps}; {sum(saving)} of 10 hit a save; the others ended within {max(seconds):.1f} s")
    assert list(steps) == sorted(steps), "no saved step is lost"
    assert len(set(steps)) > 4
    written = [record["step"] for record in read_metrics(tmp_path / "run" / "metrics.jsonl")]
    assert written == sorted(written)
    assert sorted(set(written)) == list(range(4, STEPS + 1, 4))
    check_equal(long_config, tmp_path / "run", long_undisturbed, exact=len(set(shapes)) == 1)


def check_equal(long_config, workdir, other, exact):
    ours, theirs = final_state(long_config, workdir), final_state(long_config, other)
    if exact:
        assert checksums(ours) == checksums(theirs)
    else:  # sums are rounded otherwise; after a lost or repeated batch every loss would be another
        (lines, expected) = (losses(each) for each in (workdir, other))
        assert {step: loss for step, loss in expected.items() if step in lines} == pytest.approx(lines, rel=1e-3)
        assert len(lines) > STEPS / 8
        chex.assert_trees_all_close(jax.device_get(ours.params), jax.device_get(theirs.params), rtol=0.1, atol=1e-3)


def losses(workdir) -> dict[int, float]:
    """Returns the mean loss by step, where it is the mean of four steps: those before an interruption are fewer."""
    found = [(r["step"], r["train/loss"]) for r in read_metrics(workdir / "metrics.jsonl") if "train/loss" in r]
    steps = [0, *(step for step, _ in found)]
    return {step: loss for before, (step, loss) in zip(steps, found, strict=False) if step - before == 4}


def test_signals_from_topology_to_topology(pod, long_config, long_undisturbed, tmp_path):
    sharded = {i: ["--config.mesh.fsdp=4"] for i in range(4)}
    for shape, extra in [((4, 2), sharded), ((2, 4), {}), ((1, 8), sharded), ((2, 4), sharded)]:
        with pod(tmp_path / "run", *shape, config=long_config, extra=extra) as processes:
            step = begun(processes)
            processes.wait_for(f"step {4 * (step // 4 + 2)}/")
            processes.processes[shape[0] - 1].send_signal(signal.SIGTERM)
            assert set(processes.wait().values()) == {75}, processes.log(0)
    with pod(tmp_path / "run", config=long_config) as processes:
        assert set(processes.wait().values()) == {0}, processes.log(0)
    check_equal(long_config, tmp_path / "run", long_undisturbed, exact=False)


def test_a_signal_during_an_evaluation(pod, long_config, long_undisturbed, tmp_path):
    with pod(tmp_path / "run", config=long_config) as processes:
        processes.wait_for("step 20/60  train")
        processes.processes[1].send_signal(signal.SIGTERM)
        assert processes.wait() == {0: 75, 1: 75}, processes.log(0)
        print(processes.log(0).splitlines()[-1])
    with pod(tmp_path / "run", config=long_config) as processes:
        assert processes.wait() == {0: 0, 1: 0}
    check_equal(long_config, tmp_path / "run", long_undisturbed, exact=True)


@pytest.mark.parametrize("frozen", [1, 0])
def test_a_frozen_process(pod, long_config, tmp_path, frozen):
    with pod(tmp_path / "run", config=long_config) as processes:
        processes.wait_for("step 4/")
        processes.processes[frozen].send_signal(signal.SIGSTOP)
        print(f"the other ended after {ends(processes, spare=[frozen]):.1f} s")


def test_a_dead_data_worker(pod, long_config, tmp_path):
    with pod(tmp_path / "run", config=long_config, extra={i: ["--config.data.workers=1"] for i in (0, 1)}) as processes:
        processes.wait_for("step 4/")
        parent = processes.processes[1].pid
        tasks = Path(f"/proc/{parent}/task").glob("*/children")
        children = [pid for task in tasks for pid in task.read_text().split()]
        workers = [int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        os.kill(workers[0], signal.SIGKILL)
        print(f"both ended after {ends(processes):.1f} s")
        assert "A data worker died" in processes.log(1)
        assert {process.returncode for process in processes.processes.values()} == {2}
        assert "error: Process 1 (on " in processes.log(0)


def test_a_damaged_checkpoint(pod, long_config, long_undisturbed, tmp_path):
    shutil.copytree(long_undisturbed, tmp_path / "run")
    last = tmp_path / "run" / "checkpoints" / str(STEPS)
    next(path for path in last.rglob("manifest.ocdbt")).unlink()
    with pod(tmp_path / "run", config=long_config) as processes:
        assert processes.wait() == {0: 0, 1: 0}, processes.log(0)
        assert "resumes after step 56" in processes.log(0)
    check_equal(long_config, tmp_path / "run", long_undisturbed, exact=True)
