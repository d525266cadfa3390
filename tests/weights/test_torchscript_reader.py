"""TorchScript archives, operation by operation; those that PyTorch writes are in tests/parity/test_graphs.py."""

import zipfile

import numpy as np
import pytest

from inception_jax.errors import UserError
from inception_jax.weights.readers import Limits, read_tensors
from tests.weights import torchscript as ts
from tests.weights.small_files import BIAS, KERNEL, assert_equal

pytestmark = pytest.mark.usefixtures("in_process")
HALF = BIAS.astype(np.float16)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "inception-2015-12-05.pt"


def test_modules_become_names(path):
    inner = ts.module("conv", weight=ts.tensor("0", KERNEL), training=b"\x89", beta=ts.tensor("1", HALF))
    outer = ts.module(
        "net", layers=ts.module("list", conv=inner), steps=ts.tensor("2", np.arange(3)), stride=ts.integer(2)
    )
    ts.archive(path, outer, {"0": KERNEL, "1": HALF, "2": np.arange(3)})
    assert_equal(read_tensors(path), {"layers.conv.weight": KERNEL, "layers.conv.beta": BIAS, "steps": np.arange(3)})


def test_views_of_a_storage(path):
    """Transposed, shifted, and of no elements."""
    views = {
        "turned": ts.tensor("0", KERNEL, (4, 2, 3, 3), (1, 4, 24, 8)),
        "shifted": ts.tensor("0", KERNEL, (2,), (1,), offset=70),
        "empty": ts.tensor("0", KERNEL, (0, 3), (3, 1)),
    }
    ts.archive(path, ts.module("net", **views), {"0": KERNEL})
    found = read_tensors(path)
    assert_equal(
        found,
        {
            "turned": KERNEL.transpose(3, 2, 0, 1),
            "shifted": KERNEL.reshape(-1)[70:72],
            "empty": np.zeros((0, 3), np.float32),
        },
    )


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (ts.known("os", "system") + b"(" + ts.text("touch {}") + b"tR", r"asks for os\.system; nothing in it was run"),
        (ts.known("builtins", "eval") + b"(" + ts.text("1") + b"tR", r"asks for builtins\.eval"),
        (ts.module("net", a=ts.tensor("0", KERNEL, (73,), (1,))), r"'a' claims the shape \(73,\)"),
        (ts.module("net", a=ts.tensor("0", KERNEL, (2,), (1,), offset=71)), "'a' reaches beyond its storage of 72"),
        (ts.module("net", a=ts.tensor("0", KERNEL, (9, 9), (0, 0))), "'a' claims the shape"),
        (ts.module("net", a=ts.tensor("0", KERNEL, (2,), (-1,))), "'a' has the shape"),
        (ts.module("net", a=ts.tensor("9", KERNEL)), "'a' claims the shape"),
        (ts.module("net", a=ts.integer(1)), "holds no tensors"),
    ],
)
def test_archives_that_are_wrong(path, made, words):
    ts.archive(path, made, {"0": KERNEL})
    with pytest.raises(UserError, match=words) as caught:
        read_tensors(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_storage_that_unpacks_to_too_much(path):
    large = np.zeros(1 << 20, np.float32)
    ts.archive(path, ts.module("net", a=ts.tensor("0", large)), {})
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as file:
        file.writestr("net/data/0", large.tobytes())
    with pytest.raises(UserError, match="too much"):
        read_tensors(path, Limits(bytes=1 << 20))


def test_modules_in_modules_for_ever(path):
    made = ts.integer(1)
    for _ in range(30):
        made = ts.module("net", a=made)
    ts.archive(path, made, {})
    with pytest.raises(UserError, match="nests over 16 groups"):
        read_tensors(path)
