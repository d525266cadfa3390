"""A fence keeps small computations out of large ones, and changes no value and no gradient."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from inception_jax.ops import fence

CHANNELS, MAPS = jnp.linspace(1.0, 2.0, 8), jnp.ones((3, 8))


def _scaled(fenced, channels, maps):
    scale, offset = jnp.sin(channels), jnp.cos(channels)
    scale, offset = fence.compute_once(scale, offset) if fenced else (scale, offset)
    return maps * scale[None] + offset[None]


@pytest.mark.parametrize("fenced", [True, False])
def test_cpus_compute_it_apart(fenced):
    text = jax.jit(_scaled, static_argnums=0).lower(fenced, CHANNELS, MAPS).compile().as_text()
    bodies = re.findall(r"\n%?fused_computation.*?\n}", text, re.DOTALL)
    assert any("sine" in body and "f32[3,8]" in body for body in bodies) != fenced


def test_values_and_gradients_stay():
    for seen, expected in zip(_run(True), _run(False), strict=True):
        np.testing.assert_allclose(seen, expected, rtol=1e-6)


def test_one_array():
    np.testing.assert_array_equal(fence.compute_once(CHANNELS)[0], CHANNELS)
    assert fence.compute_once(jnp.float32(3))[0] == 3


def test_other_platforms_see_nothing_of_it():
    traced = jax.jit(_scaled, static_argnums=0).trace(True, CHANNELS, MAPS)
    assert "optimization_barrier" in traced.lower(lowering_platforms=("cpu",)).as_text()
    assert "optimization_barrier" not in traced.lower(lowering_platforms=("tpu",)).as_text()


def _run(fenced):
    made, pullback = jax.vjp(lambda channels, maps: _scaled(fenced, channels, maps), CHANNELS, MAPS)
    return made, *pullback(jnp.arange(24.0).reshape(3, 8))
