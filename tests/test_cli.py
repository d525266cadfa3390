"""The `inception-jax` command: what it prints, and how it refuses."""

import importlib.metadata
import json
import pathlib
import subprocess
import sys

import pytest

from inception_jax.models import zoo
from inception_jax.version import __version__
from inception_jax.weights.published import cards
from tests.selection import networks


def test_version_names_jax_too(run):
    assert run("--version") == (0, f"inception-jax {__version__} (jax {importlib.metadata.version('jax')})\n", "")


def test_models_as_json_have_exact_counts(run):
    code, out, _ = run("models", "--json")
    entries = {entry["name"]: entry for entry in json.loads(out)}
    assert code == 0
    assert list(entries) == zoo.list_models()
    assert entries["googlenet"] == {
        "name": "googlenet",
        "params": 6_998_552,
        "params_with_aux": 13_378_280,
        "macs": 1_582_671_872,
        "image_size": 224,
        "paper": "1409.4842",
        "summary": zoo.MODELS["googlenet"].summary,
    }


@pytest.mark.parametrize("columns", [80, 120, 160])
def test_models_list_whole_names_and_papers_at_any_width(run, columns):
    code, out, _ = run("models", columns=columns)
    assert code == 0
    assert max(map(len, out.splitlines())) <= columns
    for card in zoo.MODELS.values():
        assert f"{card.name} " in out
    assert "…" not in out
    assert "7.00 M" in out
    assert "1.583" in out


def test_summary_as_json_is_exact_by_row(run):
    code, out, _ = run("summary", "googlenet", "--json")
    found = json.loads(out)
    rows = {row["name"]: row for row in found["rows"]}
    assert code == 0
    assert found["totals"] == {
        "depth": 22,
        "weights": 6_990_272,
        "biases": 8_280,
        "norm": 0,
        "params": 6_998_552,
        "macs": 1_582_671_872,
        "params_with_aux": 6_998_552,
    }
    assert {key: rows["3a"][key] for key in ("output", "weights", "biases", "macs")} == {
        "output": [28, 28, 256],
        "weights": 163_328,
        "biases": 368,
        "macs": 163_328 * 28 * 28,
    }
    assert found["aux"] == []


@pytest.mark.parametrize("columns", [80, 120, 160])
def test_summary_prints_the_whole_table_at_any_width(run, columns):
    code, out, _ = run("summary", "googlenet", "--aux", columns=columns)
    lines = {line.split()[0]: line.split() for line in out.splitlines()}
    assert code == 0
    assert max(map(len, out.splitlines())) <= columns
    assert "…" not in out
    assert lines["conv2"] == ["conv2", "3x3/1", "56x56x192", "2", "64", "192", "114,944", "359.7"]
    assert lines["4e"] == ["4e", "14x14x832", "2", "256", "160", "320", "32", "128", "128", "868,352", "170.0"]
    assert "googlenet at 224 pixels: depth 22, 1,582,671,872 MACs" in out
    assert "6,998,552 params = 6,990,272 weights + 8,280 biases" in out
    assert "with auxiliary heads: 13,378,280 params" in out


def test_summary_takes_size_width_and_classes(run):
    _, out, _ = run("summary", "googlenet_bn", "--json", "--image-size", "128", "--width", "0.5", "--num-classes", "10")
    found = json.loads(out)
    assert (found["image_size"], found["width"], found["num_classes"]) == (128, 0.5, 10)
    assert found["rows"][0]["output"] == [64, 64, 32]
    assert found["rows"][-1]["output"] == [1, 1, 10]
    assert found["rows"][-1]["params"] == 512 * 10 + 10


def test_summary_without_classes_is_that_of_the_body(run):
    _, out, _ = run("summary", "googlenet", "--json", "--aux", "--num-classes", "0")
    found = json.loads(out)
    assert found["rows"][-1]["name"] == "5b"
    assert found["totals"]["params_with_aux"] == found["totals"]["params"] == 6_998_552 - 1_025_000


@pytest.mark.parametrize("name", networks())
def test_every_model_has_a_summary(run, name):
    code, out, _ = run("summary", name)
    assert code == 0
    assert f"{name} at {zoo.MODELS[name].preprocess.size} pixels" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("googlnet",), "No model is called 'googlnet'. Nearest: googlenet, "),
        (("googlenet", "--image-size", "30"), "googlenet reads images of at least 31 x 31 pixels, not 30 x 30."),
        (("googlenet", "--image-size", "78", "--aux"), "at least 79 x 79 pixels; aux=False needs 31, not 78 x 78."),
        (("googlenet", "--image-size", "0"), "image_size is 0; it must be at least 1."),
        (("googlenet", "--width", "0"), "width is 0.0; it must be above 0."),
        (("googlenet", "--num-classes", "-1"), "num_classes is -1; it must be at least 0."),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(run, arguments, message):
    code, out, err = run("summary", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("inception-jax: ")
    assert message in err
    assert err.count("\n") == 1


def test_models_as_markdown_are_the_document(run):
    code, out, _ = run("models", "--markdown")
    assert (code, out) == (0, (pathlib.Path(__file__).parents[1] / "docs" / "MODELS.md").read_text())


@pytest.mark.parametrize("columns", [80, 120, 160])
def test_weights_are_listed_whole_at_any_width(run, columns, monkeypatch, tmp_path):
    monkeypatch.setenv("INCEPTION_JAX_WEIGHTS", str(tmp_path))
    (tmp_path / "slim/adv_inception_v3").mkdir(parents=True)
    (tmp_path / "slim/adv_inception_v3/adv_inception_v3_2017_08_18.tar.gz").touch()
    code, out, _ = run("weights", columns=columns)
    lines = {line.split()[0]: line.split() for line in out.splitlines()}
    assert code == 0
    assert max(map(len, out.splitlines())) <= columns
    assert lines.keys() >= cards.CARDS.keys()
    assert lines["torchvision/googlenet"] == ["torchvision/googlenet", "69.8", "89.5", "50"]
    assert lines["keras/xception"] == ["keras/xception", "79.0", "94.5", "88", "MIT"]
    assert lines["slim/adv_inception_v3"] == ["slim/adv_inception_v3", "yes"]


def test_weights_of_one_model(run):
    _, out, _ = run("weights", "--model", "inception_v4", "--json")
    found = json.loads(out)
    assert [card["id"] for card in found] == ["timm/inception_v4.tf_in1k", "cadene/inceptionv4", "slim/inception_v4"]
    assert json.loads(run("weights", "--model", "googlenet_bn", "--json")[1]) == []


def test_a_set_of_weights_in_full(run, monkeypatch, tmp_path):
    monkeypatch.setenv("INCEPTION_JAX_WEIGHTS", str(tmp_path))
    code, out, _ = run("weights", "slim/inception_v1")
    assert code == 0
    assert dict(line.split(maxsplit=1) for line in out.splitlines()) == {
        "id": "slim/inception_v1",
        "name": "inception_v1_slim.slim_in1k",
        "model": "inception_v1_slim",
        "lineage": "slim",
        "file": "inception_v1_2016_08_28.tar.gz",
        "url": "http://download.tensorflow.org/models/inception_v1_2016_08_28.tar.gz",
        "mirrors": "https://storage.googleapis.com/download.tensorflow.org/models/inception_v1_2016_08_28.tar.gz",
        "size": "24642554 bytes",
        "hashes": "sha256:7a620c430fcaba8f8f716241f5148c4c47c035cce4e49ef02cfbe6cd1adf96a6",
        "outputs": "1001, the first for a background",
        "channels": "RGB",
        "input": "224 x 224, central 87.5% resized (bilinear), (p - 127.5) / 127.5",
        "accuracy": "top-1 69.8, top-5 89.6 (README of TF-slim)",
        "licence": "-",
        "notes": "The archive holds inception_v1.ckpt; hash and size are the archive's.",
        "here": "-",
    }
    assert run("weights", "inception_v1_slim.slim_in1k") == (0, out, "")
    shown = json.loads(run("weights", "slim/inception_v1", "--json")[1])
    assert shown["preprocess"]["geometry"] == "central_box"
    assert shown["file"] == "inception_v1_2016_08_28.tar.gz"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("weights", "slim/inception_v5"), "No published weights are called 'slim/inception_v5'. Nearest: slim/incept"),
        (("weights", "--model", "googlnet"), "No model is called 'googlnet'. Nearest: googlenet, "),
        (("weights", "slim/inception_v1", "--model", "inception_v1_slim"), "--model does not go with it"),
        (("weights", "--fetch"), "--fetch downloads one set of weights: name it."),
        (("weights", "slim/inception_v5", "--fetch"), "No published weights are called 'slim/inception_v5'"),
        (("models", "--json", "--markdown"), "--json and --markdown exclude each other"),
    ],
)
def test_weights_and_models_refuse_in_one_line(run, arguments, message):
    code, out, err = run(*arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err


@pytest.mark.parametrize("block", [(), ("--block", "3a")])
def test_diagram_writes_a_picture_and_says_where(run, tmp_path, block):
    picture = tmp_path / "googlenet.svg"
    assert run("diagram", "googlenet", *block, "-o", str(picture)) == (0, f"{picture}\n", "")
    title = "3a of googlenet" if block else "googlenet"
    assert f">{title}</text>" in picture.read_text()


@pytest.mark.parametrize(
    ("arguments", "file", "message"),
    [
        (("googlnet",), "a.svg", "No model is called 'googlnet'. Nearest: googlenet, "),
        (
            ("googlenet", "--block", "3c"),
            "a.svg",
            "googlenet has no row '3c'. Nearest: 4c, 3b, 3a. Rows: conv1, pool1, ",
        ),
        (("googlenet",), "a.jpg", "a.jpg must end in .svg or .png or .pdf."),
        (("googlenet", "--block", "3a"), "none/a.svg", "none is no folder."),
    ],
)
def test_a_diagram_that_cannot_be_drawn_is_one_line_and_exit_code_2(run, tmp_path, arguments, file, message):
    code, out, err = run("diagram", *arguments, "-o", str(tmp_path / file))
    assert (code, out) == (2, "")
    assert err.startswith("inception-jax: ")
    assert message in err
    assert err.count("\n") == 1


def test_python_m_runs_the_same_command():
    done = subprocess.run([sys.executable, "-m", "inception_jax", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"inception-jax {__version__}")


def test_the_command_line_starts_without_jax():
    code = "import sys, inception_jax.cli; print(sorted({'jax', 'flax', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
