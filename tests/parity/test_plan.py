"""The compiler for TPUs itself, asked for a short network: what a plan says against what is derived by hand."""

import json

import jax
import pytest
from flax import traverse_util

from configs import default
from inception_jax.errors import UserError
from inception_jax.models import zoo
from inception_jax.plan import compile_tpu, plan
from inception_jax.plan.chips import parse_slice
from inception_jax.training.config import TrainConfig
from inception_jax.training.state import init_variables
from tests.short import SHORT

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module", autouse=True)
def short():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(zoo.MODELS, "short", SHORT)
        yield


def config(dtype="float32", implementation="auto") -> TrainConfig:
    values = default.get_config()
    values.model.name, values.model.aux, values.data.image_size = "short", False, 16
    values.model.dtype, values.model.implementation = dtype, implementation
    return TrainConfig.parse(values)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_step_on_four_chips_moves_gradients_statistics_and_sums(dtype):
    found = plan.make_plan(plan.Question("short", config(dtype), parse_slice("v5e:2x2"), batch_per_chip=16))
    model = zoo.create_model("short", num_classes=10, aux=False)
    variables = jax.eval_shape(lambda: init_variables(jax.random.key(0), model, 16))
    sizes = {path: leaf.size for path, leaf in traverse_util.flatten_dict(variables).items()}
    (all_reduce,) = found.collectives
    assert all_reduce.kind == "all-reduce"
    assert all_reduce.count <= 3
    # Gradients, running statistics, and the sums to report: top-1, top-5, the count of images, and the loss.
    assert all_reduce.bytes == 4 * (sum(sizes.values()) + 4)
    assert found.memory["total"] > found.memory["arguments"] > 0  # what is temporary fits the memory on the chip
    assert found.memory["aliased"] == pytest.approx(found.memory["outputs"], rel=0.05)  # the state is donated
    assert found.hbm_bytes is not None
    record = json.loads(json.dumps(found.to_json()))
    assert record["fits"] is True
    assert record["versions"]["libtpu"]


def test_a_predictor_on_one_chip_moves_nothing_between_chips():
    found = plan.make_plan(plan.Question("short", config(), parse_slice("v6e:1x1"), batch_per_chip=8, inference=True))
    assert found.collectives == ()
    assert set(found.times) == {"compute", "HBM"}
    assert found.flops > 0


@pytest.mark.parametrize("topology", ["v4:2x2x1", "v5e:1x1", "v5p:1x1x1", "v6e:16x16", "tpu7x:2x2x1"])
def test_libtpu_has_the_devices_of_a_slice(topology):
    part = parse_slice(topology)
    assert len(compile_tpu.devices(part)) == part.devices


def test_a_program_that_is_too_large_is_told():
    sharding = jax.sharding.SingleDeviceSharding(compile_tpu.devices(parse_slice("v5e:1x1"))[0])
    x = jax.ShapeDtypeStruct((2**33,), "float32", sharding=sharding)  # 32 GiB
    with pytest.raises(compile_tpu.TooLarge, match=r"15\.75G"):
        compile_tpu.compile_for_tpu(jax.jit(lambda x: x + 1).trace(x))


def test_an_option_that_the_compiler_does_not_know_is_named():
    sharding = jax.sharding.SingleDeviceSharding(compile_tpu.devices(parse_slice("v5e:1x1"))[0])
    traced = jax.jit(lambda x: x + 1).trace(jax.ShapeDtypeStruct((8,), "float32", sharding=sharding))
    assert compile_tpu.compile_for_tpu(traced, {"xla_tpu_scoped_vmem_limit_kib": "20480"}).flops
    with pytest.raises(UserError, match=r"libtpu refuses the options {'xla_tpu_no_such': '1'}: .*xla_tpu_no_such"):
        compile_tpu.compile_for_tpu(traced, {"xla_tpu_no_such": "1"})
    with pytest.raises(UserError, match=r"libtpu refuses .*: .*xla_tpu_scoped_vmem_limit_kib"):
        compile_tpu.compile_for_tpu(traced, {"xla_tpu_scoped_vmem_limit_kib": "many"})
