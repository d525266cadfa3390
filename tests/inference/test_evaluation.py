"""Evaluation: every image once, the figures of the training loop, averages over crops and networks."""

import copy
import dataclasses
import errno
import json
import os
import pathlib

import jax
import numpy as np
import pytest
from matplotlib.figure import Figure

from inception_jax.cli.config import read_config
from inception_jax.cli.evaluate import _lines
from inception_jax.data.transforms import decode
from inception_jax.errors import UserError
from inception_jax.explain import evaluation_plots, plots
from inception_jax.inference.evaluation import Evaluation, evaluate
from inception_jax.inference.multi_crop import crops
from inception_jax.training import metrics
from inception_jax.training.compilation import CompilationLog
from tests.data.images import noise_source
from tests.inference.conftest import NAMES

IMAGES = 27

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def data():
    made = noise_source(IMAGES, size=24, classes=10)
    return dataclasses.replace(made, class_names=NAMES)


@pytest.fixture(scope="module")
def other(predictor):
    """Another network, which the same programs run: that with another classifier."""
    made = copy.copy(predictor)
    params = dict(predictor.params)
    params["classifier"] = jax.tree.map(lambda leaf: -0.5 * leaf, params["classifier"])
    made.programs = copy.copy(predictor.programs)
    made.programs.params = jax.device_put(params, jax.tree.leaves(predictor.params)[0].sharding)
    return made


def softmax(logits):
    return np.asarray(jax.nn.softmax(logits.astype(np.float32), axis=-1), np.float64)


def test_the_figures_are_those_of_the_training_loop(predictor, data):
    calls = []
    found = evaluate([predictor], data, advance=lambda: calls.append(1))
    logits = predictor.logits([record["image"] for record in data.records])
    labels = np.array([record["label"] for record in data.records])
    sums = metrics.classification_sums(logits, labels, np.ones(IMAGES))
    expected = metrics.means([jax.device_get(sums)])
    assert len(calls) == found.metrics()["count"] == IMAGES
    assert found.metrics() == pytest.approx(expected, rel=1e-5)
    assert 0 < expected["top1"] < expected["top5"] < 1
    assert found.labels.tolist() == labels.tolist()
    assert (found.predicted == logits.argmax(1)).all()


def test_crops_and_networks_are_averaged_over_their_probabilities(predictor, other, data):
    predictor.programs.compiled(16, ("logits",))
    with CompilationLog() as log:
        found = evaluate([predictor, other], data, crops=10)  # 270 views of each
    assert log.compilations == []
    expected = np.zeros((IMAGES, 10))
    for i, record in enumerate(data.records):
        views = crops(decode(record["image"]), 10, predictor.info.preprocess)
        for member in (predictor, other):
            program = member.programs.compiled(16, ("logits",))
            logits = program(member.params, np.concatenate([views, np.zeros_like(views[:6])]))["logits"]
            expected[i] += softmax(np.asarray(logits[:10])).mean(0) / 2
    np.testing.assert_allclose(found.probability, expected.max(1), rtol=1e-4)
    np.testing.assert_allclose(found.losses, -np.log(expected[np.arange(IMAGES), found.labels]), rtol=1e-4)
    assert (found.predicted == expected.argmax(1)).all()


def test_more_views_than_a_batch_holds(predictor, data):
    few = dataclasses.replace(data, records=data.records[:2])
    found = evaluate([predictor], few, crops=144)
    views = [crops(decode(each["image"]), 144, predictor.info.preprocess) for each in few.records]
    program = predictor.programs.compiled(16, ("logits",))
    logits = [np.asarray(program(predictor.params, part)["logits"]) for each in views for part in np.split(each, 9)]
    expected = softmax(np.concatenate(logits)).reshape(2, 144, 10).mean(1)
    np.testing.assert_allclose(found.probability, expected.max(1), rtol=1e-4)


def test_what_is_refused(predictor, data):
    with pytest.raises(UserError, match=r"noise\[all\] has 3 classes; a test has 10"):
        evaluate([predictor], noise_source(3))
    other = copy.copy(predictor)
    other.class_names = (*NAMES[:3], "dog", *NAMES[4:])
    with pytest.raises(UserError, match="other ones: class 3 is 'class 3' in the first and 'dog' in the second"):
        evaluate([predictor, other], data)
    with pytest.raises(UserError, match="There is no network to evaluate"):
        evaluate([], data)
    with pytest.raises(UserError, match="order the same classes differently: class 0 is 'class 9' in the first"):
        evaluate([predictor], dataclasses.replace(data, class_names=NAMES[::-1]))
    other = (*NAMES[:2], "airplane", *NAMES[3:])
    with pytest.raises(UserError, match="have 10 classes each, but other ones: class 2 is 'airplane' in the first and"):
        evaluate([predictor], dataclasses.replace(data, class_names=other))
    broken = dataclasses.replace(data, records=[*data.records[:13], {"image": b"x", "label": 0}])
    with pytest.raises(UserError, match=r"Broken image, record 13 of noise\[all\]: not an image"):
        evaluate([predictor], broken)


SIX = Evaluation(
    class_names=("cat", "dog $x", "owl"),
    labels=np.array([0, 0, 1, 1, 2, 2]),
    top=np.array([[0, 1, 2], [1, 0, 2], [1, 0, 2], [2, 0, 1], [0, 1, 2], [2, 1, 0]]),
    probability=np.array([0.9, 0.6, 0.7, 0.8, 0.5, 0.4]),
    losses=np.array([0.1, 1.0, 0.3, 2.0, 3.0, 0.9]),
)


def test_confusion_and_mistakes_by_hand():
    assert SIX.confusion().tolist() == [[1, 1, 0], [0, 1, 1], [1, 0, 1]]
    assert SIX.mistakes().tolist() == [3, 1, 4]
    record = json.loads(json.dumps(SIX.to_json(mistakes=1)))
    assert record["classes"][1] == {"class": "dog $x", "count": 2, "top1": 0.5}
    assert record["mistakes"] == [{"index": 3, "class": "dog $x", "predicted": "owl", "probability": 0.8}]


@pytest.mark.parametrize("classes", [3, 1000])
def test_pictures(tmp_path, classes):
    names = SIX.class_names + tuple(f"class {i}" for i in range(3, classes))
    made = dataclasses.replace(SIX, class_names=names)
    plots.save(evaluation_plots.draw_confusion(made, "a $ test"), tmp_path / "confusion.png", dpi=100)
    plots.save(evaluation_plots.draw_mistakes(made, noise_source(6), "a $ test"), tmp_path / "mistakes.png", dpi=90)
    confusion, mistakes = (decode((tmp_path / f"{name}.png").read_bytes()) for name in ("confusion", "mistakes"))
    assert 500 < confusion.width <= 1000
    assert len(mistakes.getcolors(1 << 20)) > 100  # the noise of the images


def test_the_command(run, predictor, tmp_path, digits_dir, monkeypatch):
    unnamed = copy.copy(predictor)
    unnamed.class_names = ("",) * 10
    monkeypatch.setattr("inception_jax.cli.evaluate.load_predictor", lambda *_, **__: unnamed)
    named = ("--data", "digits", "--data-dir", digits_dir, "--split", "test[:48]")
    code, out, err = run("evaluate", *named, "--weights", "w", "-o", str(tmp_path / "out"), "--json")
    assert (code, err.count("\n")) == (0, 1)
    assert err.startswith("inception-jax: ")
    assert "does not say what its 10 classes are" in err
    record = json.loads(out)
    assert record == json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert (record["data"], record["count"], record["crops"]) == ("digits[test[:48]]", 48, 1)
    assert [each["class"] for each in record["classes"]] == list("0123456789")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"evaluation.json", "confusion.png", "mistakes.png"}


@pytest.fixture
def command(run, predictor, tmp_path, digits_dir, monkeypatch):
    """Returns a function that evaluates 8 digits into `out`, with more arguments."""
    unnamed = copy.copy(predictor)
    unnamed.class_names = ("",) * 10
    monkeypatch.setattr("inception_jax.cli.evaluate.load_predictor", lambda *_, **__: unnamed)
    monkeypatch.chdir(tmp_path)
    named = ("--data", "digits", "--data-dir", digits_dir, "--split", "test[:8]", "--weights", "w")
    return lambda *more: run("evaluate", *named, *more)


@pytest.mark.parametrize("name", ["evaluation.json", "confusion.png", "mistakes.png"])
def test_what_cannot_be_written_is_refused_before_the_work(command, tmp_path, monkeypatch, name):
    monkeypatch.setattr("inception_jax.inference.evaluation.evaluate", None)
    (tmp_path / "out" / name).mkdir(parents=True)
    refused = f"inception-jax: out/{name} is no regular file, so it is not replaced.\n"
    assert command("-o", "out", "--overwrite") == (2, "", refused)
    (tmp_path / "out" / name).rmdir()
    (tmp_path / "out" / name).write_bytes(b"old")
    exists = f"inception-jax: out/{name} exists; --overwrite replaces it (overwrite=True in Python).\n"
    assert command("-o", "out") == (2, "", exists)
    (tmp_path / "file").write_bytes(b"old")
    assert command("-o", "file") == (2, "", "inception-jax: file cannot be created: File exists.\n")


def test_figures_are_printed_though_nothing_can_be_written(command, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Figure, "savefig", full)
    code, out, err = command("-o", "out")
    *_, last = err.splitlines()  # behind what is assumed of classes without names
    assert (code, last) == (2, "inception-jax: out/confusion.png cannot be written: No space left on device.")
    assert "top-1 " in out
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["evaluation.json"]


def test_results_are_replaced_if_that_is_asked_for(command, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "evaluation.json").write_text("old")
    assert command("-o", "out", "--overwrite")[0] == 0
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text())["count"] == 8


@pytest.mark.parametrize(
    ("classes", "text"),
    [
        (1, "top-1 50.00%, (top-5 of 1 class is always 100 %: left out), loss 1.0000"),
        (2, "top-1 50.00%, (top-5 of 2 classes is always 100 %: left out), loss 1.0000"),
        (6, "top-1 50.00%, top-5 75.00%, loss 1.0000"),
    ],
)
def test_top_5_of_few_classes_says_nothing(classes, text):
    metrics = {"top1": 0.5, "top5": 0.75, "loss": 1.0, "count": 4}
    record = {"data": "d", "crops": 1, "seconds": 1, "members": [], "classes": [{}] * classes, **metrics}
    assert _lines(record)[-1] == text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--crops", "5"), "crops is 5; it must be 1, 10, 144."),
        ((), "Name a network: either --weights or --workdir."),
        (("--weights", "a", "--workdir", "b"), "Name a network: either --weights or --workdir."),
    ],
)
def test_mistakes_of_the_command(run, digits_dir, arguments, message):
    code, _, err = run("evaluate", "--data", "digits", "--data-dir", digits_dir, "--split", "test", *arguments)
    assert (code, err) == (2, f"inception-jax: {message}\n")


@pytest.fixture
def run_on_digits(tmp_path, digits_dir):
    """A folder that says as much of a run as `evaluate` needs for its data; the last checkpoint is damaged."""
    config = read_config(ROOT / "configs" / "digits.py").model_dump(mode="json")
    config["data"] |= {"data_dir": digits_dir, "eval_split": "test[:16]"}
    for step, text in (("3", json.dumps({"config": config})), ("4", "{")):
        path = tmp_path / "run" / "checkpoints" / step / "meta" / "metadata"
        path.parent.mkdir(parents=True)
        path.write_text(text)
    return str(tmp_path / "run")


@pytest.mark.parametrize("option", ["--workdir", "--weights"])
def test_the_data_of_a_run_need_not_be_named(run, predictor, run_on_digits, digits_dir, monkeypatch, option):
    on_digits = copy.copy(predictor)
    on_digits.class_names = tuple("0123456789")
    monkeypatch.setattr("inception_jax.cli.evaluate.load_predictor", lambda *_, **__: on_digits)
    code, out, err = run("evaluate", option, run_on_digits, "--json")
    said = f"--data digits --split {{}} --data-dir {digits_dir}\n"
    assert (code, err) == (0, "As the run evaluated: " + said.format("test[:16]"))
    assert (json.loads(out)["data"], json.loads(out)["count"]) == ("digits[test[:16]]", 16)
    code, out, err = run("evaluate", option, run_on_digits, "--json", "--split", "test[:8]")
    assert (code, err, json.loads(out)["count"]) == (0, "As the run evaluated: " + said.format("test[:8]"), 8)


def test_data_must_be_named_without_a_run(run, tmp_path):
    code, out, err = run("evaluate", "--weights", "w.safetensors")
    assert (code, out) == (2, "")
    assert err.startswith(
        "inception-jax: --data is not given; without a run (--workdir) it must be digits, a TFDS name"
    )
    code, out, err = run("evaluate", "--workdir", str(tmp_path))
    assert (code, out) == (2, "")
    assert err == f"inception-jax: No checkpoint in {tmp_path} says what data it is of; --data does.\n"
