"""The kernels for TPUs, compiled for them: what fits the memory of a chip compiles; programs of a run hold them."""

import jax
import jax.numpy as jnp
import pytest

from inception_jax.models import zoo
from inception_jax.ops import tpu_pallas as kernels
from inception_jax.plan import compile_tpu, plan
from inception_jax.plan.chips import parse_slice
from inception_jax.training.compilation import trace_train_step
from tests.parity.test_plan import config
from tests.short import SHORT

pytestmark = pytest.mark.parity

IMAGES = 2 * kernels.LANES


def assert_both_compile(device, size, channels, features):
    def array(*shape, dtype=jnp.bfloat16):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=jax.sharding.SingleDeviceSharding(device))

    maps, kernel = array(IMAGES, size, size, channels), array(1, 1, channels, features)
    norm, grads = array(3, 2, channels, dtype=jnp.float32), array(IMAGES, size, size, features)
    forward = jax.jit(lambda maps, *rest: kernels.conv([maps], *rest)).trace(maps, kernel, array(features), norm)
    backward = jax.jit(kernels.gradients).trace(maps, kernel, norm, grads, maps)
    for traced in (forward, backward):
        assert compile_tpu.compile_for_tpu(traced).text.count('custom_call_target="tpu_custom_call"') == 1


@pytest.mark.parametrize(("size", "features"), [(28, 64), (14, 128), (8, 160), (3, 16), (64, 64)])
def test_the_most_channels_that_fit_compile(size, features):
    (device,) = compile_tpu.devices(parse_slice("v5e:1x1"))
    fitting = [
        channels
        for channels in range(kernels.CHANNELS, 8192, kernels.CHANNELS)
        if kernels.fits(device.device_kind, (IMAGES, size, size, channels), features, jnp.bfloat16, groups=2)
    ]
    assert_both_compile(device, size, fitting[-1], features)


@pytest.mark.parametrize("topology", ["v4:2x2x1", "v5p:1x1x1", "v6e:1x1", "tpu7x:2x2x1"])
def test_other_chips_take_them(topology):
    assert_both_compile(compile_tpu.devices(parse_slice(topology))[0], 28, 256, 64)


@pytest.mark.parametrize("implementation", ["pallas", "auto"])
def test_the_programs_of_a_run_hold_them_if_asked_for(monkeypatch, implementation):
    monkeypatch.setitem(zoo.MODELS, "short", SHORT)
    for inference, calls in [(False, 4), (True, 2)] if implementation == "pallas" else [(True, 0)]:
        settings = config("bfloat16", implementation)
        question = plan.Question("short", settings, parse_slice("v5e:2x2"), kernels.LANES, inference=inference)
        setup = plan._set_up(question)
        traced = plan._trace_predictor(setup) if inference else trace_train_step(setup)
        program = compile_tpu.compile_for_tpu(traced)
        assert program.text.count('custom_call_target="tpu_custom_call"') == calls
        found = plan.read_program(question, plan._facts(question, setup), program)
        assert sum(moved.steps for (kind, _), moved in found.by_op.items() if kind.startswith("Pallas kernel")) == calls
