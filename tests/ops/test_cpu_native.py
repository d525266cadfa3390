"""Native ops: empty arrays, infinities and lack of memory, and the warning where XLA cannot call them."""

import functools
import importlib.util
import logging
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from inception_jax import ops
from inception_jax.ops import cpu_native, implementation, platforms

EDGE = ((1, 1), (1, 1))
WIDE = ((2, 2), (2, 2))
EMPTY = {  # shape of the input, of the kernel, stride, padding
    "no images": ((0, 6, 5, 4), (3, 3, 4, 5), 2, EDGE),
    "no rows": ((2, 0, 5, 4), (3, 3, 4, 5), 2, EDGE),
    "no rows but padding": ((2, 0, 5, 4), (3, 3, 4, 5), 1, WIDE),
    "no columns but padding": ((2, 5, 0, 4), (3, 3, 4, 5), 2, WIDE),
    "no rows of output": ((2, 2, 8, 4), (3, 3, 4, 5), 2, ops.NO_PADDING),
    "a window larger than the input": ((2, 1, 1, 4), (5, 5, 4, 5), 2, ops.NO_PADDING),
    "no channels": ((2, 6, 5, 0), (3, 3, 0, 5), 1, EDGE),
    "no channels, 1x1": ((2, 6, 5, 0), (1, 1, 0, 5), 1, ops.NO_PADDING),
    "no features": ((2, 6, 5, 4), (3, 3, 4, 0), 2, EDGE),
}


@pytest.fixture
def kernels(kernels_built):
    """Traces with native ops."""
    with implementation.override("native"):
        yield


def _draw(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _reference(x, kernel, stride=1, padding=EDGE):
    return lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _both(fast, plain, *arrays):
    """Returns (value, *gradients) of two functions, whose cotangent is ones."""

    @jax.jit
    def run(*arrays):
        output = [jax.vjp(function, *arrays) for function in (fast, plain)]
        return [(value, *pullback(jnp.ones_like(value))) for value, pullback in output]

    return run(*arrays)


@pytest.mark.parametrize(("dtype", "native"), [("float32", True), ("bfloat16", False)])
@pytest.mark.parametrize(("shape", "kernel", "stride", "padding"), EMPTY.values(), ids=EMPTY)
def test_convolutions_of_empty_arrays_are_those_of_xla(shape, kernel, stride, padding, dtype, native, request):
    if native:
        request.getfixturevalue("kernels")
    arrays = (jnp.asarray(_draw(i, *each), dtype) for i, each in enumerate((shape, kernel)))
    fast = functools.partial(ops.conv, stride=stride, padding=padding)
    for one, other in zip(
        *_both(fast, functools.partial(_reference, stride=stride, padding=padding), *arrays), strict=True
    ):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        np.testing.assert_allclose(np.float32(one), np.float32(other), rtol=0, atol=1e-4)


def test_depthwise_convolutions_of_empty_arrays_are_those_of_xla():
    for x, kernel in (((0, 6, 5, 4), (3, 3, 1, 4)), ((2, 2, 5, 4), (3, 3, 1, 4))):
        fast = functools.partial(ops.conv, stride=2, padding=ops.NO_PADDING, groups=4)

        def plain(x, kernel):
            return lax.conv_general_dilated(
                x, kernel, (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=4
            )

        for one, other in zip(*_both(fast, plain, _draw(0, *x), _draw(1, *kernel)), strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("shape", [(0, 6, 5, 4), (2, 0, 5, 4), (2, 5, 0, 4), (2, 6, 5, 0), (2, 1, 1, 4)], ids=str)
@pytest.mark.parametrize("padding", [ops.NO_PADDING, WIDE], ids=["", "padding"])
def test_max_pools_of_empty_arrays_are_those_of_xla(shape, padding, kernels):
    def plain(x):
        return lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), ((0, 0), *padding, (0, 0)))

    for one, other in zip(*_both(lambda x: ops.max_pool(x, 3, 2, padding), plain, _draw(0, *shape)), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("shape", [(0, 6, 5, 4), (2, 0, 5, 4), (2, 5, 0, 4), (2, 6, 5, 0)], ids=str)
def test_sums_over_empty_arrays(shape, kernels):
    """The mean of no values is NaN, their sum 0."""
    channels = shape[3]
    for moment in cpu_native.moments(_draw(0, *shape), np.zeros(channels, np.float32), 2):
        np.testing.assert_array_equal(moment, np.full((2, channels), np.nan, np.float32) if channels else moment)
        assert moment.shape == (2, channels)
    gradient, sums = cpu_native.deferred_norm_gradient(
        _draw(0, *shape), _draw(1, *shape), _draw(2, 3, 2, channels), relu=True
    )
    assert gradient.shape == shape
    for each in sums:
        np.testing.assert_array_equal(each, np.zeros((2, channels), np.float32))


def test_groups_that_do_not_divide_the_images_are_refused(kernels):
    for groups in (0, 2):
        with pytest.raises(Exception, match=f"a batch of 3 images cannot be divided into {groups} equal groups"):
            jax.block_until_ready(
                cpu_native.deferred_norm_gradient(
                    _draw(0, 3, 2, 2, 4), _draw(1, 3, 2, 2, 4), _draw(2, 3, groups, 4), relu=True
                )
            )


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 3e38], ids=str)
def test_winograd_gives_the_infinities_of_xla(value, kernels):
    """Its tiles would make NaN of an infinity, and an infinity of 3e38. Other images keep every bit."""
    x, kernel = _draw(0, 4, 16, 16, 16), _draw(1, 3, 3, 16, 33)
    conv = functools.partial(ops.conv, stride=1, padding=EDGE)
    before = np.asarray(conv(x, kernel))
    x[1, 7, 4, 3] = value
    fast, plain = (np.asarray(each) for each in (conv(x, kernel), jax.jit(_reference)(x, kernel)))
    assert np.isnan(fast).sum() == np.isnan(plain).sum()
    np.testing.assert_array_equal(np.where(np.isfinite(fast), 0, fast), np.where(np.isfinite(plain), 0, plain))
    np.testing.assert_array_equal(fast[[0, 2, 3]], before[[0, 2, 3]])
    np.testing.assert_allclose(fast, plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("value", [np.inf, np.nan, 3e38], ids=str)
def test_the_kernel_gradient_gives_the_infinities_of_xla(value, kernels):
    x, kernel = _draw(0, 4, 16, 16, 16), _draw(1, 3, 3, 16, 33)
    x[1, 7, 4, 3] = value
    (_, _, fast), (_, _, plain) = _both(functools.partial(ops.conv, stride=1, padding=EDGE), _reference, x, kernel)
    np.testing.assert_allclose(fast, plain, rtol=1e-3, atol=1e-2)
    assert np.isfinite(fast[:, :, :3]).all(), "the other channels do not depend on it"


NO_MEMORY = """
import jax
import jax.numpy as jnp
import numpy as np

from inception_jax import ops
from inception_jax.ops import cpu_native, implementation

jax.config.update("jax_platforms", "cpu")
FAR = 1 << 44  # a stride, so that tasks ask for 3 PB, which no machine addresses, for an output of 2 x 2
x, kernel = jnp.ones((4, 8, 8, 16)), jnp.ones((3, 3, 16, 8))
with implementation.override("native"):
    small = jax.jit(lambda x, kernel: ops.conv(x, kernel, 1, ((1, 1), (1, 1)))).lower(x, kernel).compile()
    far = jax.jit(lambda x, kernel: ops.conv(x, kernel, FAR, ((0, FAR), (0, FAR)))).lower(x, kernel).compile()
    geometry = ops.geometry(FAR, ((0, FAR), (0, FAR)))
    grads = jnp.ones((4, 2, 2, 8))
    back = jax.jit(lambda x, grads: cpu_native.kernel_gradient(x, grads, shape=(3, 3, 16, 8), geometry=geometry))
    back = back.lower(x, grads).compile()
before = np.asarray(small(x, kernel))
for call, arrays in ((far, (x, kernel)), (back, (x, grads))) * 3:
    try:
        jax.block_until_ready(call(*arrays))
    except Exception as error:
        print(str(error).splitlines()[0])
print(np.array_equal(before, np.asarray(small(x, kernel))))
"""


def test_a_task_without_memory_is_an_exception_and_the_next_call_works(kernels_built):
    """Runs in a process of its own, since the failure would end it (std::terminate, segmentation fault)."""
    done = subprocess.run([sys.executable, "-c", NO_MEMORY], capture_output=True, text=True, timeout=120)
    *errors, same = done.stdout.splitlines() or [""]
    assert (done.returncode, len(errors), same) == (0, 6, "True"), done.stderr
    assert all("RESOURCE_EXHAUSTED: inception_jax: no memory" in error for error in errors), errors


@pytest.fixture
def fresh(monkeypatch):
    """Makes `cpu_native` ask again whether XLA accepts the native ops, in the test and after it."""

    def forget():
        for function in (cpu_native.missing, implementation._warn):
            function.cache_clear()

    forget()
    yield monkeypatch
    monkeypatch.undo()
    forget()


def _trace(platform=None):
    x, kernel = _draw(0, 1, 5, 5, 4), _draw(1, 3, 3, 4, 4)
    traced = jax.jit(lambda *arrays: ops.conv(*arrays, 1, EDGE)).trace(x, kernel)
    return traced.lower(lowering_platforms=(platform or "cpu",)).as_text()


def test_ops_that_xla_refuses_are_left_out_with_one_warning(kernels_built, fresh, caplog):
    def refuse(*_, **__):
        raise ValueError("API version (9.9) is incompatible\nand more")

    fresh.setattr(jax.ffi, "register_ffi_target", refuse)
    fresh.setattr(implementation, "_is_alone", lambda: True)
    with implementation.override(None):
        assert cpu_native.missing()
        assert "@inception_jax" not in _trace() + _trace()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    message = record.getMessage()
    assert "\n" not in message
    assert message.startswith(
        f"Convolutions are XLA's, which are slower on CPUs: jaxlib {jax.lib.__version__} refuses those"
    )
    assert "API version (9.9) is incompatible" in message
    assert f"compiled for jaxlib {cpu_native._native.jaxlib}," in message


def test_ops_that_were_not_built_give_one_warning_and_only_where_they_would_run(fresh, caplog):
    fresh.setattr(cpu_native, "_native", None)
    fresh.setattr(cpu_native, "_import_error", ModuleNotFoundError("_native"))
    with implementation.override("xla"):
        _trace()
    fresh.setattr(implementation, "_is_alone", lambda: True)
    with platforms._target(platforms._Target("tpu", "TPU v5 lite", 1)):
        assert not implementation.uses_native("auto")
    assert caplog.records == []
    with implementation.override(None):
        _trace(), _trace()
    with pytest.raises(
        ValueError, match="'native', but the native ops cannot be used: this package was installed with"
    ):
        implementation.uses_native("native")
    assert [record.getMessage() for record in caplog.records] == [
        "Convolutions are XLA's, which are slower on CPUs: this package was installed without a C++ compiler."
    ]


def test_ops_that_cannot_be_loaded_say_why(fresh):
    fresh.setattr(cpu_native, "_native", None)
    fresh.setattr(cpu_native, "_import_error", ImportError("undefined symbol: vexp"))
    assert cpu_native.missing() == "the compiled ones cannot be loaded (undefined symbol: vexp)"


def test_importing_registers_nothing_with_xla(fresh):
    """A handler that XLA refuses when its CPU backend starts keeps the backend, and so every model, from running."""
    calls = []
    fresh.setattr(jax.ffi, "register_ffi_target", lambda name, *_, **__: calls.append(name))
    spec = importlib.util.spec_from_file_location("native_again", cpu_native.__file__)
    again = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(again)
    assert calls == []
    assert (again.missing() == "") == bool(calls)
