"""`inception-jax push` and `weights --fetch`, as their user runs them, on a hub and a site of the tests."""

import dataclasses
import hashlib
import json

import pytest

import inception_jax as ij
from inception_jax import weights
from inception_jax.training import saved
from inception_jax.weights.published import cards
from tests.weights.hub.servers import File
from tests.weights.test_files import tiny

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of the client, while it uploads


@pytest.fixture
def ours(tmp_path):
    path = tmp_path / "ours.safetensors"
    weights.save(path, tiny())
    return path


@pytest.fixture
def workdir(tmp_path, monkeypatch):
    """A folder that stands for a run with an evaluation."""
    path = tmp_path / "runs" / "mine"
    (path / "checkpoints").mkdir(parents=True)
    metrics = {"top1": 0.9, "top5": 0.99, "loss": 0.3}
    run = saved.Run(tiny(), 1200, True, "folder:/home/me/pets", "test", metrics, "python train.py --workdir runs/mine")
    monkeypatch.setattr(saved, "read_run", lambda workdir, average: run)
    return path


def test_a_file_is_pushed_and_predicts_from_the_hub(run, hub, ours):
    code, out, _ = run("push", str(ours), "me/net", "--licence", "mit", "--private")
    assert (code, out) == (0, f"uploaded {hub.url}/me/net/commit/{hub.repositories['me/net'].commit}\n")
    assert hub.repositories["me/net"].private
    assert ij.load("hf-hub:me/net").info == tiny().info
    destination = ours.with_name("again.safetensors")
    assert run("convert", "hf-hub:me/net", str(destination))[0] == 0
    assert weights.load(destination).info == tiny().info


def test_a_run_says_what_it_measured_and_not_where_it_was(run, workdir, tmp_path):
    code, out, _ = run("push", str(workdir), "me/net", "--dry-run", str(tmp_path / "out"), "--license", "mit")
    assert (code, out) == (0, f"wrote {tmp_path / 'out'}: README.md, config.json, model.safetensors\n")
    text = (tmp_path / "out" / "README.md").read_text()
    assert "| folder:pets, test | 90.00% | 99.00% | the evaluation of the run at step 1,200 |" in text
    assert "```\npython train.py --workdir runs/mine\n```" in text
    assert "Source: the run mine, step 1,200, averaged." in text
    assert "license: mit" in text
    for path in (tmp_path / "out").iterdir():
        assert str(tmp_path).encode() not in path.read_bytes()
        assert b"/home/me" not in path.read_bytes()
    assert ij.load(f"local-dir:{tmp_path / 'out'}").info.source == "the run mine, step 1,200, averaged"


def test_an_evaluation_is_in_the_model_card(run, ours, tmp_path):
    record = {"data": "digits", "count": 360, "crops": 10, "top1": 0.5, "top5": 0.75, "loss": 2.0}
    path = tmp_path / "evaluation.json"
    path.write_text(json.dumps(record))
    out = tmp_path / "out"
    assert run("push", str(ours), "me/net", "--dry-run", str(out), "--evaluation", str(path))[0] == 0
    text = (out / "README.md").read_text()
    assert "| digits | 50.00% | 75.00% | inception-jax evaluate, 360 images, 10 crops |" in text
    code, _, err = run("push", str(ours), "me/net", "--dry-run", str(out))
    assert (code, err) == (2, f"inception-jax: {out} is not empty; --overwrite replaces the files in it.\n")
    assert run("push", str(ours), "me/net", "--dry-run", str(out), "--overwrite")[0] == 0


def test_weights_of_a_card_have_its_licence_and_the_command_that_converts_them(run, tmp_path):
    path = tmp_path / "ours.safetensors"
    converted = dataclasses.replace(tiny().info, source="keras/xception")
    weights.save(path, weights.Weights(converted, tiny().variables))
    assert run("push", str(path), "me/net", "--dry-run", str(tmp_path / "out"))[0] == 0
    text = (tmp_path / "out" / "README.md").read_text()
    assert "license: mit" in text
    assert "```\ninception-jax convert keras/xception model.safetensors\n```" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("{ours}", "net"), "The repository is 'net'; it must be OWNER/NAME."),
        (("{ours}", "me/net/x"), "it must be OWNER/NAME."),
        (("{ours}", "me/net", "--average"), "--average and --no-average are for runs; "),
        (("{workdir}", "me/net", "--unverified"), "--preprocess and --unverified are for files of others"),
        (("{ours}", "me/net", "--evaluation", "{ours}"), "ours.safetensors"),
        (("{ours}", "me/net", "--dry-run", "{ours}"), "ours.safetensors cannot be used: File exists."),
        (("nothing", "me/net"), "nothing is no file and no id of published weights."),
    ],
)
def test_mistakes_are_one_line(run, ours, workdir, arguments, words):
    code, out, err = run("push", *(each.format(ours=ours, workdir=workdir) for each in arguments))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert words in err


def test_fetching_a_set_of_weights(run, site, folder, monkeypatch):
    content = b"weights" * 1000
    site.files["/net.pth"] = File(content)
    changes = {"url": f"{site.url}/net.pth", "hashes": (f"sha256:{hashlib.sha256(content).hexdigest()}",)}
    card = dataclasses.replace(cards.weight_card("torchvision/googlenet"), **changes)
    monkeypatch.setitem(cards.CARDS, card.id, card)
    path = folder / card.id / "net.pth"
    code, out, err = run("weights", "googlenet_torchvision.torchvision_in1k", "--fetch")
    assert (code, out) == (0, f"{path}\n")
    assert err.startswith("torchvision/googlenet: net.pth, 0.0 MB, licence: not stated\n")
    assert path.read_bytes() == content
    assert f"here      {path}\n" in run("weights", card.id)[1]
    assert json.loads(run("weights", card.id, "--json")[1])["path"] == str(path)
