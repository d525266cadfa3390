"""train.py with the short network in the zoo, for tests that start processes of it."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from inception_jax.parallel import signals

if __name__ == "__main__":
    signals.watch()

import train
from inception_jax.models import zoo
from tests.short import SHORT

zoo.MODELS["short"] = SHORT

if __name__ == "__main__":
    train.run()
