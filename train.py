"""Trains an Inception network: python train.py --config configs/digits.py --workdir DIR [--config.batch_size=...].

Run the same command again to resume. Many hosts: docs/PODS.md. Exit codes: 0 finished, 2 bad input or environment, 3 a
number became NaN or infinite, 75 stopped by a signal with nothing lost, 130 or 143 by a second one, 1 anything else.
"""

from inception_jax.parallel import signals

if __name__ == "__main__":
    signals.watch()  # before the imports of `run`, which take seconds


def run() -> None:
    from inception_jax.training.program import run_program

    run_program(__doc__ or "")


if __name__ == "__main__":
    run()
