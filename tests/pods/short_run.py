"""tests/short_train.py with a mesh that shards also small parameters over "fsdp"."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from inception_jax.parallel import signals

if __name__ == "__main__":
    signals.watch()

from inception_jax.parallel import mesh
from tests.short_train import train

mesh.SMALLEST_SHARDED = 256  # so that a mesh with fsdp shards something

if __name__ == "__main__":
    train.run()
