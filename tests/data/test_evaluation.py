"""Evaluation counts every image once, on any number of devices: 1,003 images in batches of 128."""

import functools

import jax
import numpy as np
import pytest

from inception_jax.data import loader, transforms
from inception_jax.models.zoo import create_model, model_card
from inception_jax.parallel import mesh as meshes
from inception_jax.training import metrics, step
from tests.data.images import noise_source

IMAGES = 1003


@pytest.fixture(scope="module")
def network(short_network):
    model = create_model("short", num_classes=10, aux=False)
    return model, jax.jit(model.init)(jax.random.key(0), np.zeros((1, 16, 16, 3), np.float32))


def evaluate(network, devices: int, batch_size: int) -> dict[str, float]:
    model, variables = network
    mesh = jax.make_mesh((devices, 1), meshes.AXES, (jax.sharding.AxisType.Auto,) * 2, devices=jax.devices()[:devices])
    sharding, replicated = meshes.batch_sharding(mesh), meshes.replicated(mesh)
    eval_step = jax.jit(
        functools.partial(step.eval_step, model=model, preprocess=model_card("short").preprocess),
        in_shardings=(replicated, sharding),
        out_shardings=replicated,
    )
    source = noise_source(IMAGES, size=16, classes=10)
    batches = loader.eval_batches(source, transforms.Evaluate(16, 16), batch_size, loader.LoaderOptions())
    sums = [jax.device_get(eval_step(variables, meshes.shard_batch(batch, sharding))) for batch in batches]
    return metrics.means(sums)


@pytest.fixture(scope="module")
def without_padding(network):
    return evaluate(network, devices=1, batch_size=IMAGES // 17)  # 1003 = 17 x 59


@pytest.mark.parametrize("devices", [1, 2, 8])
def test_padded_batches_on_any_number_of_devices_give_the_metrics_of_the_images_alone(
    network, without_padding, devices
):
    padded = evaluate(network, devices, batch_size=128)
    assert padded["count"] == IMAGES
    assert padded["top1"] == without_padding["top1"]
    assert padded["top5"] == without_padding["top5"]
    assert 0 < padded["top1"] < padded["top5"] < 1
    np.testing.assert_allclose(padded["loss"], without_padding["loss"], rtol=1e-6)
