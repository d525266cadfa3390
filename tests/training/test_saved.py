"""The variables of a run, read for others: which checkpoint, what of it, and what is wrong with it."""

import json

import numpy as np
import pytest

from inception_jax.errors import UserError
from inception_jax.training import prepare
from inception_jax.training.checkpoints import host_checksum
from inception_jax.training.compilation import CompilationLog
from inception_jax.training.config import TrainConfig, changes_that_forbid_resuming
from inception_jax.training.saved import read_variables
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
        (copied / "checkpoints" / str(step) / "metrics" / "metrics").write_text('{"eval_ema/top1": -Infinity}')
    assert read_variables(copied).step == 3


def edit_meta(workdir, **changes):
    path = workdir / "checkpoints" / "2" / "meta" / "metadata"
    meta = json.loads(path.read_text()) | changes
    path.write_text(json.dumps(meta))
    return meta


def test_checkpoints_that_cannot_be_read_are_named(copied, tmp_path):
    with pytest.raises(UserError, match="holds no complete checkpoint of a run"):
        read_variables(tmp_path)
    with pytest.raises(UserError, match="no checkpoint of step 7; it has 1, 2, 3"):
        read_variables(copied, step=7)
    meta = edit_meta(copied)
    edit_meta(copied, format_version=99)
    with pytest.raises(UserError, match=r"checkpoints/2 has format 99; this version reads 1"):
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
            read_variables(copied, average=average)
        assert read_variables(copied, average=not average).step == 2, "what is not read is not checked"
    edit_meta(copied, **meta)
    for path in (copied / "checkpoints/2/state").rglob("d/*"):
        path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"checkpoints/2 is damaged \(.*\)\. Other steps: \[1, 3\]\.$"):
        read_variables(copied)
    (copied / "checkpoints/2/meta/metadata").write_text("[]")
    with pytest.raises(UserError, match=r"checkpoints/2 is damaged \(its record lacks"):
        read_variables(copied)


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
