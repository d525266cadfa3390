"""The config: every fault is named, and what ships parses."""

import importlib
import re

import numpy as np
import pytest
from PIL import Image

from configs import default
from inception_jax.data.transforms import InceptionCrop
from inception_jax.errors import UserError
from inception_jax.training.config import (
    BOUND_TO_CHECKPOINT,
    TrainConfig,
    changes_that_forbid_resuming,
    check_fields,
    steps,
)
from inception_jax.training.experiment import prepare, train_transform
from tests.training.conftest import ROOT

SHIPPED = sorted(path.stem for path in (ROOT / "configs").glob("[a-z]*.py"))


def parse(**changes):
    values = default.get_config().to_dict()
    for name, value in changes.items():
        values[name] = values[name] | value if isinstance(value, dict) else value
    return TrainConfig.parse(values)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_config_parses_and_says_what_it_is(name):
    module = importlib.import_module(f"configs.{name}")
    config = TrainConfig.parse(module.get_config())
    assert config.batch_size % config.grad_accum_steps == 0
    if name == "default":
        return
    for word in ("Hardware:", "Command: python train.py --config configs/" + name, "Status:"):
        assert word in module.__doc__
    status = re.search(r"Status: (not run yet|reproduced)", module.__doc__)
    assert status, "the status is `not run yet` or `reproduced`"
    if status[1] == "reproduced":
        rows = (ROOT / "benchmarks" / "results" / "training.jsonl").read_text()
        assert f'"config": "configs/{name}.py"' in rows


def test_shipped_configs_are_all_there():
    assert SHIPPED == [
        "cifar10",
        "default",
        "digits",
        "digits_finetune",
        "finetune",
        "folder",
        "imagenet_googlenet",
        "imagenet_googlenet_paper",
        "overfit",
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batchsize": 3}, "config.batchsize is unknown; nearest: batch_size"),
        ({"model": {"widht": 1.0}}, "config.model.widht is unknown; nearest: width"),
        ({"batch_size": "many"}, "config.batch_size is 'many'"),
        ({"batch_size": 0}, "config.batch_size is 0"),
        ({"ema_decay": 1.0}, "config.ema_decay is 1.0"),
        ({"duration": "3 weeks"}, "config.duration is '3 weeks': must be"),
        ({"duration": "1.5 steps"}, "config.duration is '1.5 steps': must be"),
        ({"duration": "inf epochs"}, "config.duration is 'inf epochs': must be"),
        ({"optimizer": {"name": "adam"}}, "config.optimizer.name is 'adam'"),
        ({"optimizer": {"learning_rate": float("nan")}}, "config.optimizer.learning_rate is nan"),
        ({"mesh": {"data": -2}}, "config.mesh.data is -2"),
        ({"duration": "-1 epochs"}, "config.duration is '-1 epochs': must be"),
        ({"duration": "nan epochs"}, "config.duration is 'nan epochs': must be"),
        ({"duration": "1e300 epochs"}, "config.duration is '1e300 epochs': must be"),
        ({"eval_every": f"{2**31} steps"}, "config.eval_every is '2147483648 steps': must be"),
        ({"seed": -1}, "config.seed is -1"),
        ({"batch_size": 10**21}, "config.batch_size is 1000000000000000000000: input should be less than or equal to"),
        ({"grad_accum_steps": 10**21}, "config.grad_accum_steps is 1000000000000000000000"),
        ({"keep_checkpoints": 10**9}, "config.keep_checkpoints is 1000000000"),
        ({"model": {"width": 1e9}}, "config.model.width is 1000000000.0"),
        ({"model": {"bn_decay": 1.0}}, "config.model.bn_decay is 1.0"),
        ({"data": {"image_size": 10**6}}, "config.data.image_size is 1000000"),
        ({"data": {"crop_pad": 10**6}}, "config.data.crop_pad is 1000000"),
        ({"data": {"threads": 10**9}}, "config.data.threads is 1000000000"),
        ({"data": {"workers": 10**9}}, "config.data.workers is 1000000000"),
        ({"data": {"train_split": ""}}, "config.data.train_split is '': must hold a name, and no NUL"),
        ({"data": {"name": "folder:a\0b"}}, "config.data.name is 'folder:a\\x00b': must hold a name, and no NUL"),
        ({"optimizer": {"learning_rate": 1e300}}, "config.optimizer.learning_rate is 1e+300"),
        ({"batch_size": "9" * 5000}, "config.batch_size is '" + "9" * 199 + "...: input should be"),
    ],
)
def test_faults_name_field_value_and_what_is_allowed(changes, message):
    with pytest.raises(UserError, match=re.escape(message)):
        parse(**changes)


def test_missing_field_is_named():
    values = default.get_config().to_dict()
    del values["data"]["threads"]
    with pytest.raises(UserError, match=r"config\.data\.threads is missing"):
        TrainConfig.parse(values)


def test_every_fault_is_reported_at_once():
    with pytest.raises(UserError, match=r"config\.seed.*; config\.model\.width"):
        parse(seed=-1, model={"width": 0.0})


def test_field_names_of_the_command_line():
    check_fields(["batch_size", "model.width", "loss.aux_weights"])
    with pytest.raises(UserError, match=r"config\.model\.withd is unknown; nearest: width"):
        check_fields(["seed", "model.withd"])
    with pytest.raises(UserError, match=r"config\.modl is unknown; nearest: model"):
        check_fields(["modl.width"])


@pytest.mark.parametrize(
    ("duration", "expected"),
    [("0 steps", 0), ("7 steps", 7), ("1 step", 1), ("2 epochs", 25), ("1 epoch", 12), ("0.01 epochs", 1)],
)
def test_durations(duration, expected):
    assert steps(duration, steps_per_epoch=12.5) == expected


def test_bound_fields_exist_and_forbid_resuming():
    config = parse()
    saved = config.model_dump(mode="json")
    assert changes_that_forbid_resuming(saved, config) == {}
    check_fields(BOUND_TO_CHECKPOINT)
    assert changes_that_forbid_resuming(saved, parse(seed=5)) == {"seed": (0, 5)}
    assert changes_that_forbid_resuming(saved, parse(model={"width": 0.5})) == {"model.width": (1.0, 0.5)}
    assert changes_that_forbid_resuming(saved, parse(duration="9 steps", log_every="3 steps")) == {}


def test_configs_of_before_lack_fields_that_meant_nothing():
    """Of versions without fine-tuning, and without a decay of batch norm in the config."""
    config = parse()
    saved = config.model_dump(mode="json")
    del saved["finetune"], saved["model"]["bn_decay"]
    assert TrainConfig.parse_saved(saved) == config
    assert changes_that_forbid_resuming(saved, config) == {}


def test_configs_for_photographs_read_them_as_such(tmp_path):
    for split, name in ((split, name) for split in ("train", "test") for name in ("ant", "bee")):
        (tmp_path / split / name).mkdir(parents=True)
        Image.new("RGB", (400, 300)).save(tmp_path / split / name / "a.jpg")
    configs = {name: importlib.import_module(f"configs.{name}").get_config() for name in ("folder", "finetune")}
    for config in configs.values():
        config.data.name = f"folder:{tmp_path}"
        config.batch_size = 8
    experiment = prepare(TrainConfig.parse(configs["folder"]), tmp_path / "run")
    assert experiment.preprocess.size == 224
    assert isinstance(train_transform(experiment.config.data, experiment.preprocess), InceptionCrop)
    with pytest.raises(UserError, match=r"config\.finetune\.weights: .*WEIGHTS"):
        prepare(TrainConfig.parse(configs["finetune"]), tmp_path / "run")
    assert configs["finetune"].optimizer.learning_rate < configs["folder"].optimizer.learning_rate


@pytest.mark.parametrize("name", ["imagenet_googlenet", "imagenet_googlenet_paper", "cifar10"])
def test_shipped_config_passes_the_pre_flight_on_images(name, tmp_path, image_data):
    config = importlib.import_module(f"configs.{name}").get_config()
    config.data.data_dir = image_data
    experiment = prepare(TrainConfig.parse(config), tmp_path)
    assert experiment.model.num_classes == (10 if name == "cifar10" else 1000)
    assert experiment.total_steps > 0
    transform = train_transform(experiment.config.data, experiment.preprocess)
    image = transform(Image.new("RGB", (320, 240), "red"), np.random.default_rng(0))
    assert image.shape == (experiment.preprocess.size, experiment.preprocess.size, 3)
