"""Which kind a file is of, and safetensors. Files of frameworks themselves: tests/parity."""

import pickle
import sys
import zipfile

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from inception_jax.errors import UserError
from inception_jax.weights.readers import read_content, read_tensors
from tests.weights.small_files import BIAS, KERNEL, assert_equal, truncations

pytestmark = pytest.mark.usefixtures("in_process")


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("empty.pth", b"", "is empty"),
        ("notes.txt", b"hello there", r"of no known kind: it begins with b'hello th'.*Allowed: PyTorch \(.pth"),
        ("page.pth", b"<!DOCTYPE html>", "web page"),
        ("pointer.h5", b"version https://git-lfs.github.com/spec/v1", "Git LFS"),
        ("v3.ckpt", b"\x1f\x8b\x08\x00rest", "gzip archive"),
        ("v3.tar", b"name".ljust(257, b"\0") + b"ustar\0", "tar archive"),
        ("x.safetensors", b"\xff" * 64, "of safetensors, but its header has 18,446"),
        ("x.h5", b"\x89HDF\r\n\x1a\n and no more", "of Keras, but it cannot be read"),
        ("x.keras", b"no zip at all", "of Keras, but it cannot be read"),
        ("x.caffemodel", b"no protocol buffer", "of Caffe, but it cannot be read"),
        ("x.caffemodel", b"\x0a\x03net", "of Caffe, but it holds no tensors"),
    ],
)
def test_what_a_file_is_not(tmp_path, name, data, words):
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(UserError, match=words) as caught:
        read_tensors(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_folders_and_missing_files(tmp_path):
    with pytest.raises(UserError, match="is a folder"):
        read_tensors(tmp_path)
    with pytest.raises(UserError, match=r"none.pth: No such file"):
        read_tensors(str(tmp_path / "none.pth"))
    with pytest.raises(UserError, match="not from int 3"):
        read_tensors(3)


@pytest.mark.parametrize(
    ("member", "words"),
    [
        ("net/constants.pkl", "of TorchScript, but it cannot be read: Ran out of input"),
        ("a.npy", r"without weights; it holds \['a.npy', "),
    ],
)
def test_other_zip_archives(tmp_path, member, words):
    path = tmp_path / "x.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, b"")
        archive.writestr("net/data.pkl" if "constants" in member else "b.npy", b"")
    with pytest.raises(UserError, match=words):
        read_tensors(path)


def test_the_content_tells_the_kind_before_the_suffix(tmp_path):
    tensors = {"conv.weight": KERNEL}
    for name in ("x.pth", "x.h5", "x.ckpt", "x"):
        safetensors.numpy.save_file(tensors, tmp_path / name)
        assert_equal(read_tensors(tmp_path / name), tensors)


@pytest.mark.parametrize(("package", "extra"), [("torch", "torch"), ("tensorflow", "slim"), ("onnx", "onnx")])
def test_a_missing_package_is_named(tmp_path, monkeypatch, package, extra):
    monkeypatch.setitem(sys.modules, package, None)
    sources = {"torch": ["x"], "tensorflow": ["v1", "v2.ckpt", "v2.ckpt.index", "v2.ckpt.data-00000-of-00001"]}
    sources["onnx"] = ["x.onnx"]
    (tmp_path / "x.onnx").write_bytes(b"\x08\x08")
    (tmp_path / "x").write_bytes(pickle.dumps({}, protocol=2))
    end = bytes.fromhex("57fb808b247547db")
    for name in ("v1", "v2.ckpt.index"):
        (tmp_path / name).write_bytes(bytes(48) + end)
    (tmp_path / "v2.ckpt.data-00000-of-00001").write_bytes(bytes(9))
    for name in sources[package]:
        with pytest.raises(UserError, match=rf"{name} is read with .*'inception-jax\[{extra}\]'"):
            read_tensors(tmp_path / name)


# ---- safetensors ---------------------------------------------------------------------------------------------------


def test_safetensors(tmp_path):
    path = tmp_path / "x.safetensors"
    halves = np.array([1.5, -2.25, 3], np.float32)
    safetensors.numpy.save_file(
        {
            "module.a": KERNEL,
            "module.b": BIAS.astype(np.float64),
            "module.c": np.arange(3),
            "module.d": halves.astype(np.float16),
            "module.e": halves.astype(ml_dtypes.bfloat16),
        },
        path,
    )
    found = read_tensors(path)
    expected = {"a": KERNEL, "b": BIAS.astype(np.float64), "c": np.arange(3), "d": halves, "e": halves}
    assert_equal(dict(sorted(found.items())), {f"module.{name}": array for name, array in expected.items()})
    assert read_content(path).statement.notes == tuple(
        f"1 of its tensors are {kind}; here they are float32" for kind in ("float16", "bfloat16", "float64")
    )
    for data in truncations(path.read_bytes()):
        path.write_bytes(data)
        with pytest.raises(UserError, match="of safetensors, but it cannot be read"):
            read_tensors(path)


def test_what_is_no_number_is_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    safetensors.numpy.save_file({"mask": np.ones(3, bool)}, path)
    with pytest.raises(UserError, match="'mask' has the type bool"):
        read_tensors(path)
