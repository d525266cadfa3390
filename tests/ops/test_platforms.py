"""Forms by platform: one is traced where the platform is known, all where it is not."""

import gc
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from inception_jax.ops.platforms import kind_of_each, pick, tracing_for, without_garbage_collection


class Device(NamedTuple):
    platform: str
    device_kind: str = "some kind"


def traced_forms(x=1.0):
    forms = []

    def form(name, factor):
        def run(tree, y):
            forms.append(name)
            return jax.tree.map(lambda leaf: leaf * factor * y, tree)

        return run

    def run(x):
        return pick({"a": x}, 1.0, cpu=form("cpu", 2), tpu=form("tpu", 3), default=form("default", 5))["a"]

    return jax.jit(run).trace(x), forms


def test_a_known_platform_traces_its_form_alone():
    with tracing_for(jax.devices("cpu")):
        traced, forms = traced_forms()
    assert forms == ["cpu"]
    assert traced.lower().compile()(1.0) == 2


@pytest.mark.parametrize(("platform", "form"), [("tpu", "tpu"), ("gpu", "default")])
def test_the_form_is_that_of_the_device_and_else_the_default(platform, form):
    with tracing_for([Device(platform)]):
        assert traced_forms()[1] == [form]


def test_an_unknown_platform_gets_its_form_when_it_is_compiled():
    traced, forms = traced_forms()
    assert sorted(forms) == ["cpu", "default", "tpu"]
    assert traced.lower(lowering_platforms=("cpu",)).compile()(1.0) == 2
    factors = {name: traced.lower(lowering_platforms=(name,)).as_text() for name in ("tpu", "cuda")}
    assert "3.0" in factors["tpu"]
    assert "2.0" not in factors["tpu"]
    assert "5.0" in factors["cuda"]


def test_what_was_traced_for_one_platform_is_not_taken_for_another():
    run = jax.jit(lambda x: pick(x, cpu=lambda x: x + 1, default=lambda x: x + 2))
    with tracing_for(jax.devices("cpu")[:1]):
        assert run(jnp.zeros(())) == 1
    with tracing_for([Device("tpu")]):
        assert run(jnp.zeros(())) == 2


def test_a_program_is_for_each_device_where_there_is_one_or_shard_map_splits_it():
    assert kind_of_each("tpu") is None
    with tracing_for([Device("tpu", "TPU v5 lite")]):
        assert kind_of_each("tpu") == "TPU v5 lite"
        assert kind_of_each("gpu") is None
    mesh, kinds = Mesh(np.array(jax.devices()[:2]), ("data",)), []

    def note(x):
        kinds.append(kind_of_each("tpu"))
        return x

    with tracing_for([Device("tpu", "TPU v5 lite")] * 2):
        jax.jit(note).trace(jnp.zeros(2))
        jax.jit(jax.shard_map(note, mesh=mesh, in_specs=P("data"), out_specs=P("data"))).trace(jnp.zeros(2))
    assert kinds == [None, "TPU v5 lite"]


@pytest.mark.parametrize("enabled", [True, False])
def test_the_search_for_garbage_is_left_as_it_was(enabled):
    (gc.enable if enabled else gc.disable)()
    try:
        with without_garbage_collection():
            assert not gc.isenabled()
        with pytest.raises(KeyError), without_garbage_collection():
            raise KeyError
        assert gc.isenabled() is enabled
    finally:
        gc.enable()
