"""The kernels for TPUs, compiled for them: they fit the memory of every chip, and the programs of a run hold them."""

import jax
import jax.numpy as jnp
import pytest

from inception_jax.bench import plan, tpu
from inception_jax.bench.chips import parse_slice
from inception_jax.models import tpu as kernels
from inception_jax.models import zoo
from inception_jax.models.platforms import tracing_for
from inception_jax.training.compilation import trace_train_step
from tests.parity.test_plan import config
from tests.short import SHORT

pytestmark = pytest.mark.parity

LARGEST = [(28, 320, 64), (14, 528, 128), (7, 1024, 384), (64, 128, 64), (2, 2048, 512)]
OTHERS = ["v4:2x2x1", "v5p:1x1x1", "v6e:1x1", "tpu7x:2x2x1"]


@pytest.mark.parametrize(
    ("topology", "shape"),
    [*(("v5e:1x1", shape) for shape in LARGEST), *((name, LARGEST[0]) for name in OTHERS)],
    ids=str,
)
def test_what_fits_compiles(topology, shape):
    size, channels, features = shape
    device = tpu.devices(parse_slice(topology))[0]
    sharding = jax.sharding.SingleDeviceSharding(device)
    images = 2 * kernels.LANES

    def array(*shape, dtype=jnp.bfloat16):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    with tracing_for([device]):
        assert kernels.fits((images, size, size, channels), features, jnp.bfloat16, groups=2)
    maps, kernel = array(images, size, size, channels), array(1, 1, channels, features)
    norm, grads = array(3, 2, channels, dtype=jnp.float32), array(images, size, size, features)
    forward = jax.jit(lambda maps, *rest: kernels.conv([maps], *rest)).trace(maps, kernel, array(features), norm)
    backward = jax.jit(kernels.gradients).trace(maps, kernel, norm, grads, maps)
    for traced in (forward, backward):
        assert tpu.compile_for_tpu(traced).text.count('custom_call_target="tpu_custom_call"') == 1


def test_the_programs_of_a_run_hold_them(monkeypatch):
    monkeypatch.setitem(zoo.MODELS, "short", SHORT)
    for inference, calls in [(False, 4), (True, 2)]:
        question = plan.Question(
            "short", config("bfloat16"), parse_slice("v5e:2x2"), kernels.LANES, inference=inference
        )
        setup = plan._set_up(question)
        traced = plan._trace_predictor(setup, question.part) if inference else trace_train_step(setup)
        program = tpu.compile_for_tpu(traced)
        assert program.text.count('custom_call_target="tpu_custom_call"') == calls
        found = plan.read_program(question, plan._facts(question, setup), program)
        assert sum(moved.steps for (kind, _), moved in found.by_op.items() if kind.startswith("kernel")) == calls
