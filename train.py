"""Trains an Inception network: python train.py --config configs/digits.py --workdir DIR [--config.batch_size=...].

Run the same command again to resume. Exit codes: 0 finished, 2 bad input or environment, 3 the loss became NaN or
infinite, 75 stopped by a signal with its state saved, 1 anything else.
"""

import sys

from absl import app, flags, logging
from ml_collections import config_flags

from inception_jax.errors import EXPECTED

CONFIG = config_flags.DEFINE_config_file("config", None, "The experiment; --config.FIELD=VALUE changes a field.")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run: checkpoints, metrics, curves.")
COMPILE_CACHE = flags.DEFINE_string(
    "compile_cache", "~/.cache/inception_jax/xla", "Folder of compiled programs, kept between runs; empty: none."
)
DRY_RUN = flags.DEFINE_bool("dry_run", False, "Check config, data, devices and disk, then stop.")


def main(argv: list[str]) -> None:
    from inception_jax.training import TrainConfig, prepare, train_and_evaluate, use_compilation_cache

    if argv[1:]:
        raise app.UsageError(f"Unknown arguments: {' '.join(argv[1:])}.")
    if COMPILE_CACHE.value:
        use_compilation_cache(COMPILE_CACHE.value)
    config = TrainConfig.parse(CONFIG.value)
    if DRY_RUN.value:
        prepare(config, WORKDIR.value)
        print("Config, data, devices and disk are as the run needs them.")
    else:
        train_and_evaluate(config, WORKDIR.value)


def run() -> None:
    """Runs `main`; errors that the user can act on are one line and an exit code."""
    flags.mark_flags_as_required(["config", "workdir"])
    logging.set_verbosity(logging.WARNING)
    try:
        app.run(main)
    except EXPECTED as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    run()
