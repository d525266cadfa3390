"""The program train.py: parses flags, calls `train_and_evaluate`, and ends with an exit code and at most one line."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from logging import LogRecord, getLogger
from typing import Any

from absl import flags, logging
from ml_collections import config_flags

from inception_jax.errors import EXPECTED, Interrupted, printable
from inception_jax.training.flags import help_text, parse_flags

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "The experiment; --config.FIELD=VALUE or --set FIELD=VALUE changes a field."
)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run: checkpoints, metrics, curves.")
COMPILE_CACHE = flags.DEFINE_string("compile_cache", "~/.cache/inception_jax/xla", "Compiled programs; empty: none.")
COORDINATOR = flags.DEFINE_string("coordinator", None, "Process 0, ADDRESS:PORT ($JAX_COORDINATOR_ADDRESS).")
PROCESSES = flags.DEFINE_integer("processes", None, "How many; see docs/PODS.md ($JAX_NUM_PROCESSES).", 1)
PROCESS = flags.DEFINE_integer("process", None, "Which of them this is, from 0 ($JAX_PROCESS_ID).", 0)
START_TIMEOUT = flags.DEFINE_integer("start_timeout", 300, "Seconds within which all processes must have come.", 1)
DETERMINISTIC = flags.DEFINE_bool("deterministic", False, "On GPUs, too, the same run gives the same numbers; slower.")
DRY_RUN = flags.DEFINE_bool("dry_run", False, "Check config, data, devices and disk, then stop.")

OURS = (
    "config", "workdir", "compile_cache", "coordinator", "processes", "process", "start_timeout", "deterministic",
    "dry_run",
)  # fmt: skip
FROM_ENVIRONMENT = {
    "coordinator": "JAX_COORDINATOR_ADDRESS",
    "processes": "JAX_NUM_PROCESSES",
    "process": "JAX_PROCESS_ID",
}


class _PrintableLines(logging.PythonFormatter):
    """absl's log format with unprintable characters escaped: file names could forge lines or control a terminal."""

    def format(self, record: LogRecord) -> str:
        return printable(super().format(record), keep="\n" if record.exc_info else "")


def run_program(description: str) -> None:
    """Runs train.py and exits; an expected error is one line on stderr."""
    logging.use_absl_handler()
    logging.get_absl_handler().setFormatter(_PrintableLines())
    logging.set_verbosity(logging.FATAL)  # Orbax also raises what it logs as errors
    getLogger("inception_jax").setLevel("WARNING")
    sys.excepthook = say_once(sys.excepthook)
    sys.unraisablehook = say_once(sys.unraisablehook)
    try:
        environment = {flag: os.environ[name] for flag, name in FROM_ENVIRONMENT.items() if name in os.environ}
        if not parse_flags(sys.argv, OURS, environment):
            print(help_text(description, OURS))
            return
        _train()
    except EXPECTED as error:
        # A requested stop is not an error.
        print(printable(error if isinstance(error, Interrupted) else f"error: {error}"), file=sys.stderr)
        _leave(error, error.exit_code)
        sys.exit(error.exit_code)
    except Exception as error:
        _leave(error, 1)
        raise


def _train() -> None:
    from inception_jax.parallel.processes import start_processes
    from inception_jax.training import TrainConfig, prepare_together, resolve_workdir, train_and_evaluate
    from inception_jax.training.compilation import use_compilation_cache, use_deterministic_kernels
    from inception_jax.training.preview import describe
    from inception_jax.training.workdir import saved_steps

    workdir = resolve_workdir(WORKDIR.value or "")
    use_deterministic_kernels(DETERMINISTIC.value)
    start_processes(COORDINATOR.value, PROCESSES.value, PROCESS.value, START_TIMEOUT.value)
    use_compilation_cache(COMPILE_CACHE.value)
    config = TrainConfig.parse(CONFIG.value)
    if DRY_RUN.value:
        experiment = prepare_together(config, workdir)
        print(describe(experiment, max(saved_steps(workdir), default=0)))
        print("Config, data, devices and disk are as the run needs them.")
    else:
        train_and_evaluate(config, workdir)


def say_once(hook: Callable[..., Any]) -> Callable[..., Any]:
    """Returns an exception hook that omits what TensorStore's threads print after a failed save.

    Orbax raises the error of the first file and closes its event loop, so that every other file fails with "Event loop
    is closed". `Checkpoints` reports the first error in one line.
    """

    def hook_of_others(*arguments: Any) -> None:
        error = arguments[0].exc_value if len(arguments) == 1 else arguments[1]
        if not (isinstance(error, RuntimeError) and str(error) == "Event loop is closed"):
            hook(*arguments)

    return hook_of_others


def _leave(error: Exception, code: int) -> None:
    if "jax" not in sys.modules:
        return
    from inception_jax.parallel.faults import leave

    leave(error, code)
