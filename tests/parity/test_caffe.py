"""OpenCV reads the .caffemodel files that our declaration of the format writes, and computes what ours does."""

import jax
import numpy as np
import pytest

from inception_jax import weights
from inception_jax.models import zoo
from inception_jax.weights.readers import read_tensors
from tests.parity import fixtures
from tests.parity.caffe_net import CaffeNet

pytestmark = pytest.mark.parity

SIZE = 224


@pytest.fixture(scope="module")
def googlenet():
    """Returns BVLC's GoogLeNet and its variables."""
    model = zoo.create_model("googlenet", aux=False)
    return model, fixtures.fill(fixtures.shapes(model, SIZE), np.float32)


@pytest.mark.parametrize("version", [1, 2])
def test_googlenet(record, tmp_path, googlenet, version):
    import cv2

    model, variables = googlenet
    net = CaffeNet(model.table, variables["params"], SIZE)
    text, path = tmp_path / "deploy.prototxt", tmp_path / "bvlc_googlenet.caffemodel"
    text.write_text(net.text)
    path.write_bytes(net.caffemodel(version))
    theirs = cv2.dnn.readNetFromCaffe(str(text), str(path))
    images = np.random.default_rng(0).standard_normal((1, SIZE, SIZE, 3)).astype(np.float32)
    theirs.setInput(images[..., ::-1].transpose(0, 3, 1, 2))  # blue first
    expected = theirs.forward("loss3/classifier")
    loaded = weights.load(path, "googlenet", unverified=True)
    ours = loaded.create_model()
    found = jax.jit(ours.apply)(loaded.variables, images).logits
    record("googlenet", "eval", f"1x224x224, V{version}")("opencv: Caffe", found, expected, 1e-4)

    shapes = {array.ndim for array in read_tensors(path).values()}
    assert shapes == ({4} if version == 1 else {1, 2, 4})
    back = weights.export(loaded, "caffe")
    assert len(back) == 2 * 58
    for name, arrays in net.blobs.items():
        for i, array in enumerate(arrays):
            np.testing.assert_array_equal(back[f"{name}/{i}"], array)
