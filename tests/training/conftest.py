"""A run small enough to repeat: narrow googlenet_cifar, or a shorter network, on 12 pixel digits."""

import copy
import json
import math
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from configs import default
from inception_jax.training import TrainConfig, prepare
from inception_jax.training.checkpoints import Checkpoints
from inception_jax.training.compilation import use_compilation_cache
from tests.training.trees import random_like

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


@pytest.fixture(scope="module")
def short(tiny, short_network):
    """Returns `tiny` for the short network."""

    def make(**changes):
        changes["model"] = {"name": "short"} | changes.get("model", {})
        return tiny(loss={"aux_weights": {"aux_4a": 0.3}}, **changes)

    return make


@pytest.fixture(scope="module")
def source(short, tmp_path_factory):
    """Returns the workdir of a run with checkpoints of steps 1, 2 and 3; the second is the best."""
    workdir = tmp_path_factory.mktemp("source")
    config = short()
    state = prepare(config, workdir).abstract_state
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), state)
    with Checkpoints(workdir / "checkpoints", 3) as checkpoints:
        for step, top1 in ((1, 0.1), (2, 0.9), (3, 0.2)):
            values = zeros.replace(
                step=np.array(step, np.int32),
                params=random_like(state.params, step),
                batch_stats=random_like(state.batch_stats, step),
                ema=random_like(state.ema, 10 + step),
            )
            checkpoints.save(
                jax.device_put(values, jax.devices()[0]), config, {"eval_ema/top1": top1, "eval/top1": 0.5}
            )
    return workdir


@pytest.fixture
def copied(source, tmp_path):
    return shutil.copytree(source, tmp_path / "copied")


def to_format_1(checkpoint: Path) -> None:
    """Turns a checkpoint into one of the first format: no checksum of its record, and its metrics in another file."""
    path = checkpoint / "meta" / "metadata"
    record = json.loads(path.read_text())
    metrics = record.pop("metrics") or {"eval_ema/top1": -math.inf}
    del record["checksum"]
    path.write_text(json.dumps(record | {"format_version": 1, "next_image": 64}))
    (checkpoint / "metrics").mkdir()
    (checkpoint / "metrics" / "metrics").write_text(json.dumps(metrics))


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
