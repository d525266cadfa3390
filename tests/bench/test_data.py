"""Timing of the input pipeline: what is compared, what is refused, what is left out."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from inception_jax.bench import data as bench_data
from inception_jax.bench.pipelines import OTHERS
from inception_jax.cli import app
from inception_jax.data.sources import ImageSource
from inception_jax.errors import UserError
from tests.data.images import encode
from tests.data.test_jpeg_regions import smooth


@pytest.fixture
def source(monkeypatch):
    def absent(images, size):
        raise ImportError("No module named 'absent'")

    for name in {*OTHERS} - {"opencv"}:
        monkeypatch.setitem(OTHERS, name, absent)
    records = [{"image": encode(smooth(60, 80), "JPEG"), "label": 0}] * 4
    return ImageSource("smooth[train]", records, ("0",))


def test_a_row_has_every_engine_that_is_installed_and_names_the_others(source):
    row, missing = bench_data.measure(source, 24, 4, 2, [0], 0.01, "bench data")
    assert {"inception-jax", "decode only"} <= set(row.figures["engines"])
    assert missing["torchvision"] == missing["tf.data"] == "No module named 'absent'"
    for found in row.figures["engines"].values():
        assert found["images_per_second"] == pytest.approx(4 / found["median"])
    assert row.figures["engines"]["inception-jax"]["of_ours"]["median"] == 1
    assert row.figures["workers"]["0"] > 0
    assert {check.engine for check in row.outputs_compared} == set(row.figures["engines"]) - {"inception-jax"}


def test_other_pixels_or_shapes_are_refused(source, monkeypatch):
    flat = bench_data.Engine(lambda: None, lambda encoded, box: np.zeros((24, 24, 3)))
    monkeypatch.setitem(OTHERS, "opencv", lambda images, size: flat)
    with pytest.raises(UserError, match="A crop of opencv differs from ours by"):
        bench_data.measure(source, 24, 4, 1, [], 0.01, "bench data")
    with pytest.raises(UserError, match=r"opencv has the shape \(24, 24, 3\), ours \(16, 16, 3\)"):
        bench_data.measure(source, 16, 4, 1, [], 0.01, "bench data")


def test_more_images_than_there_are_come_again(source):
    row, _ = bench_data.measure(source, 24, 2 * len(source), 1, [], 0.01, "bench data")
    assert row.figures["case"]["images"] == 2 * len(source)


def test_the_command_prints_a_table_and_saves_a_row(source, monkeypatch, tmp_path):
    monkeypatch.setattr("inception_jax.data.sources.open_source", lambda *_: source)
    path = tmp_path / "data.jsonl"
    options = ["--images", "4", "--image-size", "24", "--rounds", "1", "--save", str(path)]
    result = CliRunner().invoke(app, ["bench", "data", *options])
    assert result.exit_code == 0, result.output
    assert "torchvision is left out: No module named 'absent'" in result.output
    assert "decode only" in result.output
    assert json.loads(path.read_text())["figures"]["case"] == {"data": "smooth[train]", "images": 4, "size": 24}
