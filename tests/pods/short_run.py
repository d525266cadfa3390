"""train.py with the short network in the zoo: one process of many that must compile in seconds."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import train
from inception_jax.models import zoo
from inception_jax.parallel import mesh
from tests.short import SHORT

zoo.MODELS["short"] = SHORT
mesh.SMALLEST_SHARDED = 256  # so that a mesh with fsdp shards something

if __name__ == "__main__":
    train.run()
