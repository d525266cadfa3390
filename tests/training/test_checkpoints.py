"""Checkpoints: what is saved comes back, on any topology; what is damaged is never taken for whole."""

import json
import logging
import random
import resource
import shutil
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from inception_jax.errors import UserError
from inception_jax.parallel.mesh import create_mesh, state_shardings
from inception_jax.training.checkpoints import Checkpoints, checksums
from inception_jax.training.records import DamagedCheckpoint, read_evaluation, read_record, write_evaluation
from inception_jax.training.state import TrainState
from tests.training.conftest import to_format_1

METRIC = "eval/top1"


def state_at(step: int, mesh=None) -> TrainState:
    """Returns a state of every kind of array; large enough to be sharded."""
    rng = np.random.default_rng(step)
    params = {"conv": {"kernel": jnp.asarray(rng.normal(size=(3, 3, 64, 64)), jnp.float32)}, "bias": jnp.ones(7)}
    stats = {"bn": {"mean": jnp.asarray(rng.normal(size=64), jnp.float32)}}
    state = TrainState(
        step=jnp.array(step, jnp.int32),
        params=params,
        batch_stats=stats,
        opt_state=optax.sgd(0.1, momentum=0.9).init(params),
        ema={"params": params, "batch_stats": stats},
    )
    return jax.device_put(state, state_shardings(state, mesh or one_device()))


def one_device():
    devices = np.array(jax.devices()[:1]).reshape(1, 1)
    return jax.sharding.Mesh(devices, ("data", "fsdp"))


def abstract(state: TrainState) -> TrainState:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state)


@pytest.fixture(scope="module")
def config(tiny):
    return tiny()


@pytest.fixture
def saved(tmp_path, config):
    """Returns a folder with checkpoints of steps 1, 2 and 3."""
    folder = tmp_path / "checkpoints"
    with Checkpoints(folder, 3) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(state_at(step), config, None)
    return folder


def largest_file(folder: Path) -> Path:
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def test_round_trip_is_bit_exact(tmp_path, config):
    state = state_at(5)
    with Checkpoints(tmp_path / "checkpoints", 2) as checkpoints:
        assert checkpoints.restore(abstract(state), config) is None
        checkpoints.save(state, config, None)
        checkpoints.wait()
        chex.assert_trees_all_equal(checkpoints.restore(abstract(state), config), state)


def test_the_last_ones_and_the_best_stay(tmp_path, config):
    """Also over a restart after every save: the metrics are on disk."""
    for step, top1 in [(1, 0.5), (2, 0.9), (3, 0.4), (4, None), (5, 0.3)]:
        with Checkpoints(tmp_path / "checkpoints", 2) as checkpoints:
            checkpoints.save(state_at(step), config, None if top1 is None else {METRIC: top1})
    with Checkpoints(tmp_path / "checkpoints", 2) as checkpoints:
        assert checkpoints.steps() == [2, 4, 5]


def test_of_equally_good_ones_the_latest_stays(tmp_path, config):
    with Checkpoints(tmp_path / "checkpoints", 1) as checkpoints:
        for step, top1 in [(1, 0.9), (2, 0.9), (3, 0.4), (4, 0.3)]:
            checkpoints.save(state_at(step), config, {METRIC: top1})
        checkpoints.wait()
        assert checkpoints.steps() == [2, 4]


@pytest.mark.parametrize(
    ("saved_on", "restored_on"),
    [((1, 1), (8, 1)), ((8, 1), (1, 1)), ((8, 1), (1, 8)), ((1, 8), (4, 2)), ((2, 4), (1, 1))],
)
def test_restores_on_any_topology(tmp_path, config, saved_on, restored_on):
    saved_mesh, restored_mesh = (
        one_device() if shape == (1, 1) else create_mesh(*shape) for shape in (saved_on, restored_on)
    )
    state, target = state_at(3, saved_mesh), abstract(state_at(0, restored_mesh))
    with Checkpoints(tmp_path / "checkpoints", 2) as checkpoints:
        checkpoints.save(state, config, None)
        checkpoints.wait()
        restored = checkpoints.restore(target, config)
    chex.assert_trees_all_equal(jax.device_get(restored), jax.device_get(state))
    assert jax.tree.map(lambda leaf: leaf.sharding, restored) == jax.tree.map(lambda leaf: leaf.sharding, target)


def flip(path: Path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def cut(path: Path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("damage", [flip, cut, Path.unlink], ids=["flipped byte", "cut file", "lost file"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(saved, config, damage, caplog):
    damage(largest_file(saved / "3"))
    with caplog.at_level(logging.WARNING), Checkpoints(saved, 3) as checkpoints:
        restored = checkpoints.restore(abstract(state_at(0)), config)
        chex.assert_trees_all_equal(restored, state_at(2))
        assert "checkpoint 3 is damaged" in caplog.text
        assert (saved / "3.damaged").is_dir()
        checkpoints.save(state_at(3), config, None)
        checkpoints.wait()
        chex.assert_trees_all_equal(checkpoints.restore(abstract(state_at(0)), config), state_at(3))


def test_damaged_record_counts_as_damage_too(saved, config):
    (saved / "3" / "meta" / "metadata").write_text('{"format_ver')
    (saved / "2" / "meta" / "metadata").write_text("[]")
    with Checkpoints(saved, 3) as checkpoints:
        assert int(checkpoints.restore(abstract(state_at(0)), config).step) == 1


def flip_bit(path: Path, bit: int):
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def evaluated(folder: Path):
    for step in (1, 2, 3):
        write_evaluation(folder / str(step), {"eval/top1": step / 10, "eval/top5": 0.5, "eval/loss": 1.25})


@pytest.mark.parametrize("file", ["meta/metadata", "evaluation.json"])
def test_each_flipped_bit_of_a_record_is_damage(saved, file):
    evaluated(saved)
    path = saved / "3" / file
    whole = path.read_bytes()
    record = read_record(saved / "3")
    metrics = read_evaluation(saved / "3", record)
    for bit in random.Random(0).sample(range(8 * len(whole)), 300):
        flip_bit(path, bit)
        try:  # a bit of a name in an escaped text may change nothing
            now = read_record(saved / "3")
            assert (now, read_evaluation(saved / "3", now)) == (record, metrics)
        except DamagedCheckpoint:
            pass
        path.write_bytes(whole)


@pytest.mark.slow
@pytest.mark.parametrize("file", ["meta/metadata", "evaluation.json"])
@pytest.mark.parametrize("step", ["3", "1"])
def test_a_run_resumes_after_any_flipped_bit(saved, config, step, file, tmp_path):
    evaluated(saved)
    size = (saved / step / file).stat().st_size
    for number, bit in enumerate(random.Random(1).sample(range(8 * size), 60)):
        copy = shutil.copytree(saved, tmp_path / f"copy-{number}")
        flip_bit(copy / step / file, bit)
        with Checkpoints(copy, 3) as checkpoints:
            resumed = int(checkpoints.restore(abstract(state_at(0)), config).step)
            left = checkpoints.steps()
        assert (resumed, left) == (2, [1, 2]) if step == "3" else (3, [2, 3])
        assert (copy / f"{step}.damaged").is_dir(), "nothing is deleted"
        shutil.rmtree(copy)


@pytest.mark.slow
def test_a_run_resumes_after_any_flipped_bit_of_any_file(saved, config, tmp_path):
    """Each file that Orbax wrote; a bit that no reader reads leaves the step as it is."""
    files = [path.relative_to(saved) for path in (saved / "3").rglob("*") if path.is_file() and path.stat().st_size]
    draw = random.Random(2)
    for number in range(120):
        copy = shutil.copytree(saved, tmp_path / f"copy-{number}")
        path = copy / files[number % len(files)]
        flip_bit(path, draw.randrange(8 * path.stat().st_size))
        with Checkpoints(copy, 3) as checkpoints:
            state = checkpoints.restore(abstract(state_at(0)), config)
        chex.assert_trees_all_equal(state, state_at(int(state.step)))
        assert int(state.step) in (2, 3), path
        shutil.rmtree(copy)


def test_damaged_metrics_of_any_step_are_set_aside(saved, config, caplog):
    evaluated(saved)
    cut(saved / "1" / "evaluation.json")
    with caplog.at_level(logging.WARNING), Checkpoints(saved, 3) as checkpoints:
        assert int(checkpoints.restore(abstract(state_at(0)), config).step) == 3
        assert checkpoints.steps() == [2, 3]
    assert "checkpoint 1 is damaged (its evaluation cannot be parsed); it is now 1.damaged." in caplog.text
    assert (saved / "1.damaged" / "state").is_dir()


@pytest.mark.parametrize(
    "damage",
    [
        lambda record: record.replace('"params/bias"', '"parbms/bias"'),
        lambda record: record.replace('"seed": 0', '"seed": 1'),
        lambda record: record.replace('"format_version": 2', '"format_version": 3'),
        lambda record: record.replace('"checksum"', '"chfcksum"'),
    ],
)
def test_a_changed_record_is_damage_not_another_run(saved, config, damage):
    path = saved / "3" / "meta" / "metadata"
    text = json.dumps(json.loads(path.read_text()))
    path.write_text(damage(text))
    assert path.read_text() != text
    with Checkpoints(saved, 3) as checkpoints:
        assert int(checkpoints.restore(abstract(state_at(0)), config).step) == 2


def test_a_late_evaluation_makes_a_checkpoint_the_best(tmp_path, config):
    """Over a restart: it is on disk, and it decides what stays."""
    with Checkpoints(tmp_path / "checkpoints", 1) as checkpoints:
        checkpoints.save(state_at(1), config, {METRIC: 0.5})
        checkpoints.save(state_at(2), config, None)
        checkpoints.wait()
        assert checkpoints.metrics() == {1: {METRIC: 0.5}, 2: None}
    with Checkpoints(tmp_path / "checkpoints", 1) as checkpoints:
        checkpoints.add_metrics(2, {METRIC: 0.9})
    with Checkpoints(tmp_path / "checkpoints", 1) as checkpoints:
        checkpoints.save(state_at(3), config, {METRIC: 0.7})
        checkpoints.save(state_at(4), config, None)
        checkpoints.wait()
        assert checkpoints.steps() == [2, 4]


@pytest.mark.parametrize("file", [None, "metrics/metrics", "meta/metadata"])
def test_checkpoints_of_format_1_resume(saved, config, file):
    for step in (1, 2, 3):
        to_format_1(saved / str(step))
    if file is not None:
        (saved / "3" / file).write_text("")
    with Checkpoints(saved, 3) as checkpoints:
        assert int(checkpoints.restore(abstract(state_at(0)), config).step) == (3 if file is None else 2)
        checkpoints.save(state_at(4), config, {METRIC: 0.5})
        checkpoints.wait()
        assert checkpoints.steps()[-1] == 4


def test_damage_deletes_nothing_also_the_second_time(saved, config):
    for _ in range(2):
        cut(saved / "3" / "meta" / "metadata")
        with Checkpoints(saved, 3) as checkpoints:
            checkpoints.restore(abstract(state_at(0)), config)
            checkpoints.save(state_at(3), config, None)
    assert {entry.name for entry in saved.iterdir()} == {"1", "2", "3", "3.damaged", "3.damaged.2"}


def test_nothing_whole_is_an_error_not_a_fresh_start(saved, config):
    for step in (1, 2, 3):
        flip(largest_file(saved / str(step)))
    for _ in range(2):
        with Checkpoints(saved, 3) as checkpoints, pytest.raises(UserError, match=r"No checkpoint .* is whole"):
            checkpoints.restore(abstract(state_at(0)), config)
    assert sorted(entry.name for entry in saved.iterdir()) == ["1", "2", "3"], "nothing is touched"


def test_a_device_without_memory_is_not_a_damaged_checkpoint(saved, config, monkeypatch):
    def restore(*_args, **_keywords):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 1 bytes.")

    with Checkpoints(saved, 3) as checkpoints:
        monkeypatch.setattr(checkpoints._manager, "restore", restore)
        with pytest.raises(RuntimeError, match="RESOURCE_EXHAUSTED"):
            checkpoints.restore(abstract(state_at(0)), config)
    assert sorted(entry.name for entry in saved.iterdir()) == ["1", "2", "3"]


def test_another_config_is_refused_with_the_fields(saved, tiny):
    with (
        Checkpoints(saved, 3) as checkpoints,
        pytest.raises(UserError, match=r"config\.seed: 0 then, 7 now; config\.batch_size: 32 then, 16 now"),
    ):
        checkpoints.restore(abstract(state_at(0)), tiny(seed=7, batch_size=16))


def test_other_arrays_are_refused_by_name(saved, config):
    state = state_at(0)
    state = state.replace(params={**state.params, "bias": jnp.ones(8)})
    message = r"params/bias: float32\[7\] saved, float32\[8\] now"
    with Checkpoints(saved, 3) as checkpoints, pytest.raises(UserError, match=message):
        checkpoints.restore(abstract(jax.device_put(state, jax.devices()[0])), config)


def test_a_failed_save_is_an_error_and_the_ones_before_stay(saved, config):
    """A file size limit stands in for the full disk: the kernel refuses the write in the same place."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    checkpoints = Checkpoints(saved, 3)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        checkpoints.save(state_at(4), config, None)
        with pytest.raises(UserError, match=r"not written to .*Whole checkpoints: \[1, 2, 3\]"):
            checkpoints.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    with Checkpoints(saved, 3) as checkpoints:
        chex.assert_trees_all_equal(checkpoints.restore(abstract(state_at(0)), config), state_at(3))


def test_checksums_see_any_changed_word_and_no_sharding():
    state = state_at(1)
    kernel = state.params["conv"]["kernel"]
    other = kernel.at[1, 2, 3, 4].multiply(1 + 2**-23)
    swapped = kernel.at[0, 0, 0, 0].set(kernel[0, 0, 0, 1]).at[0, 0, 0, 1].set(kernel[0, 0, 0, 0])
    values = [checksums({"kernel": each})["kernel"] for each in (kernel, other, swapped)]
    assert len(set(values)) == 3
    assert checksums(state_at(1, create_mesh(1, 8))) == checksums(state)
