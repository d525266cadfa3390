"""A run of the short network, alone and by many processes."""

import jax
import pytest

from inception_jax.parallel.mesh import state_shardings
from inception_jax.training import prepare
from inception_jax.training.checkpoints import Checkpoints
from tests.pods.pod import Pod
from tests.training.conftest import compile_cache, tiny

__all__ = ["compile_cache", "tiny"]

STEPS = 12


@pytest.fixture(scope="session")
def config(tiny):
    """Returns the config; the last batch of an evaluation of 90 images is no whole one."""
    return tiny(
        duration=f"{STEPS} steps",
        model={"name": "short", "width": 1.0},
        data={"eval_split": "test[:90]"},
    )


@pytest.fixture(scope="session")
def pod(config, compile_cache):
    """Returns a function that starts processes in a workdir."""

    def start(workdir, processes=2, devices=4, **keywords):
        return Pod(keywords.pop("config", config), workdir, processes, devices, compile_cache, **keywords)

    return start


@pytest.fixture(scope="session")
def undisturbed(pod, tmp_path_factory):
    """Returns the workdir of a run of two processes that nothing interrupts."""
    workdir = tmp_path_factory.mktemp("undisturbed") / "run"
    with pod(workdir) as processes:
        assert processes.wait() == {0: 0, 1: 0}, processes.log(0) + processes.log(1)
    return workdir


def final_state(config, workdir):
    """Returns the last state of a run, read on the eight devices of this process."""
    experiment = prepare(config, workdir)
    with Checkpoints(workdir / "checkpoints", config.keep_checkpoints, "eval_ema/top1") as checkpoints:
        state = checkpoints.restore(experiment.abstract_state, config)
    assert jax.tree.map(lambda leaf: leaf.sharding, state) == state_shardings(state, experiment.mesh)
    return state
