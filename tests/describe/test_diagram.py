"""Diagrams: they say what the summary says, and every word can be read."""

import dataclasses
import functools
import io
import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.patches import FancyBboxPatch

from inception_jax.describe import diagram, summary
from inception_jax.models import spec, zoo
from inception_jax.models.inception_v3 import AUX_HEAD
from tests.selection import cases, networks

RUNS = {  # first, last and number of the rows that are drawn once
    "googlenet": [],
    "inception_v3": [("Mixed_5c", "Mixed_5d", 2), ("Mixed_6c", "Mixed_6d", 2), ("Mixed_7b", "Mixed_7c", 2)],
    "inception_v3_fid": [("Mixed_5c", "Mixed_5d", 2), ("Mixed_6c", "Mixed_6d", 2)],
    "inception_v4": [("Mixed_5b", "Mixed_5e", 4), ("Mixed_6b", "Mixed_6h", 7), ("Mixed_7b", "Mixed_7d", 3)],
    "inception_resnet_v2": [
        ("block35_1", "block35_10", 10),
        ("block17_1", "block17_20", 20),
        ("block8_1", "block8_9", 9),
    ],
    "xception": [("block5", "block12", 8)],
}
DIAGRAMS = [
    ("googlenet", None),
    ("inception_v3", None),
    ("inception_resnet_v2", None),
    ("xception", None),
    ("inception_v3", "Mixed_7c"),
    ("xception", "block13"),
    ("googlenet", "conv1"),
]


_draw = functools.cache(diagram.draw)


def _texts(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def _runs(texts):
    """Returns (first, last, number) of the runs in the order of the drawing."""
    counts = [i for i, text in enumerate(texts) if re.fullmatch(r"x\d+", text)]
    return [(texts[i - 2], texts[i - 1].removeprefix("to "), int(texts[i][1:])) for i in counts]


def _row_names(name, texts):
    """Returns the rows that the texts name, those of runs among them."""
    table = list(zoo.MODELS[name].table)
    found = set(texts)
    for first, last, number in _runs(texts):
        run = table[table.index(first) : table.index(last) + 1]
        assert len(run) == number
        found |= set(run)
    return found


@pytest.mark.parametrize("name", networks())
def test_a_diagram_says_what_the_summary_says(name):
    figure, found = _draw(name), summary.summarize(name)
    texts = _texts(figure)
    assert {row.name for row in found.rows + found.aux} <= _row_names(name, texts)
    assert {"x".join(map(str, row.output)) for row in found.rows} <= set(texts)
    labels = "\n".join(texts)
    for layer in {layer for row in found.rows + found.aux for layer in row.layers}:
        size = "x".join(map(str, layer.kernel))
        if layer.path[-1] == "conv":
            assert re.search(rf"^conv {size}(/2)?( V)?, {layer.features}( linear)?$", labels, re.M), layer
        elif layer.path[-1] == "depthwise":
            assert re.search(rf"^sepconv {size}(/2)?(, \d maps)?, \d+( linear)?$", labels, re.M), layer
        elif layer.path[-1] == "pointwise":
            assert re.search(rf"^sepconv .*, {layer.features}( linear)?$", labels, re.M), layer
        else:
            assert re.search(rf"^linear, {layer.features}(, ReLU)?$", labels, re.M), layer
    totals = found.totals
    assert texts[0] == name
    assert re.match(rf"{totals['params']:,} params.*, {totals['macs'] / 1e9:.3f} GMACs at {found.image_size}", texts[1])


@pytest.mark.parametrize("name", cases(RUNS, fast=RUNS.keys() - {"inception_v3_fid", "inception_v4"}))
def test_equal_neighbours_are_drawn_once(name):
    assert _runs(_texts(_draw(name))) == RUNS[name]


@pytest.fixture
def in_zoo(monkeypatch):
    """Returns a function that puts a changed card into the zoo, under a name of its own, as summaries are cached."""

    def put(name, base, **changes):
        monkeypatch.setitem(zoo.MODELS, name, dataclasses.replace(zoo.MODELS[base], name=name, **changes))
        return name

    return put


def test_a_head_ends_a_run(in_zoo):
    texts = _texts(diagram.draw(in_zoo("tapped", "xception", aux_heads={"block9": AUX_HEAD})))
    assert _runs(texts) == [("block5", "block9", 5), ("block10", "block12", 3)]
    assert "aux block9" in texts


def test_a_run_of_single_boxes_has_room_for_its_names(in_zoo):
    table = {f"conv{i}": spec.Conv(16, (3, 3)) for i in range(3)} | {"pool": spec.Pool("max", 3, 2)}
    figure = diagram.draw(in_zoo("plain", "googlenet", table=table, aux_heads={}))
    assert _runs(_texts(figure)) == [("conv0", "conv2", 3)]
    _check_extents(figure)


@pytest.mark.parametrize(
    ("name", "block", "boxes"),
    [
        (
            "googlenet",
            "3a",
            "conv 1x1, 64 | conv 1x1, 96 | conv 3x3, 128 | conv 1x1, 16 | conv 5x5, 32 | max pool 3x3 | conv 1x1, 32 | "
            "concat",
        ),
        (
            "inception_v3",
            "Mixed_7c",  # whose forks join in the one concat
            "conv 1x1, 320 | conv 1x1, 384 | conv 1x3, 384 | conv 3x1, 384 | conv 1x1, 448 | conv 3x3, 384 | "
            "conv 1x3, 384 | conv 3x1, 384 | avg pool 3x3 | conv 1x1, 192 | concat",
        ),
        (
            "inception_resnet_v2",
            "block8_1",
            "conv 1x1, 192 | conv 1x1, 192 | conv 1x3, 224 | conv 3x1, 256 | concat | conv 1x1, 2080 linear | x 0.2 | "
            "+ | ReLU",
        ),
        (
            "inception_resnet_v2",
            "Block8",
            "conv 1x1, 192 | conv 1x1, 192 | conv 1x3, 224 | conv 3x1, 256 | concat | conv 1x1, 2080 linear | +",
        ),
        (
            "xception",
            "block13",
            "ReLU | sepconv 3x3, 728 | sepconv 3x3, 1024 linear | max pool 3x3/2 | + | conv 1x1/2, 1024 linear",
        ),
        ("inception_v2", "Conv2d_1a_7x7", "sepconv 7x7/2, 8 maps, 64"),
    ],
)
def test_a_block_alone_holds_its_rows(name, block, boxes):
    texts = _texts(_draw(name, block))
    start = texts.index("input")
    found = [text for text in texts[start + 1 :] if text != block and not re.fullmatch(r"\d+x\d+x\d+", text)]
    assert " | ".join(found) == boxes


def test_a_block_alone_states_its_cost_and_both_shapes():
    texts = _texts(_draw("googlenet", "3a"))
    assert texts[:2] == ["3a of googlenet", "163,696 params, 128.0 M MACs"]
    assert texts.index("28x28x192") < texts.index("3a") < texts.index("28x28x256")


@pytest.mark.parametrize(("name", "block"), DIAGRAMS)
def test_nothing_overlaps_and_no_text_leaves_its_box(name, block):
    _check_extents(_draw(name, block))


def _check_extents(figure):
    boxes, frames, texts, lines = _extents(figure)
    assert len(texts) > 5
    width, height = figure.get_size_inches() * figure.dpi
    corners = np.concatenate([boxes, frames, texts])
    assert corners[:, :2].min() > 0
    assert (corners[:, 2:] < (width, height)).all()
    for group in (boxes, frames, texts):
        assert [pair for pair in itertools.combinations(group.tolist(), 2) if _overlap(*pair)] == []
    for text in texts:
        assert [box for box in boxes if _overlap(text, box) and not _inside(text, box)] == []
        assert [line for line in lines if _overlap(text, line)] == []
    for box in boxes:
        assert [frame for frame in frames if _overlap(box, frame) and not _inside(box, frame)] == []
        assert [line for line in lines if _overlap(box, line)] == []
    labels = [sum(_inside(text, box) for text in texts) for box in boxes]
    legend = len({patch.get_facecolor() for patch in figure.axes[0].patches if patch.get_label() == "box"}) - 1
    assert labels == [0] * legend + [1] * (len(boxes) - legend)  # the white box of the input is in no legend


def _extents(figure):
    """Returns boxes, frames, texts and segments of lines as (left, bottom, right, top) in pixels."""
    axis, renderer = figure.axes[0], FigureCanvasAgg(figure).get_renderer()
    patches = [patch for patch in axis.patches if isinstance(patch, FancyBboxPatch)]
    corners = [axis.transData.transform_bbox(patch.get_bbox()) for patch in patches]
    boxes, frames = (
        np.array(
            [_sorted(c.p0, c.p1) for p, c in zip(patches, corners, strict=True) if (p.get_label() == "box") == box]
        )
        for box in (True, False)
    )
    texts = np.array([t.get_window_extent(renderer).extents for t in axis.texts])
    collection = next(c for c in axis.collections if isinstance(c, LineCollection))
    points = [axis.transData.transform(line) for line in collection.get_segments()]
    lines = np.array([_sorted(*pair) for line in points for pair in itertools.pairwise(line)])
    lines += np.tile(lines[:, :2] == lines[:, 2:], 2) * (-1, -1, 1, 1)  # two pixels wide
    return boxes, frames.reshape(-1, 4), texts, lines


def _sorted(first, second):
    return np.concatenate([np.minimum(first, second), np.maximum(first, second)])


def _overlap(a, b):
    """Returns whether two extents share more than half a pixel."""
    return all(min(a[i + 2], b[i + 2]) - max(a[i], b[i]) > 0.5 for i in (0, 1))


def _inside(a, b):
    return a[0] >= b[0] and a[1] >= b[1] and a[2] <= b[2] and a[3] <= b[3]


def _save(path, *what):
    with path.open("wb") as file:
        diagram.write(file, path.suffix.lower(), *what)


def test_equal_calls_write_equal_bytes(tmp_path):
    for suffix in diagram.FORMATS:
        first, second = tmp_path / f"first{suffix}", tmp_path / f"second{suffix.upper()}"
        for path in (first, second):
            _save(path, "googlenet", "3a")
        assert first.read_bytes() == second.read_bytes()
        assert re.search(rb"(?i)date|matplotlib v", first.read_bytes()) is None


def test_text_of_an_svg_is_text(tmp_path):
    _save(tmp_path / "3a.svg", "googlenet", "3a")
    assert _words(tmp_path / "3a.svg") == _texts(_draw("googlenet", "3a"))


@pytest.mark.parametrize(("name", "block"), [("googlenet", None), ("inception_v3", "Mixed_7c")])
def test_diagrams_in_the_documents_are_up_to_date(name, block):
    images = Path(__file__).parents[2] / "docs" / "images"
    assert _words(images / f"{'_'.join(filter(None, (name, block)))}.svg") == _texts(_draw(name, block))


def _words(svg):
    return re.findall(r"<text [^>]*>([^<]+)</text>", svg.read_text())


def test_a_tall_network_stands_in_columns():
    for name in ("inception_v3", "googlenet", "inception_resnet_v2"):
        width, height = _draw(name).get_size_inches() * 72
        assert height < 1.4 * diagram.COLUMN_HEIGHT
        assert width < 1300


@pytest.mark.parametrize(
    ("name", "block", "suffix", "message"),
    [
        ("googlnet", None, ".svg", "No model is called 'googlnet'. Nearest: googlenet, "),
        ("inception_v3", "Mixed_7d", ".svg", "inception_v3 has no row 'Mixed_7d'. Nearest: Mixed_7"),
        ("googlenet", "q", ".svg", "googlenet has no row 'q'. Rows: conv1, pool1, "),
        ("googlenet", None, ".gif", "The format of the diagram is '.gif'; it must be one of .svg, .png, .pdf."),
        ("googlenet", None, "", "The format of the diagram is ''; it must be one of .svg, .png, .pdf."),
    ],
)
def test_mistakes_are_named(name, block, suffix, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        diagram.write(io.BytesIO(), suffix, name, block)
