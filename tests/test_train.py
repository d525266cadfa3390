"""train.py as its users start it: one line and an exit code for every fault."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from inception_jax.training.saved import read_variables

ROOT = Path(__file__).parents[1]


def train(*flags, timeout=120):
    command = [sys.executable, "train.py", "--compile_cache=", *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--config=configs/digit.py"], "No such file or directory: 'configs/digit.py'"),
        (["--config=configs/digits.py", "--config.batchsize=3"], "config.batchsize is unknown; nearest: batch_size"),
        (["--config=configs/digits.py", "--config.batch_size.x=3"], "config.batch_size is no section"),
        (["--config=configs/digits.py", "--config.batch_size=many"], "flag --config.batch_size=many: invalid literal"),
        (
            ["--config=configs/digits.py", "--config.loss.aux_weights.aux_4a=-1.0"],
            "config.loss.aux_weights.aux_4a is -1.0",
        ),
        (
            ["--config=configs/default.py", "--config.loss.aux_weights.aux_4a=0.2"],
            "'aux_4a'\"; a flag changes the weights of heads that the config file names",
        ),
        (["--config=configs/digits.py", "--batch_size=3"], "Unknown command line flag 'batch_size'"),
        (["--config=configs/digits.py", "digits"], "Unknown arguments: digits"),
        (["--config=configs/digits.py", "--config.data.name=mnits", "--dry_run"], "Nearest: mnist"),
    ],
)
def test_fault_is_one_line_and_exit_code_2(tmp_path, flags, message):
    result = train(f"--workdir={tmp_path}", *flags)
    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert message in result.stderr


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


def test_deterministic_runs_are_equal_and_say_so(tmp_path, digits_dir):
    config = [
        "--config=configs/default.py",
        "--config.model.name=short",
        "--config.batch_size=32",
        "--config.duration=20 steps",
    ]
    config += ["--config.eval_every=20 steps", "--config.platform=cpu", f"--config.data.data_dir={digits_dir}"]
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
