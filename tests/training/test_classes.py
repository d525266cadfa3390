"""Class names belong to a run: labels are numbers, and other names behind them are other classes."""

import dataclasses
import re

import numpy as np
import pytest
from PIL import Image

from inception_jax import weights
from inception_jax.classes import check_same_classes
from inception_jax.errors import UserError
from inception_jax.training import prepare, saved
from inception_jax.training.provenance import CLASSES, read_classes, write_classes

DIGITS = tuple("0123456789")


def fill(root, *names, splits=("train", "test")):
    """Writes two images of noise for each class of each split."""
    rng = np.random.default_rng(0)
    for split in splits:
        for name in names:
            (root / split / name).mkdir(parents=True)
            for i in range(2):
                pixels = rng.integers(0, 256, (12, 12, 3), np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")
    return {"name": f"folder:{root}", "data_dir": None, "eval_split": "test"}


def begun(workdir, names):
    """Makes a workdir that holds a checkpoint, and what its classes are called."""
    (workdir / "checkpoints" / "3").mkdir(parents=True)
    if names:
        write_classes(workdir, names)
    return workdir


def test_a_run_does_not_go_on_with_a_class_renamed(short, tmp_path):
    data = fill(tmp_path / "images", "ant", "bee")
    workdir = begun(tmp_path / "run", ["ant", "bee"])
    prepare(short(data=data), workdir)
    for split in ("train", "test"):
        (tmp_path / "images" / split / "ant").rename(tmp_path / "images" / split / "cat")
    message = "2 classes each, but other ones: class 0 is 'bee' in the first and 'ant' in the second (from there on: "
    with pytest.raises(UserError, match=re.escape(message + "bee, cat; ant, bee). Give the class folders")):
        prepare(short(data=data), workdir)
    assert read_classes(workdir) == ("ant", "bee")


def test_a_run_does_not_go_on_with_a_class_more(short, tmp_path):
    data = fill(tmp_path / "images", "ant", "bee", "cat")
    workdir = begun(tmp_path / "run", ["ant", "bee"])
    with pytest.raises(UserError, match=r"has 3 classes and .* has 2: class 2 is 'cat' in the first and missing in"):
        prepare(short(data=data), workdir)


def test_a_run_without_names_goes_on_with_a_warning(short, tmp_path, caplog):
    prepare(short(), begun(tmp_path, ()))
    assert f"holds a run without {CLASSES}; the classes that it learned are taken for those of digits" in caplog.text


def test_names_that_no_encoding_knows_are_kept(tmp_path):
    names = ("caf\udce9", "two\nlines", "Käse", "犬")
    write_classes(tmp_path, names)
    assert read_classes(tmp_path) == ("caf\udce9", "two lines", "Käse", "犬")
    check_same_classes("the data", names, "the run", read_classes(tmp_path), "")
    with pytest.raises(UserError) as refused:
        check_same_classes("the data", names, "the run", ("caf\udce8", *names[1:]), "")
    str(refused.value).encode()  # so that a terminal can show it


@pytest.fixture
def started(source, monkeypatch):
    """Returns a function that makes a run start from the weights of `source` with these class names."""

    def start(names):
        given = saved.run_weights(source)
        named = dataclasses.replace(given, info=dataclasses.replace(given.info, class_names=tuple(names)))
        monkeypatch.setattr(weights, "load", lambda file, name, **options: named)
        return {"weights": "a.safetensors", "unverified": True}

    return start


def test_a_classifier_of_other_classes_is_not_kept(short, started, tmp_path):
    given = started(["airplane", *DIGITS[1:]])
    message = r"10 classes each, but other ones: class 0 is '0' in the first and 'airplane' .*reset_head=True"
    with pytest.raises(UserError, match=message):
        prepare(short(finetune=given), tmp_path)
    with pytest.raises(UserError, match="order the same classes differently"):
        prepare(short(finetune=started(DIGITS[::-1])), tmp_path)
    experiment = prepare(short(finetune=given | {"reset_head": True}), tmp_path)
    assert "params/classifier/linear/kernel" in experiment.weights.report.reinitialised


def test_a_classifier_of_unnamed_classes_is_kept_with_a_warning(short, started, tmp_path, caplog):
    prepare(short(finetune=started(DIGITS)), tmp_path)
    assert caplog.text == ""
    prepare(short(finetune=started(())), tmp_path)
    assert "a.safetensors does not say what its 10 classes are" in caplog.text
    assert "config.finetune.reset_head=True" in caplog.text


def test_training_and_evaluation_have_the_same_classes(short, tmp_path, monkeypatch):
    from inception_jax.training import experiment

    def opened(name, split, data_dir, **options):
        found = open_source(name, split, data_dir, **options)
        return dataclasses.replace(found, class_names=DIGITS[::-1]) if split.startswith("test") else found

    open_source = experiment.open_source
    monkeypatch.setattr(experiment, "open_source", opened)
    with pytest.raises(UserError, match=r"digits\[train\] and digits\[test.* order the same classes differently"):
        prepare(short(), tmp_path)
