"""Weights for RGB images on images of other channels, against timm: its own rule, applied by its own loader."""

import jax
import numpy as np
import pytest

from inception_jax import weights
from inception_jax.weights.convert import convert
from tests.parity import originals
from tests.selection import cases
from tests.weights import synthetic

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")]


XCEPTION, V3 = ("xception_timm", "legacy_xception"), ("inception_v3", "inception_v3")
CASES = [(*names, channels) for names in (XCEPTION, V3) for channels in (1, 2, 4, 6)]


@pytest.mark.parametrize(("name", "original", "channels"), cases(CASES, fast=[(*XCEPTION, 1), (*XCEPTION, 4)]))
def test_timm(torch, record, tmp_path, name, original, channels):
    """Its loader reads the file of a network for RGB images; so does ours. A file that it writes is read, too."""
    import timm

    rgb = originals.torch_original(torch, f"timm:{original}", 20)
    torch.save(rgb.state_dict(), tmp_path / "rgb.pth")
    theirs = timm.create_model(
        original,
        pretrained=True,
        num_classes=20,
        in_chans=channels,
        pretrained_cfg_overlay={"file": str(tmp_path / "rgb.pth"), "num_classes": 20, "hf_hub_id": None},
    ).eval()
    images = np.random.default_rng(0).standard_normal((2, 128, 128, channels)).astype(np.float32)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    torch.save(theirs.state_dict(), tmp_path / "adapted.pth")
    adapted = weights.load(tmp_path / "rgb.pth", name, origin="timm", unverified=True, in_channels=channels)
    written = weights.load(tmp_path / "adapted.pth", name, origin="timm", unverified=True)
    assert adapted.info.preprocess == written.info.preprocess
    for what, loaded in (("adapted", adapted), ("as timm writes it", written)):
        found = jax.jit(loaded.create_model().apply)(loaded.variables, images).logits
        record(name, "eval", f"2x128x128x{channels} f32")(f"timm, {what}", found, expected, 1e-5)
    kernel = next(
        path for path in adapted.flat() if path.endswith(("Conv2d_1a_3x3/conv/kernel", "block1_conv1/conv/kernel"))
    )
    np.testing.assert_allclose(adapted.flat()[kernel], written.flat()[kernel], rtol=0, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 4, 6])
@pytest.mark.parametrize(("origin", "name", "kernel"), [("caffe", "googlenet", "conv1/7x7_s2/0")])
def test_bgr(torch, origin, name, kernel, channels):
    """The rule of timm's function, for a kernel that was flipped to RGB before."""
    from timm.models import adapt_input_conv

    its = synthetic.lineage(origin, name)
    tensors = synthetic.tensors(its, 5, aux=False)
    rgb = torch.from_numpy(tensors[kernel][:, ::-1].copy())
    expected = adapt_input_conv(channels, rgb).numpy().transpose(2, 3, 1, 0)
    found = weights.adapt(convert(tensors, its), in_channels=channels).flat()["params/conv1/conv/kernel"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * np.abs(expected).max())
