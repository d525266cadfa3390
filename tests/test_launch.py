"""The scripts of launch/: they name what is missing in one sentence, and start the right processes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted(path for path in (ROOT / "launch").iterdir() if path.suffix in (".sh", ".sbatch"))
BASH = "/bin/bash"
OURS = ("PYTHON", "PROGRAM", "DEVICES", "PORT", "PROJECT", "ZONE", "TPU", "SLURM_JOB_ID", "XLA_FLAGS")

PROGRAM = """
import json, os, sys
names = ("JAX_PROCESS_ID", "JAX_NUM_PROCESSES", "JAX_COORDINATOR_ADDRESS", "JAX_PLATFORMS", "XLA_FLAGS")
seen = {"flags": sys.argv[1:]} | {name: os.environ[name] for name in names}
os.write(1, (json.dumps(seen) + "\\n").encode())  # at once, as the other process writes there, too
sys.exit(3 if os.environ["JAX_PROCESS_ID"] == os.environ.get("FAILS") else 0)
"""

SAVES = """
import os, signal, sys, time
signals = []
signal.signal(signal.SIGTERM, lambda number, frame: signals.append(number))
os.write(1, b"ready\\n")
deadline = time.monotonic() + 30
while not signals and time.monotonic() < deadline:
    time.sleep(0.01)
time.sleep(0.3)  # as long as it takes to save; another signal would be seen
os.write(1, b"saved after %d\\n" % len(signals))
sys.exit(75)
"""


def launch(script, *flags, cwd=ROOT, **variables):
    """Starts a script with these variables alone of those that it reads."""
    environment = {name: value for name, value in os.environ.items() if name not in OURS} | variables
    command = [BASH, str(script), *flags]
    return subprocess.run(
        command,
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        stdin=subprocess.DEVNULL,
    )


@pytest.fixture
def local(tmp_path):
    """Returns a function that starts launch/local.sh of a repository without an environment."""
    (tmp_path / "launch").mkdir()
    script = tmp_path / "launch" / "local.sh"
    script.write_text((ROOT / "launch" / "local.sh").read_text())
    (tmp_path / "train.py").write_text(PROGRAM)
    (tmp_path / "inception_jax").symlink_to(ROOT / "inception_jax")
    return lambda *flags, **variables: launch(script, *flags, **variables)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_read_by_bash(script):
    assert subprocess.run([BASH, "-n", script], capture_output=True, text=True, check=True).stderr == ""
    assert os.access(script, os.X_OK) or script.suffix == ".sbatch"


@pytest.mark.parametrize(
    ("name", "flags", "variables", "message"),
    [
        ("local.sh", [], {}, "it is not said how many processes to start: launch/local.sh PROCESSES --config"),
        ("local.sh", ["--config=a.py"], {}, "PROCESSES is '--config=a.py'; it must be a number from 1"),
        ("local.sh", ["0"], {}, "PROCESSES is '0'"),
        ("local.sh", ["08"], {}, "PROCESSES is '08'"),
        ("local.sh", ["2"], {"DEVICES": "many"}, "DEVICES is 'many'"),
        ("local.sh", ["2"], {"PORT": "99999"}, "PORT is '99999'; it must be a number from 1 to 65535"),
        ("local.sh", ["2"], {"PROGRAM": "/nowhere.py"}, "PROGRAM is '/nowhere.py', which is no file"),
        ("local.sh", ["2"], {"PYTHON": "/nowhere/python"}, "PYTHON is '/nowhere/python', which cannot be run"),
        ("slurm.sbatch", ["--config=a.py"], {}, "this is a job of SLURM: sbatch launch/slurm.sbatch"),
        ("slurm.sbatch", [], {"SLURM_JOB_ID": "1"}, "no flags of train.py"),
        ("slurm.sbatch", ["-h"], {"SLURM_JOB_ID": "1", "PYTHON": "/no"}, "'/no' cannot be run in"),
        ("tpu_vm.sh", ["--config=a.py"], {"PROJECT": "p", "TPU": "t"}, "ZONE is not set: PROJECT=... ZONE=..."),
        ("tpu_vm.sh", [], {"PROJECT": "p", "TPU": "t", "ZONE": "z"}, "no flags of train.py"),
    ],
)
def test_what_is_missing_is_said_in_a_sentence(name, flags, variables, message):
    done = launch(ROOT / "launch" / name, *flags, **variables)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_without_any_python_it_says_so(local):
    done = local("1", PATH="/nowhere")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "error: no Python was found: make the environment" in done.stderr


def test_a_python_without_jax_is_named(local, tmp_path):
    bare = tmp_path / "bare"
    bare.write_text(f'#!{BASH}\nexec {sys.executable} -S -E "$@"\n')  # without packages
    bare.chmod(0o755)
    done = local("1", PYTHON=str(bare))
    assert done.returncode == 2, done.stderr
    assert f"'{bare}' cannot import inception_jax and jax" in done.stderr


def test_processes_learn_who_they_are_from_any_folder_without_an_activated_environment(local, tmp_path):
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    wrapper = tmp_path / ".venv" / "bin" / "python"
    wrapper.write_text(f'#!{BASH}\nexec {sys.executable} "$@"\n')
    wrapper.chmod(0o755)
    done = local("2", "--config=a b.py", cwd="/", PATH="/nowhere", DEVICES="3", PORT="8123", XLA_FLAGS="--mine")
    assert done.returncode == 0, done.stderr
    seen = sorted((json.loads(line) for line in done.stdout.splitlines()), key=lambda each: each["JAX_PROCESS_ID"])
    assert [each["JAX_PROCESS_ID"] for each in seen] == ["0", "1"]
    for each in seen:
        assert each["flags"] == ["--config=a b.py"]
        assert each["JAX_NUM_PROCESSES"] == "2"
        assert each["JAX_COORDINATOR_ADDRESS"] == "127.0.0.1:8123"
        assert each["JAX_PLATFORMS"] == "cpu"
        assert each["XLA_FLAGS"].split() == ["--xla_force_host_platform_device_count=3", "--mine"]


@pytest.mark.parametrize("fails", ["0", "1"])
def test_the_exit_code_is_that_of_the_process_that_failed(local, fails):
    assert local("2", PYTHON=sys.executable, FAILS=fails).returncode == 3


@pytest.mark.parametrize("group", [False, True], ids=["the script", "its group"])
def test_a_signal_reaches_every_process_once_and_is_waited_for(tmp_path, group):
    program = tmp_path / "saves.py"
    program.write_text(SAVES)
    environment = os.environ | {"PYTHON": sys.executable, "PROGRAM": str(program)}
    script = subprocess.Popen(
        [BASH, "launch/local.sh", "2"],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        assert [script.stdout.readline() for _ in range(2)] == ["ready\n"] * 2
        time.sleep(0.1)
        (os.killpg if group else os.kill)(script.pid, signal.SIGTERM)
        said, _ = script.communicate(timeout=30)
    finally:
        script.kill()
        script.communicate()
    assert said.splitlines() == ["saved after 1"] * 2
    assert script.returncode == 75
