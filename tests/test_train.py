"""train.py as users start it: one line and an exit code for every mistake."""

import contextlib
import hashlib
import json
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import numpy as np
import pytest
from absl import flags as absl_flags

from inception_jax.errors import UserError
from inception_jax.training import program
from inception_jax.training.saved import read_variables
from tests import processes
from tests.selection import slow

ROOT = Path(__file__).parents[1]


def train(*flags, timeout=120):
    command = [sys.executable, "train.py", "--compile_cache=", *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        slow((["--config=configs/digit.py"], "No such file or directory: 'configs/digit.py'")),
        slow(
            (["--config=configs/digits.py", "--config.batchsize=3"], "config.batchsize is unknown; nearest: batch_size")
        ),
        slow((["--config=configs/digits.py", "--config.batch_size.x=3"], "config.batch_size is no section")),
        (
            ["--config=configs/digits.py", "--config.batch_size=many"],
            "error: config.batch_size is 'many'; it must be an integer.",
        ),
        (
            ["--config=configs/digits.py", "--config.loss.aux_weights.aux_4a=-1.0"],
            "config.loss.aux_weights.aux_4a is -1.0",
        ),
        (
            ["--config=configs/default.py", "--config.loss.aux_weights.aux_4a=0.2"],
            "'aux_4a'\"; an override changes the weights of heads that the config file names",
        ),
        slow((["--config=configs/digits.py", "digits"], "Unknown arguments: digits")),
        (["--config=configs/digits.py", "--config.data.name=mnits", "--dry_run"], "Nearest: mnist"),
    ],
)
def test_fault_is_one_line_and_exit_code_2(tmp_path, flags, message):
    result = train(f"--workdir={tmp_path}", *flags)
    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert message in result.stderr


@pytest.mark.slow  # test_flags_that_do_not_fit_say_what_does asks the same without a process
def test_missing_workdir_is_named():
    result = train("--config=configs/digits.py")
    assert result.returncode == 2
    assert "--workdir" in result.stderr


def test_broken_config_file_is_one_line(tmp_path):
    (tmp_path / "mine.py").write_text("def get_config():\n    return 1 +\n")
    result = train(f"--config={tmp_path / 'mine.py'}", f"--workdir={tmp_path / 'run'}")
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "invalid syntax" in result.stderr


def test_dry_run_checks_and_stops(tmp_path, digits_dir):
    flags = ["--config=configs/digits.py", f"--workdir={tmp_path}", "--dry_run", f"--config.data.data_dir={digits_dir}"]
    result = train(*flags, "--config.loss.aux_weights.aux_4a=0.2")
    assert (result.returncode, result.stderr) == (0, "")
    assert "as the run needs them" in result.stdout
    first, second, *_ = result.stdout.splitlines()
    assert first == ("googlenet_cifar on digits: 10 classes, 1,437 images, 16 x 16 pixels; 360 evaluation images"), (
        "what is learned, from how much, and at which size"
    )
    assert second.startswith("starts of 269 steps of 64 images (12 epochs); ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_deterministic_runs_are_equal_and_say_so(tmp_path, digits_dir):
    config = [
        "--config=configs/default.py",
        "--config.model.name=short",
        "--config.batch_size=32",
        "--config.duration=4 steps",
    ]
    config += ["--config.eval_every=4 steps", "--config.platform=cpu", f"--config.data.data_dir={digits_dir}"]
    flags = ["-m", "tests.short_train", "--deterministic", f"--compile_cache={tmp_path / 'cache'}", *config]
    digests = set()
    for name in ("one", "two"):
        command = [sys.executable, *flags, f"--workdir={tmp_path / name}"]
        subprocess.run(command, cwd=ROOT, check=True, timeout=120, capture_output=True)
        leaves = jax.tree.leaves(read_variables(tmp_path / name, average=False).variables)
        digests.add(hashlib.sha256(b"".join(np.asarray(leaf).tobytes() for leaf in leaves)).hexdigest())
        summary = json.loads((tmp_path / name / "summary.json").read_text())
        assert "--xla_gpu_deterministic_ops=true" in summary["xla_flags"].split()
    assert len(digests) == 1


@pytest.fixture
def parsed():
    """Returns a function that parses flags in this process, and what it raises, and leaves none behind."""

    def parse(*arguments, **environment):
        with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of how ml_collections loads a file
            patch.setattr(sys, "argv", ["train.py", *arguments])
            try:
                return program.parse_flags(sys.argv, program.OURS, environment)
            finally:
                for name in [name for name in absl_flags.FLAGS if name.startswith("config.")]:
                    delattr(absl_flags.FLAGS, name)
                absl_flags.FLAGS.unparse_flags()

    return parse


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--confg.x=3"], "--confg.x is unknown; nearest: --config"),
        (["--config=configs/digits.py", "--batch_size=3"], "--batch_size is unknown; nearest: --config.batch_size."),
        (["--config=configs/digits.py", "--config.optimzer.x=3"], "config.optimzer is unknown; nearest: optimizer"),
        (["--config", "configs/digits.py", "--procesess", "3"], "--procesess is unknown; nearest: --processes"),
        (["--start_timeout=soon"], "--start_timeout is 'soon'; it must be a positive integer."),
        (["--dry_run=7"], "--dry_run is '7'; it must be true or false."),
        (["--config=configs/digits.py"], "--workdir is missing: the folder of the run, new or begun."),
        (["--workdir=x"], "--config is missing: a file such as configs/digits.py."),
        (["--config=configs/digit.py", "--workdir=x"], "nearest: configs/digits.py"),
        (["--config=configs/digit.py", "--workdir=x"], "No such file or directory: 'configs/digit.py'"),
        (["--config=configs/digits.py", "--workdir=x", "--config.batchsize=3"], "config.batchsize is unknown; nearest"),
        (["--config=configs/digits.py", "--workdir=x", "--config.batch_size.x=3"], "config.batch_size is no section"),
        (["--config=configs/digits.py", "--workdir=x", "digits"], "Unknown arguments: digits"),
    ],
)
def test_flags_that_do_not_fit_say_what_does(parsed, arguments, message, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError) as raised:
        parsed(*arguments)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    assert "absl" not in str(raised.value)


def test_help_is_asked_for(parsed):
    assert not parsed("--help")
    text = program.help_text("What it does.", program.OURS)
    assert text.startswith("What it does.\n\nFlags:\n  --config: ")


def test_the_environment_names_the_processes(parsed, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError, match=r"--processes is 'many'; it must be a positive integer\."):
        parsed("--config=configs/digits.py", "--workdir=x", processes="many")
    assert parsed("--config=configs/digits.py", "--workdir=x", "--processes=2", processes="many")


@pytest.mark.slow  # test_help_is_asked_for needs no process
def test_help_ends_with_0():
    result = train("--help")
    assert (result.returncode, result.stderr) == (0, "")
    assert "--workdir" in result.stdout


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_modules_are_imported_is_one_line(tmp_path, number):
    command = [sys.executable, "-X", "importtime", "train.py", "--config=configs/digits.py", f"--workdir={tmp_path}"]
    with processes.started(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if "inception_jax.parallel.signals" not in line and " absl" in line:
                break
        process.send_signal(number)
        rest = [line for line in process.stderr if not line.startswith("import time:")]
    assert process.returncode == 75
    name = signal.Signals(number).name
    assert rest == [f"{name} before the first step: nothing was trained; the same command starts again.\n"]


# Waits in C for ever, as a compilation does for minutes: no signal ends the wait for a mutex.
STUCK = """
import ctypes, signal, sys, threading
from inception_jax.parallel import signals
signals.watch()
if sys.argv[1] == "training":
    signals.noted(lambda number: print("noted", signal.Signals(number).name, flush=True)).__enter__()
signals.resumes_after(int(sys.argv[2]))
threading.Timer(0.3, print, ["ready"], {"flush": True}).start()  # by then the main thread waits
mutex = ctypes.create_string_buffer(64)
for _ in range(2):
    ctypes.CDLL(None).pthread_mutex_lock(mutex)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_are_answered_while_the_main_thread_is_in_c(number):
    name = signal.Signals(number).name

    @contextlib.contextmanager
    def start(*arguments):
        command, pipe = [sys.executable, "-c", STUCK, *arguments], subprocess.PIPE
        with processes.started(command, seconds=120, cwd=ROOT, stdout=pipe, stderr=pipe, text=True) as process:
            assert process.stdout.readline() == "ready\n"
            process.send_signal(number)
            yield process

    with start("before", "8") as process:
        assert process.wait() == 75
        line = process.stderr.read()
    assert line == f"{name} before the first step: nothing was trained; the same command resumes after step 8.\n"
    with start("training", "0") as process:
        assert process.stdout.readline() == f"noted {name}\n"
        process.send_signal(number)
        assert process.wait() == 128 + number
        line = process.stderr.read()
    assert line == f"{name} again: ended at once; the same command resumes from the last checkpoint.\n"
