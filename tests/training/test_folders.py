"""Folders of images in a run: one list of classes for both splits, and only these folders count."""

import shutil

import pytest

from inception_jax.errors import UserError
from inception_jax.training import prepare
from tests.training.test_classes import fill


def test_the_splits_of_a_run_share_the_classes_of_the_first(short, tmp_path):
    data = fill(tmp_path, "ant", "bee")
    shutil.rmtree(tmp_path / "test" / "ant")
    for beside in ("runs/first", "__MACOSX/train", "unlabelled/all"):  # a workdir beside the splits is no split
        (tmp_path / beside).mkdir(parents=True)
        (tmp_path / beside / "curves.png").write_bytes(b"")
    run = prepare(short(data=data), tmp_path / "runs" / "first")
    assert run.model.num_classes == 2
    assert run.eval_source.class_names == run.train_source.class_names == ("ant", "bee")
    assert [run.eval_source[i]["label"] for i in range(2)] == [1, 1]
    assert not run.train_source.exif
    assert prepare(short(data=data | {"exif": True}), tmp_path / "runs" / "first").eval_source.exif


def test_a_class_of_the_evaluation_alone_is_refused(short, tmp_path):
    data = fill(tmp_path, "ant", "bee")
    shutil.copytree(tmp_path / "test" / "ant", tmp_path / "test" / "cat")
    with pytest.raises(UserError, match="test has class folders that the training data, or the network, do not know:"):
        prepare(short(data=data), tmp_path / "run")
