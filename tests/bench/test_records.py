"""Rows of results: what is no honest comparison is refused, and what was committed stays readable."""

import json
from pathlib import Path

import pytest

from inception_jax.bench import records
from inception_jax.errors import UserError

RESULTS = sorted((Path(__file__).parents[2] / "benchmarks" / "results").glob("*.jsonl"))
CHECK = {
    "engine": "torch",
    "reference": "jax",
    "what": "logits",
    "max_abs_difference": 1e-5,
    "tolerance": 1e-3,
    "largest_value": 4.0,
}
MACHINE = {"cpu": "a", "cores": 2, "memory": 1, "accelerators": [], "system": "b", "load_average": 0.0}
ROW = {
    "command": "inception-jax bench model",
    "hardware": MACHINE,
    "date": "2026-11-24",
    "versions": {"jax": "0.10.2"},
    "figures": {"engines": {"jax": {"median": 1.0}, "torch": {"median": 2.0}}},
    "outputs_compared": [CHECK],
}


def test_a_row_reads_back_as_it_was_written(tmp_path):
    path = tmp_path / "new" / "rows.jsonl"
    written = [records.append(path, ROW), records.append(path, records.parse(ROW | {"note": "again"}))]
    assert records.read(path) == written
    assert [json.loads(line)["note"] for line in path.read_text().splitlines()] == ["", "again"]


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"outputs_compared": []}, "the outputs of torch were compared with nothing"),
        ({"outputs_compared": [CHECK | {"max_abs_difference": 2e-3}]}, "logits of torch and jax differ by 0.002"),
        ({"outputs_compared": [CHECK | {"max_abs_difference": float("nan")}]}, "finite number"),
        ({"outputs_compared": [{k: v for k, v in CHECK.items() if k != "tolerance"}]}, "tolerance: Field required"),
        ({"outputs_compared": [CHECK | {"engine": "keras"}]}, "the outputs of torch were compared with nothing"),
        ({"versions": {}}, "versions: Dictionary should have at least 1 item"),
        ({"hardware": "my machine"} | {"schema_version": 1}, "hardware"),
        ({"speed": 3}, "speed: Extra inputs are not permitted"),
        ({"figures": {"engines": ["jax"]}}, "by the name of an engine"),
    ],
)
def test_what_is_no_honest_comparison_is_refused(tmp_path, changes, fault):
    with pytest.raises(UserError, match=fault):
        records.append(tmp_path / "rows.jsonl", ROW | changes)
    assert not (tmp_path / "rows.jsonl").exists()


def test_without_versions_there_is_no_row():
    with pytest.raises(UserError, match="versions: Field required"):
        records.parse({name: value for name, value in ROW.items() if name != "versions"})


def test_checks_may_form_a_chain():
    engines = {"jax": {}, "torch": {}, "keras": {}}
    link = CHECK | {"engine": "keras", "reference": "torch"}
    records.parse(ROW | {"figures": {"engines": engines}, "outputs_compared": [CHECK, link]})
    with pytest.raises(UserError, match="of keras were"):
        records.parse(ROW | {"figures": {"engines": engines}})


def test_one_engine_alone_compares_nothing():
    assert records.parse(ROW | {"figures": {"engines": {"jax": {}}}, "outputs_compared": []})


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.name)
def test_committed_rows_are_readable(path):
    assert records.read(path)


def test_a_line_that_is_no_row_is_named(tmp_path):
    (tmp_path / "rows.jsonl").write_text(json.dumps(ROW) + "\n{\n")
    with pytest.raises(UserError, match=r"rows\.jsonl, line 2"):
        records.read(tmp_path / "rows.jsonl")


def test_the_machine_the_versions_and_the_flags(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_fast")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/somewhere")
    machine = records.find_hardware(["a chip"])
    assert machine.accelerators == ("a chip",)
    assert machine.cores >= 1
    assert machine.memory > 2**28
    versions = records.find_versions("jax", "no-such-package")
    assert {"python", "inception_jax", "jax"} == set(versions)
    flags = records.find_flags()
    assert flags["XLA_FLAGS"] == "--xla_cpu_fast"
    assert "TORCHINDUCTOR_CACHE_DIR" not in flags
