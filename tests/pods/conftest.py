"""A run of the short network, alone and by many processes."""

import os
import subprocess
import sys

import jax
import pytest

from inception_jax.parallel.mesh import state_shardings
from inception_jax.training import prepare
from inception_jax.training.checkpoints import Checkpoints
from inception_jax.training.writers import read_metrics
from tests.pods.bucket import emulated
from tests.pods.pod import QUICK, Pod, free_port
from tests.training.conftest import ROOT, compile_cache, flags, tiny

__all__ = ["compile_cache", "tiny"]

STEPS = 12


@pytest.fixture(scope="session")
def config(tiny):
    """Returns the config; the last batch of an evaluation of 90 images is no whole one."""
    return tiny(
        duration=f"{STEPS} steps",
        model={"name": "short", "width": 1.0},
        data={"eval_split": "test[:90]"},
        optimizer={"learning_rate": 0.002},  # at a higher rate twelve steps amplify the rounding of sums to a hundredth
    )


@pytest.fixture(scope="session")
def pod(config, compile_cache):
    """Returns a function that starts processes in a workdir."""

    def start(workdir, processes=2, devices=4, **keywords):
        return Pod(keywords.pop("config", config), workdir, processes, devices, compile_cache, **keywords)

    return start


@pytest.fixture(scope="session")
def undisturbed(config, compile_cache, tmp_path_factory):
    """Returns the workdir of a run of two processes that nothing interrupts, started as docs/PODS.md says."""
    workdir = tmp_path_factory.mktemp("undisturbed") / "run"
    own = {"PORT": str(free_port()), "PYTHON": sys.executable, "PROGRAM": "tests/pods/short_run.py", "XLA_FLAGS": QUICK}
    command = ["launch/local.sh", "2", "--config=configs/default.py", f"--workdir={workdir}", *flags(config)]
    command.append(f"--compile_cache={compile_cache}")
    done = subprocess.run(command, cwd=ROOT, env=os.environ | own, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    for process in (0, 1):
        assert f"process {process}/2 on " in done.stdout
    return workdir


@pytest.fixture
def bucket(monkeypatch, tmp_path):
    """Returns an empty bucket, which the processes of a test reach."""
    with emulated(tmp_path / "bucket.log") as bucket:
        for name, value in bucket.environment.items():
            monkeypatch.setenv(name, value)
        yield bucket


def losses(workdir) -> dict[int, float]:
    """Returns the training loss by step."""
    records = read_metrics(workdir / "metrics.jsonl")
    return {record["step"]: record["train/loss"] for record in records if "train/loss" in record}


def final_state(config, workdir):
    """Returns the last state of a run, read on the eight devices of this process."""
    experiment = prepare(config, workdir)
    with Checkpoints(workdir / "checkpoints", config.keep_checkpoints) as checkpoints:
        state = checkpoints.restore(experiment.abstract_state, config)
    assert jax.tree.map(lambda leaf: leaf.sharding, state) == state_shardings(state, experiment.mesh)
    return state
