"""The embedded digits: what they hold, and preparing them under bad conditions."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from inception_jax.data import digits
from inception_jax.data.sources import open_source
from inception_jax.data.transforms import decode
from inception_jax.errors import UserError


def contents(split: str, data_dir) -> tuple[np.ndarray, np.ndarray]:
    """Returns images [N, 8, 8, 3] and labels [N]."""
    source = open_source("digits", split, str(data_dir))
    records = [source[index] for index in range(len(source))]
    return np.array([decode(each["image"]) for each in records]), np.array([each["label"] for each in records])


def test_digits_are_split_80_to_20_within_each_class(digits_dir):
    _, train = contents("train", digits_dir)
    _, test = contents("test", digits_dir)
    assert (len(train), len(test)) == (1437, 360)
    per_class = np.bincount(load_digits().target)
    np.testing.assert_array_equal(np.bincount(train) + np.bincount(test), per_class)
    assert np.abs(np.bincount(test) - 0.2 * per_class).max() < 1
    assert open_source("digits", "train", digits_dir).class_names == tuple("0123456789")


def test_the_splits_hold_each_digit_once_with_ink_as_grey(digits_dir):
    train, test = contents("train", digits_dir), contents("test", digits_dir)
    images, labels = np.concatenate([train[0], test[0]]), np.concatenate([train[1], test[1]])
    original = load_digits()
    grey = np.round(original.images * 255 / 16).astype(np.uint8)
    stored = sorted((label, image[..., 0].tobytes()) for image, label in zip(images, labels, strict=True))
    assert stored == sorted((label, image.tobytes()) for image, label in zip(grey, original.target, strict=True))
    np.testing.assert_array_equal(images, images[..., :1].repeat(3, axis=-1))


def test_preparing_again_gives_the_same_records_in_the_same_order(digits_dir, tmp_path):
    for split in ("train", "test"):
        for first, second in zip(contents(split, digits_dir), contents(split, tmp_path), strict=True):
            np.testing.assert_array_equal(first, second)


PREPARE = """
import sys, time
from inception_jax.data import digits, sources
while time.time() < float(sys.argv[2]):
    time.sleep(0.001)
print(len(sources.open_source("digits", "train", sys.argv[1])))
"""


@pytest.mark.slow
def test_processes_that_prepare_at_once_all_succeed(tmp_path, digits_dir):
    start = str(time.time() + 4)  # after all have imported TFDS
    command = [sys.executable, "-c", PREPARE, str(tmp_path), start]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    outputs = [run.communicate(timeout=100) for run in runs]
    assert [run.returncode for run in runs] == [0, 0, 0], outputs
    assert [output.strip() for output, _ in outputs] == ["1437"] * 3
    assert [path.name for path in (tmp_path / "digits").iterdir()] == ["1.0.0"]
    np.testing.assert_array_equal(contents("train", tmp_path)[0], contents("train", digits_dir)[0])


def test_the_loser_of_a_race_to_prepare_takes_the_winners_data(tmp_path, monkeypatch):
    prepare = digits._prepare

    def lose(data_dir):
        prepare(data_dir)
        raise OSError("Directory not empty")

    monkeypatch.setattr(digits, "_prepare", lose)
    assert len(open_source("digits", "train", str(tmp_path))) == 1437


def test_an_interrupted_preparation_is_made_good_by_the_next(tmp_path, monkeypatch):
    def interrupt(ink):
        raise KeyboardInterrupt

    monkeypatch.setattr(digits, "_png", interrupt)
    with pytest.raises(KeyboardInterrupt):
        open_source("digits", "train", str(tmp_path))
    monkeypatch.undo()
    assert len(open_source("digits", "train", str(tmp_path))) == 1437


def test_what_a_killed_process_left_behind_does_no_harm(tmp_path):
    for name in ("1.0.0", "1.0.0.incompleteABC123"):
        folder = tmp_path / "digits" / name
        folder.mkdir(parents=True)
        (folder / "digits-train.array_record-00000-of-00001").write_bytes(b"half a file")
    assert len(open_source("digits", "train", str(tmp_path))) == 1437


def test_a_data_dir_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"Cannot write digits to .*file.*point data_dir at a folder") as caught:
        open_source("digits", "train", str(tmp_path / "file"))
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_prepared_digits_need_no_right_to_write(digits_dir, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="Cannot write digits"):
        open_source("digits", "train", str(tmp_path))
    folders = [Path(digits_dir), *Path(digits_dir).rglob("*")]
    for folder in folders:
        folder.chmod(0o500)
    assert len(open_source("digits", "train", digits_dir)) == 1437
    for folder in folders:
        folder.chmod(0o700)
