"""Processes that JAX finds by the environment variables of a launcher, without flags."""

import os
import subprocess
import sys

import pytest

from tests.selection import cases
from tests.training.conftest import ROOT, flags

LAUNCHERS = {
    "Open MPI": lambda job, process: {
        "OMPI_MCA_orte_hnp_uri": f"{job}.0;tcp://127.0.0.1:34911",
        "OMPI_COMM_WORLD_SIZE": "2",
        "OMPI_COMM_WORLD_RANK": f"{process}",
        "OMPI_COMM_WORLD_LOCAL_RANK": f"{process}",
    },
    "SLURM": lambda job, process: {
        "SLURM_JOB_ID": f"{job}",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": "2",
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_PROCID": f"{process}",
        "SLURM_LOCALID": f"{process}",
    },
}


@pytest.mark.parametrize("launcher", cases(LAUNCHERS, fast=["SLURM"]))
def test_jax_finds_the_processes_of(launcher, config, tmp_path):
    job = os.getpid() + len(launcher)  # JAX makes the port of its coordinator of it
    command = [sys.executable, "-u", "tests/pods/short_run.py", "--config=configs/default.py", *flags(config)]
    command += [f"--workdir={tmp_path / 'run'}", "--dry_run", "--start_timeout=60"]
    cpu = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    started = [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | cpu | LAUNCHERS[launcher](job, process),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for process in (0, 1)
    ]
    for number, process in enumerate(started):
        said, _ = process.communicate(timeout=120)
        assert process.returncode == 0, said
        assert f"process {number}/2 on " in said
        assert "2 of 4 devices" in said
