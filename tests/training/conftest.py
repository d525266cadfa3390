"""A run small enough to repeat: narrow googlenet_cifar on 12 pixel digits."""

import copy
from pathlib import Path

import jax
import pytest

from configs import default
from inception_jax.training import TrainConfig
from inception_jax.training.compilation import use_compilation_cache

TINY = {
    "batch_size": 32,
    "duration": "8 steps",
    "log_every": "2 steps",
    "eval_every": "4 steps",
    "checkpoint_every": "2 steps",
    "ema_decay": 0.9,
    "schedule": {"name": "constant"},  # with any duration the same program
    "model": {"width": 0.05},
    "data": {"image_size": 12, "crop_pad": 1, "flip": False, "eval_split": "test[:96]", "threads": 2},
    "optimizer": {"learning_rate": 0.05},
    "mesh": {"fsdp": 1},
}


@pytest.fixture(scope="session")
def compile_cache(tmp_path_factory) -> str:
    """Returns a folder of compiled programs that the runs of a session share."""
    folder = str(tmp_path_factory.mktemp("xla"))
    use_compilation_cache(folder)
    yield folder
    jax.config.update("jax_compilation_cache_dir", None)


@pytest.fixture(scope="session")
def tiny(digits_dir, compile_cache):
    """Returns a function that makes a tiny `TrainConfig`; keywords change fields, sections as dicts."""

    def make(**changes) -> TrainConfig:
        values = default.get_config().to_dict()
        for layer in (copy.deepcopy(TINY), {"data": {"data_dir": digits_dir}}, changes):
            for name, value in layer.items():
                values[name] = values[name] | value if isinstance(value, dict) else value
        return TrainConfig.parse(values)

    return make


def flags(config: TrainConfig) -> list[str]:
    """Returns the flags of train.py that turn configs/default.py into `config`."""
    return [
        f"--config.{name}={value}"
        for name, value in _leaves(config.model_dump())
        if value is not None and "aux_weights" not in name and "crop_area" not in name
    ]


def _leaves(values, prefix=""):
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


ROOT = Path(__file__).parents[2]
