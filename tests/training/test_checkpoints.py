"""Checkpoints: what is saved comes back, on any topology; what is damaged is never taken for whole."""

import logging
import resource
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
from inception_jax.training.state import TrainState

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
    with Checkpoints(folder, 3, METRIC) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(state_at(step), config, None)
    return folder


def largest_file(folder: Path) -> Path:
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def test_round_trip_is_bit_exact(tmp_path, config):
    state = state_at(5)
    with Checkpoints(tmp_path / "checkpoints", 2, METRIC) as checkpoints:
        assert checkpoints.restore(abstract(state), config) is None
        checkpoints.save(state, config, None)
        checkpoints.wait()
        chex.assert_trees_all_equal(checkpoints.restore(abstract(state), config), state)


def test_the_last_ones_and_the_best_stay(tmp_path, config):
    """Also over a restart after every save: the metrics are on disk."""
    for step, top1 in [(1, 0.5), (2, 0.9), (3, 0.4), (4, None), (5, 0.3)]:
        with Checkpoints(tmp_path / "checkpoints", 2, METRIC) as checkpoints:
            checkpoints.save(state_at(step), config, None if top1 is None else {METRIC: top1})
    with Checkpoints(tmp_path / "checkpoints", 2, METRIC) as checkpoints:
        assert checkpoints.steps() == [2, 4, 5]


def test_of_equally_good_ones_the_latest_stays(tmp_path, config):
    with Checkpoints(tmp_path / "checkpoints", 1, METRIC) as checkpoints:
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
    with Checkpoints(tmp_path / "checkpoints", 2, METRIC) as checkpoints:
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
    with caplog.at_level(logging.WARNING), Checkpoints(saved, 3, METRIC) as checkpoints:
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
    with Checkpoints(saved, 3, METRIC) as checkpoints:
        assert int(checkpoints.restore(abstract(state_at(0)), config).step) == 1


def test_nothing_whole_is_an_error_not_a_fresh_start(saved, config):
    for step in (1, 2, 3):
        flip(largest_file(saved / str(step)))
    for _ in range(2):
        with Checkpoints(saved, 3, METRIC) as checkpoints, pytest.raises(UserError, match=r"No checkpoint .* is whole"):
            checkpoints.restore(abstract(state_at(0)), config)
    assert sorted(entry.name for entry in saved.iterdir()) == ["1", "2", "3"], "nothing is touched"


def test_a_device_without_memory_is_not_a_damaged_checkpoint(saved, config, monkeypatch):
    def restore(*_args, **_keywords):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 1 bytes.")

    with Checkpoints(saved, 3, METRIC) as checkpoints:
        monkeypatch.setattr(checkpoints._manager, "restore", restore)
        with pytest.raises(RuntimeError, match="RESOURCE_EXHAUSTED"):
            checkpoints.restore(abstract(state_at(0)), config)
    assert sorted(entry.name for entry in saved.iterdir()) == ["1", "2", "3"]


def test_another_config_is_refused_with_the_fields(saved, tiny):
    with (
        Checkpoints(saved, 3, METRIC) as checkpoints,
        pytest.raises(UserError, match=r"config\.seed: 0 then, 7 now; config\.batch_size: 32 then, 16 now"),
    ):
        checkpoints.restore(abstract(state_at(0)), tiny(seed=7, batch_size=16))


def test_other_arrays_are_refused_by_name(saved, config):
    state = state_at(0)
    state = state.replace(params={**state.params, "bias": jnp.ones(8)})
    message = r"params/bias: float32\[7\] saved, float32\[8\] now"
    with Checkpoints(saved, 3, METRIC) as checkpoints, pytest.raises(UserError, match=message):
        checkpoints.restore(abstract(jax.device_put(state, jax.devices()[0])), config)


def test_a_failed_save_is_an_error_and_the_ones_before_stay(saved, config):
    """A file size limit stands in for the full disk: the kernel refuses the write in the same place."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    checkpoints = Checkpoints(saved, 3, METRIC)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        checkpoints.save(state_at(4), config, None)
        with pytest.raises(UserError, match=r"not written to .*Whole checkpoints: \[1, 2, 3\]"):
            checkpoints.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    with Checkpoints(saved, 3, METRIC) as checkpoints:
        chex.assert_trees_all_equal(checkpoints.restore(abstract(state_at(0)), config), state_at(3))


def test_checksums_see_any_changed_word_and_no_sharding():
    state = state_at(1)
    kernel = state.params["conv"]["kernel"]
    other = kernel.at[1, 2, 3, 4].multiply(1 + 2**-23)
    swapped = kernel.at[0, 0, 0, 0].set(kernel[0, 0, 0, 1]).at[0, 0, 0, 1].set(kernel[0, 0, 0, 0])
    values = [checksums({"kernel": each})["kernel"] for each in (kernel, other, swapped)]
    assert len(set(values)) == 3
    assert checksums(state_at(1, create_mesh(1, 8))) == checksums(state)
