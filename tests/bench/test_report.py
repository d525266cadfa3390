"""docs/BENCHMARKS.md is what the committed rows give, and what it says of rows is what they hold."""

import json
from pathlib import Path

import pytest

from inception_jax.bench import plots, records, report
from inception_jax.errors import UserError
from tests.bench.test_records import CHECK, MACHINE, ROW

ROOT = Path(__file__).parents[2]
CASE = {"model": "googlenet_torchvision", "mode": "train", "batch": 32, "image_size": 224, "dtype": "float32"}
CASE |= {"aux": False}


def engine(speed, ratio=1.0):
    return {
        "steady": {"median": 32 / speed, "p10": 30 / speed, "p90": 35 / speed, "calls": 20},
        "images_per_second": speed,
        "ratio": {"median": ratio, "lowest": ratio - 0.1, "highest": ratio + 0.1},
        "flops_per_second": 8.9e9 * speed,
        "utilisation": 0.25,
        "to_first_result": 12.5,
        "warm_seconds": {"trace": 1.0, "compile": 0.5},
        "memory": {"process_peak": 2**30},
    }


def model_row(ours, theirs, **changes):
    engines = {"jax": engine(ours, ours / theirs), "torch": engine(theirs)}
    return ROW | {"figures": {"case": CASE | changes, "baseline": "torch", "engines": engines}}


OPS = ROW | {
    "figures": {
        "case": CASE,
        "engines": {"jax": {}, "torch": {}},
        "ops": [
            {
                "op": op,
                "uses": uses,
                "flops": 0,
                "seconds": {part: {"jax": jax, "torch": 1e-3} for part in ("forward", "gradients")},
            }
            for op, uses, jax in (("max 3x3/1 28x28x192", 2, 4e-3), ("conv 1x1/1 28x28x192 to 64", 1, 5e-4))
        ],
    }
}
COMPILE = ROW | {
    "figures": {
        "case": CASE,
        "device": "cpu",
        "engines": {
            "jax": {"cold": {"trace": 1.0, "compile": 9.0}, "warm": {"trace": 1.0, "compile": 0.5}},
            "torch": {"cold": {"first_call": 100.0}, "warm": {"first_call": 30.0}},
        },
        "program": {
            "before": {"stablehlo.add": 7},
            "after": {"add": 5, "fusion": 3},
            "steps": {"fusion": 3},
            "bytes_moved": {"conv1": 48_000_000, "other": 16_000_000},
        },
    }
}
DATA = ROW | {
    "figures": {
        "case": {"data": "imagenet2012", "images": 192, "size": 224},
        "engines": {
            "inception-jax": {"images_per_second": 800.0, "of_ours": {"median": 1.0}},
            "tf.data": {"images_per_second": 1000.0, "of_ours": {"median": 1.25}},
        },
        "workers": {"2": 1500.0},
    },
    "outputs_compared": [CHECK | {"engine": "tf.data", "reference": "inception-jax"}],
}


@pytest.fixture
def folder(tmp_path):
    rows = {
        "model": [model_row(10.0, 40.0), model_row(20.0, 40.0), model_row(90.0, 45.0, mode="inference")],
        "ops": [OPS],
        "compile": [COMPILE],
        "data": [DATA],
    }
    for kind, lines in rows.items():
        (tmp_path / report.FILES[kind]).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


def test_the_page_is_what_the_rows_give():
    """`inception-jax bench report` writes it."""
    rows = report.read_rows(ROOT / "benchmarks" / "results")
    figures = plots.draw(rows)
    page = ROOT / "docs" / "BENCHMARKS.md"
    assert page.read_text() == report.markdown(rows, figures)
    committed = {path.name for path in (ROOT / "docs" / "images").glob("bench_*.png")}
    assert committed == {Path(report.PICTURE.format(kind=kind)).name for kind in figures}


def test_losses_stand_beside_wins_and_old_rows_give_way(folder):
    page = report.markdown(report.read_rows(folder), ())
    assert "| googlenet_torchvision, train, 32 x 224, float32 | 20.0 | torch | 0.50 |" in page
    assert "| googlenet_torchvision, inference, 32 x 224, float32 | 90.0 | torch | 2.00 |" in page
    assert "| googlenet_torchvision, train, 32 x 224, float32 | 10.0 | torch |" not in page
    assert "| torch (baseline) | 40.0 | 800.00 (750.00 ... 875.00) | 1.00 (0.90 ... 1.10) | 356 | 25% |" in page
    assert "JAX is slower than torch for 1 of 2 forward, 1 with gradients." in page
    assert "| all 2, with all uses | 3 | 8.5 | 3.0 | 8.5 | 3.0 |" in page
    assert "| tf.data | 1,000 | 0.80 |" in page
    assert "| torch | 100.00 | 30.00 | first call 100.00 |" in page
    assert "| 7 | 8 | 3 | 2.0 | conv1 75%, other 25% |" in page
    assert "1 outputs compared, the worst logits of torch: 1e-05, 0.001 allowed" in page


def test_machines_are_kept_apart(folder):
    other = model_row(1.0, 2.0) | {"hardware": MACHINE | {"accelerators": ["H100"]}}
    records.append(folder / "model.jsonl", other)
    page = report.markdown(report.read_rows(folder), ())
    assert "### H100; 2 cores of a\n" in page
    assert "| 20.0 | torch | 0.50 |" in page
    assert "| 1.0 | torch | 0.50 |" in page


def test_the_command_writes_page_and_pictures(run, folder, tmp_path):
    code, out, err = run("bench", "report", "--results", str(folder), "-o", str(tmp_path / "docs" / "PAGE.md"))
    assert (code, err) == (0, "")
    assert "5 rows, 3 pictures" in out
    pictures = sorted(path.name for path in (tmp_path / "docs" / "images").iterdir())
    assert pictures == ["bench_compile.png", "bench_model.png", "bench_ops.png"]
    assert all(f"(images/{name})" in (tmp_path / "docs" / "PAGE.md").read_text() for name in pictures)


def test_no_folder_of_results(tmp_path):
    with pytest.raises(UserError, match="is no folder"):
        report.read_rows(tmp_path / "none")
