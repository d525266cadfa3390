"""Trains an Inception network: python train.py --config configs/digits.py --workdir DIR [--config.batch_size=...].

Run the same command again to resume. Many hosts: docs/PODS.md. Exit codes: 0 finished, 2 bad input or environment, 3 a
number became NaN or infinite, 75 stopped by a signal with its state saved, 1 anything else.
"""

import os
import sys
from logging import getLogger

from absl import app, flags, logging
from ml_collections import config_flags

from inception_jax.errors import EXPECTED
from inception_jax.parallel.faults import leave
from inception_jax.parallel.processes import start_processes
from inception_jax.training import TrainConfig, prepare_together, resolve_workdir, train_and_evaluate
from inception_jax.training.compilation import use_compilation_cache, use_deterministic_kernels
from inception_jax.training.flags import parse_flags
from inception_jax.training.preview import describe
from inception_jax.training.workdir import saved_steps

CONFIG = config_flags.DEFINE_config_file("config", None, "The experiment; --config.FIELD=VALUE changes a field.")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run: checkpoints, metrics, curves.", required=True)
COMPILE_CACHE = flags.DEFINE_string("compile_cache", "~/.cache/inception_jax/xla", "Compiled programs; empty: none.")
COORDINATOR = flags.DEFINE_string("coordinator", os.environ.get("JAX_COORDINATOR_ADDRESS"), "Process 0, ADDRESS:PORT.")
PROCESSES = flags.DEFINE_integer("processes", os.environ.get("JAX_NUM_PROCESSES"), "How many; see docs/PODS.md.", 1)
PROCESS = flags.DEFINE_integer("process", os.environ.get("JAX_PROCESS_ID"), "Which of them this is, from 0.", 0)
START_TIMEOUT = flags.DEFINE_integer("start_timeout", 300, "Seconds within which all processes must have come.", 1)
DETERMINISTIC = flags.DEFINE_bool("deterministic", False, "On GPUs, too, the same run gives the same numbers; slower.")
DRY_RUN = flags.DEFINE_bool("dry_run", False, "Check config, data, devices and disk, then stop.")


def main(_: list[str]) -> None:
    use_deterministic_kernels(DETERMINISTIC.value)
    start_processes(COORDINATOR.value, PROCESSES.value, PROCESS.value, START_TIMEOUT.value)
    use_compilation_cache(COMPILE_CACHE.value)
    config = TrainConfig.parse(CONFIG.value)
    if DRY_RUN.value:
        workdir = resolve_workdir(WORKDIR.value)
        experiment = prepare_together(config, workdir)
        print(describe(experiment, max(saved_steps(workdir), default=0)))
        print("Config, data, devices and disk are as the run needs them.")
    else:
        train_and_evaluate(config, WORKDIR.value)


def run() -> None:
    flags.mark_flag_as_required("config")
    logging.set_verbosity(logging.FATAL)  # what Orbax logs as an error it also raises
    getLogger("inception_jax").setLevel("WARNING")
    try:
        app.run(main, flags_parser=parse_flags)
    except EXPECTED as error:
        print(f"error: {error}", file=sys.stderr)
        leave(error, error.exit_code)
        sys.exit(error.exit_code)
    except Exception as error:
        leave(error, 1)
        raise


if __name__ == "__main__":
    run()
