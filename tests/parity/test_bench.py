"""`bench model` and `bench ops` beside the installed torchvision, on a few pixels: outputs are compared, then timed."""

import json

import pytest

from tests.selection import slow

pytestmark = pytest.mark.parity


@pytest.mark.parametrize(
    ("mode", "size", "compared"),
    [
        slow(("inference", 32, ["logits"])),
        ("train", 64, ["loss", "gradient norm", "gradients", "steps of running statistics"]),
    ],
)
def test_model_beside_torchvision(run, tmp_path, mode, size, compared):
    path = tmp_path / "rows.jsonl"
    code, _, err = run(
        "bench", "model", "--mode", mode, "--image-size", f"{size}", "--batch", "8", "--classes", "10",
        "--engine", "jax", "--engine", "torch", "--engine", "torch-channels-last", "--threads", "1",
        "--seconds", "0.1", "--rounds", "2", "--no-warm", "--save", str(path),
    )  # fmt: skip
    assert code == 0, err
    row = json.loads(path.read_text())
    checks = row["outputs_compared"]
    assert {check["engine"] for check in checks} == {"torch", "torch-channels-last"}
    for engine in ("torch", "torch-channels-last"):
        names = [check["what"].partition(" (")[0] for check in checks if check["engine"] == engine]
        assert names == compared
    assert all(0 <= check["max_abs_difference"] <= check["tolerance"] < check["largest_value"] for check in checks)
    assert {"jax", "torch", "torchvision"} <= set(row["versions"])
    assert row["flags"]["torch"]["threads"] == 1


@pytest.mark.slow
def test_model_beside_keras(run, tmp_path):
    path = tmp_path / "rows.jsonl"
    words = "bench model --model inception_v3_tf --image-size 75 --batch 2 --classes 10 --engine jax --engine keras "
    words += "--seconds 0.1 --rounds 1 --no-warm --save"
    code, _, err = run(*words.split(), str(path))
    assert code == 0, err
    row = json.loads(path.read_text())
    assert [check["engine"] for check in row["outputs_compared"]] == ["keras"]
    assert "keras" in row["versions"]


def test_ops_beside_torch(run, tmp_path):
    path = tmp_path / "rows.jsonl"
    words = "bench ops --model inception_v2 --image-size 64 --batch 2 --threads 1 --seconds 0.001 --rounds 1 --save"
    code, _, err = run(*words.split(), str(path))
    assert code == 0, err
    row = json.loads(path.read_text())
    kinds = {op["op"].split()[0] for op in row["figures"]["ops"]}
    assert kinds == {"conv", "separable", "max", "avg"}
    assert {check["what"].partition(" of ")[0] for check in row["outputs_compared"]} == {"output", "gradient"}
    costs = [op["uses"] * op["seconds"]["gradients"]["jax"] for op in row["figures"]["ops"]]
    assert costs == sorted(costs, reverse=True)
