"""The step on eight devices: what it computes, and what the devices exchange."""

import collections
import dataclasses
import re

import chex
import jax
import numpy as np
import pytest

from inception_jax.parallel import mesh
from inception_jax.training import prepare
from inception_jax.training.compilation import trace_eval_step, trace_train_step

BATCH, SIZE = 32, 32
COLLECTIVES = re.compile(r"\b(all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\(")

pytestmark = pytest.mark.usefixtures("short_network")


@pytest.fixture(scope="module")
def experiment(tiny, tmp_path_factory):
    """Returns a function that makes a checked run of the short network without dropout; keywords change its config."""

    def make(**changes):
        changes["model"] = {"name": "short", "width": 1.0, "dropout": 0.0, "aux": False} | changes.get("model", {})
        changes["data"] = {"image_size": SIZE} | changes.get("data", {})
        return prepare(tiny(**changes), tmp_path_factory.mktemp("run"))

    return make


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 256, (BATCH, SIZE, SIZE, 3), np.uint8),
        "label": rng.integers(0, 10, BATCH).astype(np.int32),
        "mask": np.array([1.0] * (BATCH - 3) + [0.0] * 3, np.float32),
        "index": np.arange(BATCH, dtype=np.int32),
    }


def compiled(experiment, devices=None):
    """Returns the compiled training step of an experiment, and its state's shapes, on its own mesh or on one device."""
    if devices:
        state = jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            experiment.abstract_state,
            mesh.state_shardings(experiment.abstract_state, devices),
        )
        experiment = dataclasses.replace(experiment, mesh=devices, abstract_state=state)
    return trace_train_step(experiment).lower().compile(), experiment.abstract_state


def collectives(step_fn):
    """Returns how often each collective is in a compiled step."""
    return collections.Counter(COLLECTIVES.findall(step_fn.as_text()))


def one_device():
    return jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1), mesh.AXES)


def step_once(experiment, batch, devices=None):
    """Returns the compiled step, and the state and the sums after it."""
    step_fn, shapes = compiled(experiment, devices)
    state = jax.device_put(jax.device_get(experiment.init_state()), jax.tree.map(lambda leaf: leaf.sharding, shapes))
    return step_fn, *step_fn(state, jax.device_put(batch, mesh.batch_sharding(devices or experiment.mesh)))


@pytest.mark.parametrize(
    ("on_eight", "on_one"),
    [({}, {"model": {"bn_group_size": 4}}), ({"model": {"bn_group_size": "global"}}, {})],
    ids=["a group a device", "global"],
)
def test_eight_devices_compute_what_one_does(experiment, batch, on_eight, on_one):
    step_fn, state, sums = step_once(experiment(**on_eight), batch)
    _, alone, expected = step_once(experiment(**on_one), batch, one_device())
    assert int(sums["count"]) == BATCH - 3
    if not on_eight:
        found = collectives(step_fn)
        assert set(found) == {"all-reduce"}
        assert found["all-reduce"] <= 3, "so the forward pass exchanges nothing"
    chex.assert_trees_all_close(jax.device_get(sums), jax.device_get(expected), rtol=1e-4)
    chex.assert_trees_all_close(jax.device_get(state), jax.device_get(alone), rtol=1e-4, atol=1e-6)
    for leaf in jax.tree.leaves(state.batch_stats):
        shards = [np.asarray(shard.data) for shard in leaf.addressable_shards]
        assert all((shard == shards[0]).all() for shard in shards), "the same on all devices"


def test_the_steps_of_a_run_hold_no_form_of_another_platform(experiment):
    for trace in (trace_train_step, trace_eval_step):
        assert "platform_index" not in str(trace(experiment()).jaxpr)


def test_smaller_groups_parts_and_mixed_images_need_no_other_exchange(experiment):
    mixed = {"mixup": 0.2, "cutmix": 0.2}
    run = experiment(grad_accum_steps=2, model={"bn_group_size": 2, "aux": True}, data=mixed)
    found = collectives(compiled(run)[0])
    assert set(found) == {"all-reduce"}
    assert found["all-reduce"] <= 3


def test_sharded_parameters_are_gathered_and_their_gradients_scattered(experiment, batch, monkeypatch):
    whole = step_once(experiment(), batch)[1]
    monkeypatch.setattr(mesh, "SMALLEST_SHARDED", 256)
    step_fn, state, _ = step_once(experiment(mesh={"fsdp": 4}), batch)
    sharded = sum(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(state.params))
    found = collectives(step_fn)
    assert 0 < found["all-gather"] <= sharded
    assert 0 < found["reduce-scatter"] <= sharded
    assert found["all-reduce"] <= 5  # of gradients that are whole (2), of those that are sharded (2), of their norm
    # Of a few pixels: a value at the corner of a ReLU falls on either side of it, by rounding.
    chex.assert_trees_all_close(jax.device_get(state), jax.device_get(whole), rtol=1e-4, atol=5e-5)
