"""Worker processes: what they are, and what becomes of a run when one comes to harm."""

import multiprocessing
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from inception_jax.data import loader
from inception_jax.data.loader import LoaderOptions
from inception_jax.data.transforms import CropFlip
from inception_jax.errors import UserError
from tests.data.images import noise_source


@pytest.fixture(scope="module")
def source():
    return noise_source(37)


class Probe:
    """A transform that reports on its process: 0 is a fresh one without a JAX backend."""

    size = 8
    accepts_encoded = False
    in_parent = False

    def __call__(self, image, rng):
        from jax._src import xla_bridge

        report = xla_bridge.backends_are_initialized() + 2 * Probe.in_parent
        return np.full((8, 8, 3), report, np.uint8)


def evaluate_probe(source, workers: int) -> int:
    batches = loader.eval_batches(source, Probe(), 8, LoaderOptions(workers=workers))
    return max(batch["image"].max() for batch in batches)


def test_workers_are_not_forked_and_start_no_jax_backend(source, monkeypatch):
    assert jax.devices()
    monkeypatch.setattr(Probe, "in_parent", True)
    assert evaluate_probe(source, workers=0) == 3  # the probe works
    assert evaluate_probe(source, workers=1) == 0


def test_a_killed_worker_ends_the_run_with_an_error_and_sigterm_does_not_touch_it(source):
    batches = loader.train_batches(source, CropFlip(8), 8, 0, range(10**6), LoaderOptions(workers=2, buffer=1))
    for _ in range(4):  # from both, so that both are up
        next(batches)
    workers = multiprocessing.active_children()
    assert len(workers) == 2
    workers[0].terminate()
    for _ in range(50):
        next(batches)
    assert workers[0].is_alive()
    workers[0].kill()
    start = time.monotonic()
    with pytest.raises(UserError, match=r"data worker died .*exit code -9.*lower data\.workers"):
        for _ in batches:
            pass
    assert time.monotonic() - start < 30
    assert not multiprocessing.active_children()


def test_closing_the_batches_stops_their_workers(source):
    batches = loader.train_batches(source, CropFlip(8), 8, 0, range(10**6), LoaderOptions(workers=1))
    next(batches)
    assert multiprocessing.active_children()
    batches.close()
    assert not multiprocessing.active_children()


KILLED_PARENT = """
import multiprocessing, os
from inception_jax.data import loader, sources, transforms
source = sources.open_source("digits", "train", {data_dir!r})
batches = loader.train_batches(source, transforms.CropFlip(8), 8, 0, range(10**6), loader.LoaderOptions(workers=1))
next(batches)
print(multiprocessing.active_children()[0].pid, flush=True)
os.kill(os.getpid(), 9)
"""


def test_workers_do_not_outlive_a_killed_parent(digits_dir):
    code = KILLED_PARENT.format(data_dir=digits_dir)
    run = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, timeout=120)
    assert run.returncode == -signal.SIGKILL
    deadline = time.monotonic() + 20
    while is_running(int(run.stdout)):
        assert time.monotonic() < deadline, "the worker lives on"
        time.sleep(0.2)


def is_running(pid: int) -> bool:
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()
    return bool(state) and not state.startswith("Z")
