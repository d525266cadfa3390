"""Repositories that timm writes, loaded from a hub: their weights, their preprocessing, their classes."""

import jax
import numpy as np
import pytest
from PIL import Image

import inception_jax as ij
from inception_jax.data.transforms import eval_transform
from inception_jax.models.inputs import normalise
from tests.parity.originals import torch_original
from tests.selection import cases
from tests.weights.hub.servers import asked_hub

pytestmark = pytest.mark.parity

SIZE = 139  # pixels, of the images that the networks compute on
STATED = {
    "inception_v3": {},
    "legacy_xception": {"crop_pct": 0.8975},
    "inception_v4": {
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "crop_mode": "squash",
        "crop_pct": 1.0,
    },
}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    monkeypatch.setenv("INCEPTION_JAX_WEIGHTS", str(tmp_path / "weights"))
    with asked_hub(monkeypatch, tmp_path) as hub:
        yield hub


@pytest.mark.parametrize("name", cases(STATED, fast=["inception_v3"]))
def test_a_repository_of_timm(torch, record, hub, tmp_path, name):
    import timm
    from timm.models import save_for_hf

    net = torch_original(torch, f"timm:{name}", 7)
    folder = tmp_path / "written"
    labels = {"label_names": [f"n{i}" for i in range(7)], "label_descriptions": {"n3": "cat"}}
    save_for_hf(net, folder, model_config=labels, data_config=STATED[name], safe_serialization=True)
    hub.add("timm/net", {path.name: path.read_bytes() for path in folder.iterdir()}, license="mit")

    loaded = ij.load("hf-hub:timm/net")
    assert (loaded.info.num_classes, loaded.info.class_names[2:4]) == (7, ("n2", "cat"))
    images = np.random.default_rng(0).standard_normal((1, SIZE, SIZE, 3), dtype=np.float32)
    with torch.no_grad():
        theirs = net(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    ours = jax.jit(loaded.model.apply)(loaded.variables, images).logits
    record(name, "hub", "noise")("logits", ours, theirs, 1e-5)

    photograph = Image.fromarray(np.random.default_rng(1).integers(0, 256, (400, 500, 3), np.uint8)).resize((900, 700))
    cfg = {**net.pretrained_cfg, **STATED[name]}
    transform = timm.data.create_transform(**timm.data.resolve_data_config({}, pretrained_cfg=cfg), is_training=False)
    theirs = transform(photograph).numpy().transpose(1, 2, 0)
    pixels = np.asarray(eval_transform(loaded.info.preprocess)(photograph))
    record(name, "hub", "photograph")("input", normalise(pixels[None], loaded.info.preprocess)[0], theirs, 0.02)
