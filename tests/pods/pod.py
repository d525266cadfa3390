"""Starts the processes of one run on this machine, each with CPU devices of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from tests.training.conftest import ROOT, flags

QUICK = "--xla_backend_optimization_level=0"  # these programs take longer to compile than to run


def free_port() -> int:
    """Returns a port of this machine that nothing uses."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Pod:
    """The processes of a run in `workdir`; use it as a context manager, so that none survives.

    Args:
      config: of the run.
      workdir: its folder; of a process of its own in `workdirs`.
      processes, devices: how many processes, and devices of each.
      compile_cache: folder of compiled programs.
      extra: more flags, by process.
      start: which processes to start; all of them, if None.
      timeout: seconds that they wait for each other.
      logs: folder of what they print; beside the workdir, if None.
    """

    def __init__(
        self,
        config,
        workdir,
        processes,
        devices,
        compile_cache,
        extra=None,
        workdirs=None,
        start=None,
        timeout=120,
        logs=None,
    ):
        self.logs = Path(logs or f"{workdir}.logs")
        self.logs.mkdir(parents=True, exist_ok=True)
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} {QUICK}",
        }
        command = [sys.executable, "-u", "tests/pods/short_run.py", "--config=configs/default.py", *flags(config)]
        command += [
            f"--compile_cache={compile_cache}",
            f"--coordinator=127.0.0.1:{free_port()}",
            f"--processes={processes}",
        ]
        self.processes = {}
        for i in range(processes) if start is None else start:
            own = [f"--workdir={(workdirs or {}).get(i, workdir)}", f"--process={i}", f"--start_timeout={timeout}"]
            with (self.logs / f"{i}.log").open("w") as log:
                self.processes[i] = subprocess.Popen(
                    [*command, *own, *(extra or {}).get(i, [])], cwd=ROOT, env=environment, stdout=log, stderr=log
                )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes.values():
            process.kill()
            process.wait()

    def log(self, i) -> str:
        return (self.logs / f"{i}.log").read_text()

    def wait(self, timeout=180) -> dict[int, int]:
        """Returns the exit code of each process."""
        deadline = time.monotonic() + timeout
        return {i: process.wait(max(deadline - time.monotonic(), 0)) for i, process in self.processes.items()}

    def wait_for(self, text, i=0, timeout=180) -> None:
        """Returns when process i has printed `text`."""
        deadline = time.monotonic() + timeout
        while text not in self.log(i):
            assert self.processes[i].poll() is None, f"ended before it printed {text!r}:\n{self.log(i)[-3000:]}"
            assert time.monotonic() < deadline, f"no {text!r} in\n{self.log(i)[-3000:]}"
            time.sleep(0.02)
