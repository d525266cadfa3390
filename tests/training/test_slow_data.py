"""A run that waits for its images says so, once."""

import logging
import time
from types import SimpleNamespace

import pytest

from inception_jax.training.loop import Run


@pytest.fixture
def run():
    """A run of which only the clock, the config and what it writes are needed."""
    data = SimpleNamespace(workers=2, threads=4)
    experiment = SimpleNamespace(config=SimpleNamespace(data=data), schedule=lambda step: 0.1, steps_per_epoch=10)
    outputs = SimpleNamespace(first_step=0, written=[], write=lambda step, values: outputs.written.append(values))
    return Run(experiment, outputs, SimpleNamespace(check=lambda: None))


def write_after(run, step, waiting, working):
    run.clock.lap()
    with run.clock.waiting():
        time.sleep(waiting)
    time.sleep(working)
    run.recent = [{"count": 4.0, "loss": 4.0}]
    run._write_train(step)


def test_waiting_is_written_and_warned_of_once(run, caplog):
    with caplog.at_level(logging.WARNING):
        write_after(run, 1, waiting=0.0, working=0.02)
        assert not caplog.records
        write_after(run, 2, waiting=0.03, working=0.01)
        write_after(run, 3, waiting=0.03, working=0.01)
    assert [each["train/data_wait"] > 0.5 for each in run.outputs.written] == [False, True, True]
    assert len(caplog.records) == 1
    assert "waiting for images: raise data.workers (2) or data.threads (4)" in caplog.text
