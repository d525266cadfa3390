"""The training step: a pure function with the same result on any mesh, in microbatches, and in lower precision."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from inception_jax.models.zoo import create_model, model_card
from inception_jax.parallel import mesh
from inception_jax.training.state import create_state, init_variables
from inception_jax.training.step import accumulate, batch_gradients, batch_loss, train_step, update_ema
from tests.selection import cases
from tests.short import SHORT

BATCH, SIZE, CLASSES = 16, 16, 10
PREPROCESS = model_card("googlenet_cifar").preprocess


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 256, (BATCH, SIZE, SIZE, 3), np.uint8),
        "label": rng.integers(0, CLASSES, BATCH).astype(np.int32),
        "mask": np.array([1.0] * 14 + [0.0] * 2, np.float32),
        "index": np.arange(BATCH, dtype=np.int32),
    }


def narrow(dtype=jnp.float32, **settings):
    """Returns a narrow network of two modules, with a head on the first."""
    model = create_model("googlenet_cifar", CLASSES, dtype, **settings)
    return model.clone(table=SHORT.table, aux_heads=SHORT.aux_heads)


@functools.cache
def make(dtype="float32"):
    """Returns (state, step function) of a narrow network without dropout."""
    model = narrow(jnp.dtype(dtype), dropout=0.0)
    heads = {tap: head._replace(dropout=0.0) for tap, head in model.aux_heads.items()}
    model = model.clone(aux_heads=heads)
    tx = optax.sgd(1e-4, momentum=0.9)
    loss_fn = functools.partial(
        batch_loss,
        model=model,
        preprocess=PREPROCESS,
        label_smoothing=0.1,
        aux_weights={"aux_4a": 0.3},
        mixup=0.0,
        cutmix=0.0,
    )
    state = jax.jit(lambda: create_state(init_variables(jax.random.key(0), model, SIZE), tx, ema=True))()
    gradients = functools.partial(batch_gradients, loss_fn=loss_fn, grad_accum_steps=1)
    return state, functools.partial(train_step, gradients=gradients, tx=tx, seed=0, ema_decay=0.999)


def compile_step(step, **shardings):
    """Returns the jitted step; without the backend's optimisations, which take longer than these runs."""
    return jax.jit(step, compiler_options={"xla_backend_optimization_level": 0}, **shardings)


@functools.cache
def compiled(dtype="float32"):
    """Returns the jitted step of `make` on one device."""
    return compile_step(make(dtype)[1])


def run(state, step_fn, batch, steps):
    losses = []
    for _ in range(steps):
        state, sums = step_fn(state, batch)
        losses.append(float(sums["loss"]) / float(sums["count"]))
    return state, losses


@pytest.fixture(scope="module")
def step_fn():
    return compiled()


@pytest.fixture(scope="module")
def one_device(batch, step_fn):
    return run(make()[0], step_fn, batch, steps=4)


@pytest.mark.parametrize(
    ("fsdp", "dtype", "rtol"), cases([(1, "float32", 1e-3), (4, "float64", 1e-9)], fast=[(4, "float64", 1e-9)])
)
def test_eight_devices_train_as_one(batch, monkeypatch, fsdp, dtype, rtol):
    """The first steps of a fresh network amplify float32 rounding; in float64 the losses agree to the last digits."""
    monkeypatch.setattr(mesh, "SMALLEST_SHARDED", 256)
    devices = jax.make_mesh((8 // fsdp, fsdp), ("data", "fsdp"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    with jax.enable_x64(dtype == "float64"):
        state, step = make(dtype)
        state = jax.tree.map(lambda leaf: leaf.astype(dtype) if leaf.dtype == jnp.float32 else leaf, state)
        alone, losses_alone = run(state, compiled(dtype), batch, steps=4)
        shardings = mesh.state_shardings(state, devices)
        step_fn = compile_step(
            step, in_shardings=(shardings, mesh.batch_sharding(devices)), out_shardings=(shardings, None)
        )
        together, losses = run(jax.device_put(state, shardings), step_fn, batch, steps=4)
        np.testing.assert_allclose(losses, losses_alone, rtol=rtol)
        if dtype == "float64":
            chex.assert_trees_all_close(together.params, alone.params, atol=rtol)
    assert all(sharding.is_fully_replicated for sharding in jax.tree.leaves(shardings)) == (fsdp == 1)
    assert jax.tree.map(lambda leaf: leaf.sharding, together) == shardings


def test_loss_falls_and_step_counts(one_device):
    state, losses = one_device
    assert int(state.step) == 4
    assert losses[-1] < losses[0]


def test_state_stays_float32_and_the_loss_close_in_bfloat16(batch, one_device):
    state, step = make("bfloat16")
    state, losses = run(state, compile_step(step), batch, steps=4)
    for leaf in jax.tree.leaves((state.params, state.batch_stats, state.opt_state)):
        assert leaf.dtype in (jnp.float32, jnp.int32)
    np.testing.assert_allclose(losses, one_device[1], rtol=0.02)


def test_average_equals_the_parameters_after_one_step(batch, step_fn):
    state, _ = step_fn(make()[0], batch)
    chex.assert_trees_all_equal(state.ema, state.variables)


def test_average_follows_the_formula():
    ema, variables = jnp.array(1.0), jnp.array(2.0)
    np.testing.assert_allclose(
        update_ema(ema, variables, jnp.array(6), 0.9), 1.0 * (5 / 15) + 2.0 * (10 / 15), rtol=1e-6
    )
    np.testing.assert_allclose(update_ema(ema, variables, jnp.array(10_000), 0.9), 1.1, rtol=1e-6)


def test_masked_images_give_no_gradient(batch, step_fn):
    state, _ = make()
    other = batch | {"label": np.where(batch["mask"] > 0, batch["label"], 3).astype(np.int32)}
    assert (other["label"] != batch["label"]).any()
    chex.assert_trees_all_equal(step_fn(state, batch), step_fn(state, other))


@pytest.mark.parametrize("microbatches", [2, 4])
def test_accumulated_microbatches_are_the_whole_batch(batch, microbatches):
    """On a linear loss, where batch norm cannot tell the microbatches apart."""

    def run_microbatch(batch_stats, microbatch, rng):
        pixels = microbatch["image"].astype(jnp.float32).sum((0, 1, 2))
        return {"w": pixels}, batch_stats + 1, {"count": microbatch["mask"].sum()}

    whole = run_microbatch(0, batch, None)
    grads, batch_stats, sums = accumulate(run_microbatch, jnp.array(0), batch, jax.random.key(0), microbatches)
    np.testing.assert_allclose(grads["w"], whole[0]["w"])
    assert batch_stats == microbatches
    assert sums["count"] == 14


def test_accumulation_uses_other_randomness_in_each_microbatch(batch):
    def run_microbatch(batch_stats, microbatch, rng):
        return {"w": jnp.zeros(())}, batch_stats, {"draw": jax.random.uniform(rng)}

    draws = [
        accumulate(run_microbatch, 0, batch, jax.random.key(0), microbatches)[2]["draw"] for microbatches in (1, 2)
    ]
    rng = jax.random.key(0)
    assert draws[1] == sum(jax.random.uniform(jax.random.fold_in(rng, number)) for number in range(2))


def test_dropout_differs_between_steps_and_is_a_function_of_seed_and_step(batch):
    state, _ = make()
    model = narrow(dropout=0.5)
    loss_fn = functools.partial(
        batch_loss, model=model, preprocess=PREPROCESS, label_smoothing=0.0,
        aux_weights={"aux_4a": 0.3}, mixup=0.0, cutmix=0.0,
    )  # fmt: skip
    gradients = functools.partial(batch_gradients, loss_fn=loss_fn, grad_accum_steps=1)
    step = functools.partial(train_step, gradients=gradients, tx=optax.sgd(0.0, momentum=0.9), seed=0, ema_decay=None)
    step_fn = compile_step(step)
    first, second, again = (
        float(step_fn(state.replace(step=jnp.array(step, jnp.int32)), batch)[1]["loss"]) for step in (0, 1, 0)
    )
    assert first == again
    assert first != second


@pytest.mark.parametrize("count", [4, 0])
def test_the_step_takes_the_mean_gradient_and_reports_norms(count):
    """Of a small and a large parameter; of no images nothing is divided by zero."""
    rng = np.random.default_rng(0)
    shapes = {"small": (3, 5), "large": (mesh.SMALLEST_SHARDED,)}
    params, grads = ({name: rng.standard_normal(shape) for name, shape in shapes.items()} for _ in range(2))
    state = create_state({"params": params, "batch_stats": {}}, optax.sgd(1.0), ema=False)
    gradients = lambda *_: (grads, {}, {"count": jnp.float32(count)})  # noqa: E731
    after, sums = train_step(state, {}, gradients=gradients, tx=optax.sgd(1.0), seed=0, ema_decay=None)
    means = {name: grad / max(count, 1) for name, grad in grads.items()}
    expected = {name: params[name] - means[name] for name in params}
    chex.assert_trees_all_close(after.params, expected, rtol=1e-6, atol=1e-6)
    norms = {"grad_norm": means, "param_norm": expected}
    for name, tree in norms.items():
        norm = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in tree.values()))
        np.testing.assert_allclose(sums[name], norm * count, rtol=1e-6)
