"""The programs of benchmarks/: what they import, and the data set that one of them draws."""

import csv
import pathlib
import subprocess
import sys

import numpy as np
from PIL import Image

import inception_jax
from tests.test_imports import _imports

ROOT = pathlib.Path(inception_jax.__file__).parent.parent


def test_benchmarks_and_tests_import_nothing_of_each_other():
    for folder, other in (("benchmarks", "tests"), ("tests", "benchmarks")):
        for path in (ROOT / folder).rglob("*.py"):
            assert other not in {name.split(".")[0] for name in _imports(path)}, path


def test_drawn_shapes_have_the_boxes_that_they_say(tmp_path):
    counts = ("--size", "32", "--train", "5", "--validation", "10")
    subprocess.run([sys.executable, "-m", "benchmarks.shapes", tmp_path, *counts], check=True, cwd=ROOT)
    assert len(list(tmp_path.glob("train/*/*.png"))) == 5
    with (tmp_path / "boxes.csv").open() as file:
        _, *rows = csv.reader(file)
    names = {path.stem: path.parent.name for path in tmp_path.glob("validation/*/*.png")}
    assert len(names) == 10
    assert len(rows) == 10
    for name, annotation in rows:
        label, *box = annotation.split()
        assert names[name] == label
        left, top, right, bottom = map(int, box)  # the last two inclusive, as in ILSVRC's files
        mask = np.asarray(Image.open(tmp_path / "masks" / f"{name}.png")) > 0
        assert mask[top : bottom + 1, left : right + 1].sum() == mask.sum() > 40
        assert mask[top, left : right + 1].any()
        assert mask[top : bottom + 1, right].any()
