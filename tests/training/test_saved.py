"""The variables of a run, read for others: which checkpoint, what of it, and what is wrong with it."""

import errno
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from inception_jax.errors import UserError
from inception_jax.training import prepare
from inception_jax.training.checkpoints import host_checksum
from inception_jax.training.compilation import CompilationLog
from inception_jax.training.config import TrainConfig, changes_that_forbid_resuming
from inception_jax.training.records import sign, write_evaluation
from inception_jax.training.saved import read_run, read_variables
from tests.training.conftest import ROOT, to_format_1
from tests.training.trees import bits, random_like


def test_the_best_checkpoint_is_read_and_its_average(source, short):
    before = {path: path.stat().st_mtime_ns for path in source.rglob("*")}
    with CompilationLog() as log:
        saved = read_variables(source)
    assert log.compilations == []
    assert (saved.step, saved.averaged, saved.config) == (2, True, short())
    shapes = prepare(short(), source).abstract_state
    assert bits(saved.variables) == bits(random_like(shapes.ema, 12))
    plain = read_variables(source, average=False, step=3)
    assert (plain.step, plain.averaged) == (3, False)
    assert bits(plain.variables["params"]) == bits(random_like(shapes.params, 3))
    assert bits(plain.variables["batch_stats"]) == bits(random_like(shapes.batch_stats, 3))
    assert {path: path.stat().st_mtime_ns for path in source.rglob("*")} == before, "the folder is left alone"


def test_without_an_evaluation_the_last_is_read(copied):
    for step in (1, 2, 3):
        edit_meta(copied, step, metrics=None)
    assert read_variables(copied).step == 3


def test_a_late_evaluation_counts_for_the_best(copied):
    edit_meta(copied, 1, metrics=None)
    write_evaluation(copied / "checkpoints" / "1", {"eval/top1": 0.5, "eval_ema/top1": 0.95})
    assert read_variables(copied).step == 1


def test_a_run_says_what_it_measured_of_the_weights_that_are_read(copied):
    """Figures of the averaged parameters are not those of the others; the command is in the summary."""
    run = read_run(copied)
    assert (run.step, run.averaged, run.metrics) == (2, True, {"top1": 0.9})
    assert (run.data, run.split, run.command) == ("digits", "test[:96]", "")
    assert read_run(copied, average=False).metrics == {"top1": 0.5}
    for summary, command in (
        ('{"command": "python train.py"}', "python train.py"),
        ("[", ""),
        ("[]", ""),
        ('{"command": 1}', ""),
    ):
        (copied / "summary.json").write_text(summary)
        assert read_run(copied).command == command


def edit_meta(workdir, step=2, **changes):
    """Changes the record of a checkpoint as if it had been written so."""
    path = workdir / "checkpoints" / str(step) / "meta" / "metadata"
    meta = json.loads(path.read_text()) | changes
    meta.pop("checksum")
    path.write_text(json.dumps(sign(meta)))
    return meta


def test_a_record_with_a_field_of_earlier_versions_is_read(copied):
    edit_meta(copied, next_image=64)
    assert read_variables(copied).step == 2


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("file", ["meta/metadata", "evaluation.json"])
def test_a_damaged_checkpoint_is_left_out_with_a_line(copied, file, caplog):
    """Of any step: nobody can say whether that one is the best."""
    write_evaluation(copied / "checkpoints" / "1", {"eval_ema/top1": 0.1})
    write_evaluation(copied / "checkpoints" / "2", {"eval_ema/top1": 0.9})
    flip(copied / "checkpoints" / "1" / file)
    assert read_variables(copied).step == 2
    flip(copied / "checkpoints" / "2" / file)
    caplog.clear()
    assert read_variables(copied).step == 3
    assert [record.getMessage().count("\n") for record in caplog.records] == [0, 0]
    assert "checkpoints/2 is damaged" in caplog.text
    with pytest.raises(UserError, match=r"checkpoints/2 is damaged .* Other steps: \[1, 3\]"):
        read_variables(copied, step=2)


@pytest.mark.parametrize("damaged_since", [False, True])
def test_runs_of_format_1_are_read(copied, damaged_since):
    for step in (1, 2, 3):
        to_format_1(copied / "checkpoints" / str(step))
    if damaged_since:
        (copied / "checkpoints/1/metrics/metrics").write_text("")
    assert read_variables(copied).step == 2


@pytest.mark.slow
def test_a_device_that_does_not_start_is_no_damage(source, run, tmp_path):
    weights = tmp_path / "short.safetensors"
    assert run("convert", str(source), str(weights))[0] == 0
    code = (
        "import sys; from inception_jax.models import zoo; from tests.short import SHORT\n"
        "zoo.MODELS['short'] = SHORT\n"
        "from inception_jax.cli import main; main()"
    )
    Image.new("RGB", (12, 12)).save(tmp_path / "x.png")
    for network in (["--workdir", source], ["--weights", weights, "--unverified"]):
        done = subprocess.run(
            [sys.executable, "-c", code, "predict", tmp_path / "x.png", *network],
            env=os.environ | {"JAX_PLATFORMS": "tpu"},
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 2, done.stderr
        assert "JAX cannot start (JAX_PLATFORMS='tpu')" in done.stderr
        assert done.stderr.count("\n") == 1
        assert "damaged" not in done.stderr


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(errno.EACCES, "Permission denied"),
        OSError(errno.EMFILE, "Too many open files"),
        OSError(errno.EIO, "Input/output error"),
        ValueError("UNAVAILABLE: the bucket does not answer"),
    ],
)
def test_what_the_machine_did_is_no_damage(source, error, monkeypatch):
    def restore(*_args, **_keywords):
        raise ValueError("cannot read") from error

    monkeypatch.setattr("orbax.checkpoint.Checkpointer.restore", restore)
    with pytest.raises(UserError, match=r"checkpoints/2 cannot be read: \w+") as raised:
        read_variables(source)
    assert "damaged" not in str(raised.value)


def test_checkpoints_that_cannot_be_read_are_named(copied, tmp_path):
    with pytest.raises(UserError, match="holds no complete checkpoint of a run"):
        read_variables(tmp_path)
    with pytest.raises(UserError, match="no checkpoint of step 7; it has 1, 2, 3"):
        read_variables(copied, step=7)
    meta = edit_meta(copied)
    edit_meta(copied, format_version=99)
    with pytest.raises(UserError, match=r"checkpoints/2 has format 99; this version reads 1 and 2"):
        read_variables(copied)
    edit_meta(copied, **meta)
    edit_meta(copied, checksums={name: value for name, value in meta["checksums"].items() if name[:4] != "ema/"})
    with pytest.raises(UserError, match=r"kept no average of its parameters .*average=False"):
        read_variables(copied, average=True)
    assert not read_variables(copied).averaged
    edit_meta(copied, **meta)
    for average, name in ((True, "ema/params/conv1/conv/kernel"), (False, "params/conv1/conv/kernel")):
        edit_meta(copied, checksums=meta["checksums"] | {name: meta["checksums"][name] ^ 1})
        with pytest.raises(UserError, match=rf"2 is damaged \(1 arrays .* is {name}\)\. Other steps: \[1, 3\]\.$"):
            read_variables(copied, average=average, step=2)
        assert read_variables(copied, average=not average).step == 2, "what is not read is not checked"
    edit_meta(copied, **meta)
    for path in (copied / "checkpoints/2/state").rglob("d/*"):
        path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"checkpoints/2 is damaged \(.*\)\. Other steps: \[1, 3\]\.$"):
        read_variables(copied, step=2)
    assert read_variables(copied).step == 3
    (copied / "checkpoints/2/meta/metadata").write_text("[]")
    with pytest.raises(UserError, match=r"checkpoints/2 is damaged \(its record is no record"):
        read_variables(copied, step=2)


def test_a_checksum_on_the_host_sees_one_flipped_bit():
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    other = array.copy()
    other[1, 2] = np.nextafter(other[1, 2], np.float32(99))
    assert host_checksum(array) != host_checksum(other)
    assert host_checksum(array) == host_checksum(np.asfortranarray(array))


def test_checkpoints_from_before_the_section_finetune_still_fit(copied, short):
    old = short().model_dump(mode="json")
    del old["finetune"]
    assert TrainConfig.parse_saved(old) == short()
    assert changes_that_forbid_resuming(old, short()) == {}
    begun = short(finetune={"weights": "there", "freeze": "backbone"})
    assert changes_that_forbid_resuming(old, begun) == {
        "finetune.weights": (None, "there"),
        "finetune.freeze": ("none", "backbone"),
    }
    edit_meta(copied, config=old)
    assert read_variables(copied).config == short()
