"""The list of ops of every model has each convolution and pool that a trace of the model meets, and no other."""

import collections

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from inception_jax.bench import ops
from inception_jax.describe import summary
from inception_jax.models import layers, sizes, spec, zoo
from inception_jax.models.convolution import Convolution
from tests.selection import networks


def traced(name, size, aux):
    """Returns what the layers of a model are called with: (what, window, stride, map, features) and how often."""
    calls = collections.Counter()
    model = zoo.create_model(name, 10, aux=aux, dropout=0.0)
    model = model.clone(aux_heads={tap: head._replace(dropout=0.0) for tap, head in model.aux_heads.items()})

    def note(next_call, args, kwargs, context):
        module = context.module
        if isinstance(module, Convolution) and context.method_name == "__call__":
            maps, stride, *_ = args
            features = module.features * (maps.shape[-1] if module.depthwise else 1)
            calls["conv", module.kernel, stride, maps.shape[1:], features] += 1
        return next_call(*args, **kwargs)

    plain = layers.pool

    def pool(x, row, **settings):
        calls["pool", row.kind, row.window, row.stride, x.shape[1:]] += 1
        return plain(x, row, **settings)

    with pytest.MonkeyPatch.context() as patch, nn.intercept_methods(note):
        patch.setattr(layers, "pool", pool)
        images = jnp.zeros((2, size, size, 3))
        jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), images))
    return calls


def listed(name, size, aux):
    """Returns the same of `ops.distinct`; a separable convolution is two."""
    calls = collections.Counter()
    for op, count in ops.distinct(name, size, aux).items():
        row, maps = op.row, (op.size, op.size, op.channels)
        if isinstance(row, spec.Pool):
            calls["pool", row.kind, row.window, row.stride, maps] += count
        elif isinstance(row, spec.Conv):
            calls["conv", row.kernel, row.stride, maps, row.features] += count
        else:
            between = op.channels * row.multiplier
            after = sizes.out_size(row, op.size, zoo.model_card(name).numerics)
            calls["conv", row.kernel, row.stride, maps, between] += count
            calls["conv", (1, 1), 1, (after, after, between), row.features] += count
    return calls


@pytest.mark.parametrize("name", networks())
def test_every_shape_once(name):
    size = zoo.model_card(name).preprocess.size
    aux = name in ("googlenet", "inception_v3")
    assert listed(name, size, aux) == traced(name, size, aux)


@pytest.mark.parametrize("name", ["googlenet_torchvision", "inception_v4", "xception"])
def test_multiply_adds_are_those_of_the_summary(name):
    found = summary.summarize(name)
    linear = next(row.macs for row in found.rows if row.name == "linear")
    numerics = zoo.model_card(name).numerics
    assert sum(n * op.macs(numerics) for op, n in ops.distinct(name).items()) == found.totals["macs"] - linear
