"""What `push` publishes: it reads back bit for bit, and the model card says what was measured and how to use it."""

import dataclasses
import json
import re

import numpy as np
import pytest

import inception_jax as ij
from inception_jax import weights
from inception_jax.errors import UserError
from inception_jax.models import spec
from inception_jax.weights.hub import repo_config
from inception_jax.weights.push import Facts, Measured, config_of, model_card, push, write_folder
from tests.weights.hub.test_repo_config import TIMM
from tests.weights.test_files import tiny

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of the client, while it uploads

NAMES = tuple(f"class {i}" for i in range(10))
FACTS = Facts(
    licence="mit",
    command="python train.py --config configs/digits.py",
    measured=(
        Measured("digits", "test", {"top1": 0.9876543, "top5": 0.999, "loss": 0.05}, "the evaluation of the run"),
    ),
)


def assert_same(found, expected):
    assert found.info == expected.info
    assert found.flat().keys() == expected.flat().keys()
    for name, array in expected.flat().items():
        assert found.flat()[name].tobytes() == array.tobytes(), name


def test_a_repository_reads_back_bit_for_bit(hub):
    original = tiny(class_names=NAMES, label_offset=1, sha256="ab")
    original.variables["params"]["classifier"]["linear"]["bias"][:3] = np.nan, -0.0, np.inf
    address = push(original, "me/net", FACTS)
    repository = hub.repositories["me/net"]
    assert address == f"{hub.url}/me/net/commit/{repository.commit}"
    assert set(repository.files) == {"model.safetensors", "config.json", "README.md"}
    loaded = ij.load("hf-hub:me/net")
    assert_same(loaded.weights, original)
    assert loaded.report.notes == (f"hf-hub:me/net at commit {repository.commit}",)


def test_a_folder_reads_back_bit_for_bit(tmp_path):
    write_folder(tmp_path, tiny(), "me/net", FACTS)
    assert_same(ij.load(f"local-dir:{tmp_path}").weights, tiny())


def test_an_update_is_a_commit_and_is_loaded(hub):
    push(tiny(), "me/net", FACTS)
    ij.load("hf-hub:me/net")
    push(tiny(num_classes=3), "me/net", FACTS)
    assert ij.load("hf-hub:me/net").info.num_classes == 3


def test_a_private_repository(hub):
    push(tiny(), "me/secret", FACTS, private=True)
    assert hub.repositories["me/secret"].private
    push(tiny(), "me/net", FACTS)
    assert not hub.repositories["me/net"].private
    commit = hub.repositories["me/net"].commit
    with pytest.raises(UserError, match="hf-hub:me/net exists and is public; --private is for a new repository"):
        push(tiny(num_classes=3), "me/net", FACTS, private=True)
    assert hub.repositories["me/net"].commit == commit


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("HF_HUB_OFFLINE", "1", "hf-hub:me/net: nothing is uploaded, because HF_HUB_OFFLINE is set."),
        ("HF_TOKEN", "", "hf-hub:me/net: uploading needs a token with write access: set HF_TOKEN."),
        ("HF_TOKEN", "hf_other", "hf-hub:me/net: "),
        ("HF_ENDPOINT", "http://127.0.0.1:9", "the hub cannot be reached: "),
    ],
)
def test_what_keeps_from_uploading_is_one_line(hub, monkeypatch, name, value, words):
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError) as info:
        push(tiny(), "me/net", FACTS)
    assert words in str(info.value)
    assert "\n" not in str(info.value)
    assert hub.repositories == {}


def test_the_config_says_what_timm_s_does():
    """Read as that of a network of timm, it gives the same preprocessing."""
    info = dataclasses.replace(
        tiny(class_names=NAMES).info, preprocess=repo_config.parse(_json(TIMM), "a/b").card.preprocess
    )
    config = config_of(weights.Weights(info, tiny().variables), "mit")
    features = len(tiny().variables["params"]["classifier"]["linear"]["kernel"])
    assert (config["architecture"], config["num_classes"], config["num_features"]) == ("googlenet_cifar", 10, features)
    read = repo_config.parse(_json({**config, "architecture": "inception_v3"}), "a/b")
    assert (read.card.preprocess, read.class_names, read.card.licence) == (info.preprocess, NAMES, "mit")
    assert weights.files.from_json(json.dumps(config["inception_jax"]["info"])) == info


def test_the_features_of_a_head_of_rows():
    info = dataclasses.replace(tiny().info, head=spec.Head((spec.Conv(24), spec.Conv(17)), False))
    assert config_of(weights.Weights(info, {}))["num_features"] == info.create_model().num_features > 24


@pytest.mark.parametrize(
    ("source", "published"),
    [("/home/me/secret/net.keras", "net.keras"), ("timm/inception_v3.tv_in1k", "timm/inception_v3.tv_in1k"), ("", "")],
)
def test_folders_of_this_machine_are_not_published(tmp_path, source, published):
    original = tiny()
    named = dataclasses.replace(original, info=dataclasses.replace(original.info, source=source))
    write_folder(tmp_path, named, "me/net", FACTS)
    assert ij.load(f"local-dir:{tmp_path}").info.source == published
    assert not any(b"secret" in path.read_bytes() for path in tmp_path.iterdir())


def test_the_model_card():
    import yaml

    text = model_card(tiny(class_names=NAMES), "me/net", FACTS)
    metadata = yaml.safe_load(text.split("---\n")[1])
    assert (metadata["license"], metadata["library_name"]) == ("mit", "inception_jax")
    assert metadata["pipeline_tag"] == "image-classification"
    (entry,) = metadata["model-index"]
    metrics = entry["results"][0]["metrics"]
    assert [(each["name"], each["value"]) for each in metrics] == [("top-1", 0.987654), ("top-5", 0.999)]
    assert "| digits, test | 98.77% | 99.90% | the evaluation of the run |" in text
    assert "```\npython train.py --config configs/digits.py\n```" in text
    assert "| class names | class 0, class 1, " in text
    assert 'ij.load("hf-hub:me/net")' in text
    assert text.count("\n\n\n") == 0


def test_a_model_card_with_nothing_to_say():
    text = model_card(tiny(num_classes=0), "me/net", Facts())
    assert "license" not in text.split("---\n")[1]
    assert "Not measured." in text
    assert "The command that made them is not recorded." in text
    assert "| licence | not stated |" in text
    assert "| classes | none: it returns features |" in text


def test_the_code_of_the_model_card_runs(hub, monkeypatch, capsys):
    push(tiny(class_names=NAMES), "me/net", FACTS)
    readme = hub.repositories["me/net"].files["README.md"].content.decode()
    code = re.search(r"```python\n(.*?)```", readme, re.DOTALL)[1]
    monkeypatch.setattr(ij, "Predictor", lambda loaded: lambda path: f"{loaded.info.model} on {path}")
    names: dict = {}
    exec(code, names)
    assert capsys.readouterr().out == "googlenet_cifar on photograph.jpg\n"
    assert names["model"].name_in_zoo == "googlenet_cifar"


def test_names_cannot_break_the_model_card():
    text = model_card(tiny(class_names=("a|b\n# c", *NAMES[1:])), "me/net", FACTS)
    assert "a\\|b\\n# c, class 1" in text


def _json(values):
    return json.dumps(values).encode()
