"""Overrides of config fields: train.py and the commands take the same forms, types and suggestions."""

import pathlib
import sys

import pytest
from absl import flags as absl_flags

from inception_jax.cli.config import read_config
from inception_jax.errors import UserError
from inception_jax.training import program
from inception_jax.training.config import TrainConfig
from inception_jax.training.overrides import rewrite

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = ROOT / "configs" / "digits.py"


def by_train(*arguments) -> TrainConfig:
    """Returns the config that train.py makes of arguments."""
    argv = ["train.py", f"--config={CONFIG}", "--workdir=x", *arguments]
    try:
        program.parse_flags(argv, program.OURS, {})
        return TrainConfig.parse(absl_flags.FLAGS.config)
    finally:
        for name in [name for name in absl_flags.FLAGS if name.startswith("config.")]:
            delattr(absl_flags.FLAGS, name)
        absl_flags.FLAGS.unparse_flags()


def by_command(*arguments) -> TrainConfig:
    """Returns the config that a command makes of the same arguments."""
    return read_config(CONFIG, [each.removeprefix("--set=") for each in rewrite(arguments, "--set=")])


@pytest.fixture(autouse=True)
def in_root(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of how ml_collections loads a file
@pytest.mark.parametrize("read", [by_train, by_command])
@pytest.mark.parametrize(
    ("arguments", "field", "value"),
    [
        (["--config.batch_size=8"], "batch_size", 8),
        (["--config.batch_size", "8"], "batch_size", 8),
        (["--set", "batch_size=8"], "batch_size", 8),
        (["--set=batch_size=8", "--config.batch_size=16"], "batch_size", 16),
        (["--set", "duration=2 epochs"], "duration", "2 epochs"),
        (["--set", "model.width=1"], "model.width", 1.0),
        (["--config.model.aux"], "model.aux", True),
        (["--noconfig.model.aux"], "model.aux", False),
        (["--set", "model.aux=False"], "model.aux", False),
        (["--set", "ema_decay=None"], "ema_decay", None),
        (["--config.ema_decay=None"], "ema_decay", None),
        (["--config.finetune.weights=None"], "finetune.weights", None),
        (["--config.data.image_size=None"], "data.image_size", None),
        (["--set", "model.bn_group_size=global"], "model.bn_group_size", "global"),
        (["--config.model.bn_group_size", "4"], "model.bn_group_size", 4),
        (["--config.data.crop_area=(0.5, 1.0)"], "data.crop_area", (0.5, 1.0)),
        (["--set", "loss.aux_weights={'aux_4a': 0.5}"], "loss.aux_weights", {"aux_4a": 0.5}),
        (["--set", "loss.aux_weights.aux_4a=0.5"], "loss.aux_weights", {"aux_4a": 0.5, "aux_4d": 0.3}),
        (["--set", "data.name=folder:a=b"], "data.name", "folder:a=b"),
    ],
)
def test_each_form_sets_a_field_by_its_type(read, arguments, field, value):
    found = read(*arguments)
    for name in field.split("."):
        found = getattr(found, name)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("read", [by_train, by_command])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config.batchsize=8"], "config.batchsize is unknown; nearest: batch_size"),
        (["--set", "batchsize=8"], "config.batchsize is unknown; nearest: batch_size"),
        (["--set", "model.wdth=1"], "config.model.wdth is unknown; nearest: width"),
        (["--set", "model.aux"], "--set model.aux: it must be FIELD=VALUE, such as model.aux=False."),
        (["--set"], "--set: it must be FIELD=VALUE"),
        (["--config.batch_size"], "--config.batch_size has no value; write --config.batch_size=VALUE."),
        (["--noconfig.batch_size"], "config.batch_size is not true or false"),
        (["--set", "batch_size=1.5"], "config.batch_size is '1.5'; it must be an integer."),
        (["--config.model.width=wide"], "config.model.width is 'wide'; it must be a number."),
        (["--set", "model.aux=perhaps"], "config.model.aux is 'perhaps'; it must be true or false."),
        (["--set", "batch_size=None"], "config.batch_size is None: "),
        (["--config.data.crop_area=(0.5,"], "config.data.crop_area is "),
        (["--config.data.crop_area=0.5"], "config.data.crop_area is (0.5,): it must be two numbers"),
        (["--config.loss.aux_weights=3"], "config.loss.aux_weights is '3': Failed to parse '3' as a ConfigDict"),
        (["--set", "loss.aux_weights.aux_5b=1"], "an override changes the weights of heads that the config file names"),
    ],
)
def test_a_mistake_has_the_same_line_everywhere(read, arguments, message):
    with pytest.raises(UserError) as raised:
        read(*arguments)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_command_takes_the_flags_of_train(run):
    given = ("plan", "--config", str(CONFIG), "--topology", "v5e:2x2", "--config.model.wdth", "1")
    code, out, err = run(*given)
    assert (code, out) == (2, "")
    assert err.startswith("inception-jax: config.model.wdth is unknown; nearest: width")


def test_the_rest_of_a_command_line_stays():
    arguments = ["--config", "a.py", "--set", "seed=3", "--workdir", "x", "--", "--set", "seed=4"]
    assert rewrite(arguments, "--config.") == [
        *("--config", "a.py", "--config.seed=3", "--workdir", "x", "--", "--set", "seed=4")
    ]
    assert rewrite(["--dry_run"], "--set=") == ["--dry_run"]
