"""Real processes, interrupted by signals and a full disk: resumed runs end with the parameters of undisturbed ones."""

import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
import types

import jax
import numpy as np
import pytest

from inception_jax.parallel.mesh import state_shardings
from inception_jax.training import prepare, program
from inception_jax.training.checkpoints import Checkpoints, checksums
from tests import processes
from tests.selection import cases
from tests.training.conftest import ROOT, flags

STEPS = 60


@pytest.fixture(scope="module")
def config(tiny, short_network):
    """Writes a line and saves every four steps."""
    every = {"log_every": "4 steps", "checkpoint_every": "4 steps", "eval_every": "20 steps"}
    return tiny(duration=f"{STEPS} steps", model={"name": "short"}, **every)


@pytest.fixture(scope="module")
def start(config, compile_cache):
    """Returns a function that starts train.py, with the short network, on one CPU device in a workdir."""

    def start(workdir):
        command = [sys.executable, "tests/short_train.py", "--config=configs/default.py", f"--workdir={workdir}"]
        return processes.started(
            [*command, f"--compile_cache={compile_cache}", *flags(config)],
            cwd=ROOT,
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return start


def finish(start, workdir):
    """Runs to the end; returns what the run prints."""
    with start(workdir) as process:
        output, _ = process.communicate()
    assert process.returncode == 0, output
    return output


def final_checksums(config, workdir):
    """Returns the checksums of the last checkpoint, read on one device."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("data", "fsdp"))
    shapes = prepare(config, workdir).abstract_state
    shardings = state_shardings(shapes, mesh)
    target = jax.tree.map(lambda leaf, s: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=s), shapes, shardings)
    with Checkpoints(workdir / "checkpoints", config.keep_checkpoints) as checkpoints:
        state = checkpoints.restore(target, config)
    assert int(state.step) == STEPS
    return checksums(state)


@pytest.fixture(scope="module")
def undisturbed(config, start, tmp_path_factory):
    """Returns the checksums of the run that nothing interrupts."""
    workdir = tmp_path_factory.mktemp("undisturbed")
    finish(start, workdir)
    return final_checksums(config, workdir)


def wait_for_line(process, start):
    """Returns the first line of the process that begins with `start`, or with one of several."""
    for line in process.stdout:
        if line.startswith(start):
            return line
    raise AssertionError(f"the run ended with {process.wait()} before a line {start!r}")


def wait_for_save(process, folder, complete_after):
    """Returns when a checkpoint is being written, or, with a step, when a later one is complete."""
    while process.poll() is None:
        steps = [int(entry.name) for entry in folder.glob("*") if entry.name.isdecimal()]
        if any(folder.glob("*tmp*")) if complete_after is None else max(steps, default=0) > complete_after:
            return
        time.sleep(0.01)


@pytest.mark.parametrize("kills", cases([1, 10], fast=[1]))
def test_killed_many_times(config, start, undisturbed, tmp_path, kills):
    """Every other time at a random moment, every other time during a save."""
    moments = random.Random(0)
    begun, hit_saves = [], 0
    for kill in range(kills):
        with start(tmp_path) as process:
            line = wait_for_line(process, ("starts of ", "resumes after "))
            begun.append(int(line.split("after step ")[1].split()[0]) if "after step" in line else 0)
            wait_for_save(process, tmp_path / "checkpoints", complete_after=None if kill % 2 else begun[-1])
            if kill % 2 == 0:
                time.sleep(moments.uniform(0, 0.4))
            process.kill()
        hit_saves += any(not entry.name.isdecimal() for entry in (tmp_path / "checkpoints").iterdir())
    finish(start, tmp_path)
    assert final_checksums(config, tmp_path) == undisturbed
    assert begun == sorted(begun), "a resume never loses a saved step"
    assert len(set(begun)) > min(kills // 2, 4), f"every other kill leaves progress: {begun}"
    if kills == 10:  # a single save may be over before its kill
        assert hit_saves >= 3
    print(f"resumed after steps {begun}; {hit_saves} kills hit a save")
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps), "no line is written twice"
    assert sorted(set(steps)) == list(range(4, STEPS + 1, 4))


@pytest.mark.slow  # test_loop.py sends signals, too
def test_sigterm_saves_and_says_so(config, start, undisturbed, tmp_path):
    with start(tmp_path) as process:
        wait_for_line(process, "step ")
        process.terminate()
        output = process.stdout.read()
    assert process.returncode == 75, output
    saved = int(output.split("SIGTERM: step ")[1].split()[0])
    assert (tmp_path / "checkpoints" / str(saved)).is_dir()
    output = finish(start, tmp_path)
    assert f"resumes after step {saved}" in output
    assert final_checksums(config, tmp_path) == undisturbed


@pytest.fixture
def small_disk(tmp_path):
    """Returns a folder with a file system of 4 MiB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder]
    if os.geteuid() or shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a file system takes root")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_the_run_resumes_with_more_space(config, start, undisturbed, small_disk):
    workdir = small_disk / "run"
    with start(workdir) as process:
        wait_for_line(process, "step 16/")
        with (small_disk / "full").open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        output = process.stdout.read()
    assert process.returncode == 2, output
    assert [line for line in output.splitlines() if not line.startswith("step ")][-1].startswith("error: ")
    assert "no space left" in output.lower()
    assert "Traceback" not in output
    (small_disk / "full").unlink()
    finish(start, workdir)
    assert final_checksums(config, workdir) == undisturbed


def test_messages_of_other_threads_about_a_failed_save_are_omitted():
    said = []
    hook = program.say_once(lambda *arguments: said.append(arguments))
    closed, other = RuntimeError("Event loop is closed"), RuntimeError("another")
    hook(RuntimeError, closed, None)
    hook(RuntimeError, other, None)
    hook(types.SimpleNamespace(exc_value=closed))
    hook(types.SimpleNamespace(exc_value=other))
    assert [arguments[-2] if len(arguments) == 3 else arguments[0].exc_value for arguments in said] == [other, other]
