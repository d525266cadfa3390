"""What files may cost: each reader asks before it reads, and none can take the process that uses it along."""

import gzip
import io
import json
import tarfile
import threading
import time
import zipfile

import h5py
import numpy as np
import psutil
import pytest
import safetensors.numpy

from inception_jax.errors import UserError
from inception_jax.weights.readers import Budget, Limits, Refused, archives, formats, process, read_dump, read_tensors
from tests.weights.small_files import BIAS, KERAS_2, KERAS_3, archive, assert_equal, write_named, write_numbered
from tests.weights.test_caffe_reader import blob, net_v2
from tests.weights.test_keras_readers import NAMED


def test_limits_grow_with_the_file():
    small, large = Limits.of(1000), Limits.of(4 << 30)
    assert small.bytes < 70 << 20 < large.bytes == Limits().bytes
    assert small.memory < large.memory == Limits().memory
    assert small.seconds < large.seconds


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda b: b.tensor("a", (1 << 40,), 4, 100), r"'a' claims the shape \(1099511627776,\), .* holds 100"),
        (lambda b: [b.tensor("a", (250,), 4, None) for _ in range(9)], "makes too much: 5,000 bytes, where at most 4,"),
        (lambda b: b.tensor("half", (1025,), 2, 2050), "'half' of shape .* makes too much: 4,100 bytes"),
        (lambda b: b.tensor("a", (1,) * 9, 4, 4), "'a' has 9 dimensions; 0 to 8 are read"),
        (lambda b: b.tensor("a", (-1, -1), 4, 4), "'a' has 2 dimensions"),
        (lambda b: b.tensor("a" * 1001, (), 4, 4), "a name has 1,001 characters"),
        (lambda b: [b.entry() for _ in range(11)], "it holds over 10 entries"),
        (lambda b: b.depth(17), "it nests over 16 groups"),
        (lambda b: b.text(9 << 20, "its config"), r"its config has 9,437,184 bytes; at most 8,388,608"),
    ],
)
def test_a_budget(ask, words):
    with pytest.raises(Refused, match=words):
        ask(Budget(Limits(bytes=4096, entries=10)))


def test_a_budget_of_time():
    budget = Budget(Limits(seconds=0))
    with pytest.raises(Refused, match="reading it takes over 0 seconds"):
        budget.entry()


# ---- Each format ---------------------------------------------------------------------------------------------------


def _many_names_of_one_dataset(file):
    file.attrs["layer_names"] = ["a", "b"]
    tensor = file.create_dataset("x", data=BIAS)
    for name in "ab":
        file.create_group(name).attrs["weight_names"] = ["kernel"]
        file[name]["kernel"] = tensor


def _groups_linked_twice(file):
    layers = file.create_group("layers")
    for _ in range(8):
        inner = layers.create_group("dense")
        layers["dense_1"] = inner
        layers = inner.create_group("layers")


def _deep_groups(file):
    file.create_group("layers/x/" * 20)


def _hardly_packed(file):
    """One chunk of a thousand is there: the rest is never stored."""
    file.attrs["layer_names"] = ["a"]
    file.create_group("a").attrs["weight_names"] = ["kernel"]
    tensor = file.create_dataset("a/kernel", (1 << 30,), "f4", chunks=(1 << 10,), compression="gzip")
    tensor[:1024] = 1


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize(
    ("write", "words"),
    [
        (_many_names_of_one_dataset, "occurs in it under several names"),
        (_groups_linked_twice, "occurs in it under several names"),
        (_deep_groups, "it nests over 16 groups"),
        (_hardly_packed, r"'/a/kernel' claims the shape \(1073741824,\)"),
    ],
)
def test_hdf5_that_claims_more_than_it_holds(tmp_path, write, words):
    path = tmp_path / "x.weights.h5"
    with h5py.File(path, "w") as file:
        write(file)
    with pytest.raises(UserError, match=words):
        read_tensors(path)


@pytest.mark.usefixtures("in_process")
def test_packed_tensors_are_read(tmp_path):
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        write_named(file, KERAS_2)
        del file["conv2d_1/conv2d_1/kernel:0"]
        file.create_dataset("conv2d_1/conv2d_1/kernel:0", data=np.zeros((64, 1024), np.float32), compression="gzip")
    assert_equal(read_tensors(path), NAMED | {"conv2d_1/kernel": np.zeros((64, 1024), np.float32)})


@pytest.mark.usefixtures("in_process")
def test_a_config_of_a_gigabyte(tmp_path):
    path = tmp_path / "x.keras"
    archive(path, {}, KERAS_3)
    with zipfile.ZipFile(path) as whole:
        weights = whole.read("model.weights.h5")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("config.json", b"[" + b"{}," * (3 << 20) + b"{}]")
        file.writestr("model.weights.h5", weights)
    with pytest.raises(UserError, match=r"its config.json has 9,437,188 bytes; at most 8,388,608 are read"):
        read_tensors(path)
    archive(path, [1], KERAS_3)
    with pytest.raises(UserError, match="its config is no JSON object"):
        read_tensors(path)


def test_a_header_of_safetensors(tmp_path):
    path = tmp_path / "x.safetensors"
    safetensors.numpy.save_file({"a": BIAS}, path, {"text": "x" * (9 << 20)})
    with pytest.raises(UserError, match=r"its header has 9,437,\d+ bytes; at most"):
        read_tensors(path)


@pytest.mark.usefixtures("in_process")
def test_caffe_within_its_budget(tmp_path):
    path = tmp_path / "x.caffemodel"
    path.write_bytes(net_v2(*[("fc", blob(BIAS))] * 1, *[(f"relu{i}",) for i in range(20)]))
    assert set(read_tensors(path)) == {"fc/0"}
    with pytest.raises(UserError, match="it holds over 10 entries"):
        read_tensors(path, Limits(entries=10))


def _header(name, size, kind=tarfile.REGTYPE):
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (_header("x", 2 << 20, tarfile.XHDTYPE), "a header in it claims 2,097,152 bytes"),
        (_header("x", 2 << 20, tarfile.GNUTYPE_LONGNAME), "a header in it claims 2,097,152 bytes"),
        (_header("other", 6 << 30), "it unpacks to over 4,194,304 bytes"),
        (_header("x.ckpt", 6 << 30), "'x.ckpt' claims too much: 6,442,450,944 bytes"),
        (_header("x.ckpt", 0, tarfile.FIFOTYPE), "'x.ckpt' in it is no regular file"),
        (_header("x", 0) * 30, "it holds over 20 entries"),
    ],
)
def test_headers_of_a_tar_archive(tmp_path, header, words):
    path = tmp_path / "x.tar.gz"
    path.write_bytes(gzip.compress(header + bytes(8 << 20)))
    with pytest.raises(UserError, match=f"x.tar.gz is not unpacked: {words}"):
        archives.unpack_checkpoint(path, tmp_path, Limits(bytes=4 << 20, entries=20))


def test_compression_within_compression_is_not_unpacked(tmp_path):
    import bz2

    path, buffer = tmp_path / "x.tar.gz", io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("x.ckpt"))
    path.write_bytes(bz2.compress(buffer.getvalue()))
    with pytest.raises(UserError, match="cannot be unpacked"):
        archives.unpack_checkpoint(path, tmp_path)
    path.write_bytes(buffer.getvalue())
    assert archives.unpack_checkpoint(path, tmp_path).name == "x.ckpt"


@pytest.mark.usefixtures("in_process")
def test_dumps(tmp_path):
    path = tmp_path / "x.npz"
    arrays = {"a": np.arange(6.0).reshape(2, 3), "b": np.asfortranarray(BIAS.reshape(2, 2)), "c": np.float32(3)}
    np.savez_compressed(path, **arrays)
    assert_equal(read_dump(path), {name: np.asarray(array) for name, array in arrays.items()})
    np.savez(path, a=np.array([{}], object))
    with pytest.raises(UserError, match=r"is no .npz file of plain arrays: 'a' is an array of object"):
        read_dump(path)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (1 << 50,)})
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a.npy", header.getvalue())
    with pytest.raises(UserError, match=r"'a' claims the shape \(1125899906842624,\), .* the file holds 128"):
        read_dump(path)


# ---- A process of its own ------------------------------------------------------------------------------------------


@pytest.fixture
def keras_file(tmp_path):
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        write_named(file, KERAS_2)
    return path


def test_reading_apart_in_a_thread(keras_file, monkeypatch, tmp_path):
    """It runs nothing of the script that calls it, and no module that lies in the current folder."""
    (tmp_path / "h5py.py").write_text("raise SystemExit('run')")
    monkeypatch.chdir(tmp_path)
    found = []
    thread = threading.Thread(target=lambda: found.append(read_tensors(keras_file)))
    thread.start()
    thread.join()
    assert_equal(found[0], NAMED)


@pytest.mark.parametrize(
    ("body", "limits", "words"),
    [
        ("while True: pass", Limits(seconds=1), "reading it takes over 1 seconds"),
        ("bytearray(1 << 30)", Limits(memory=64 << 20), "it cannot be read: MemoryError"),
        ("import os; os.kill(os.getpid(), 11)", Limits(), r"ended with signal 11 \(Segmentation fault\)"),
        ("import os; os._exit(7)", Limits(), "ended with exit code 7"),
        ("f = lambda: f(); f()", Limits(), "it cannot be read: maximum recursion depth exceeded"),
        ("raise UnicodeDecodeError('utf-8', b'x', 0, 1, 'two\\nlines')", Limits(), "it cannot be read: 'utf-8' codec"),
        ("print('noise', flush=True)", Limits(), "it holds no tensors"),
    ],
)
def test_a_library_that_hangs_crashes_or_takes_too_much(tmp_path, monkeypatch, body, limits, words):
    """The library is one of ours here, which does to the process that reads what others do."""
    child = tmp_path / "child.py"
    child.write_text(
        "import os, threading, types\n"
        "watchdog = threading.Timer(60, os._exit, [99])\n"  # without an alarm this test fails and does not hang
        "watchdog.daemon = True\n"
        "watchdog.start()\n"
        "from inception_jax.weights.readers import child\n"
        f"def read(path, budget):\n    {body}\n    yield from ()\n"
        "child.importlib = types.SimpleNamespace(import_module=lambda name: types.SimpleNamespace(read=read))\n"
        "child.main()\n"
    )
    monkeypatch.setattr(process, "CHILD", "child")
    monkeypatch.syspath_prepend(str(tmp_path))
    path = tmp_path / "x.h5"
    path.write_bytes(b"\x89HDF\r\n\x1a\n")
    start = time.monotonic()
    with pytest.raises(UserError, match=words) as caught:
        read_tensors(path, limits)
    assert "\n" not in str(caught.value)
    assert time.monotonic() - start < 60


def test_a_reader_that_is_left_is_ended(keras_file):
    others = set(psutil.Process().children())
    items = process.read_apart(formats.KERAS, keras_file, Limits())
    assert next(items) == "Keras"
    (reader,) = set(psutil.Process().children()) - others
    items.close()
    assert not reader.is_running()


def test_limits_travel_as_json():
    assert Limits(*json.loads(json.dumps(Limits(bytes=1)))) == Limits(bytes=1)


@pytest.mark.usefixtures("in_process")
def test_numbered_layers_that_are_tensors(tmp_path):
    path = tmp_path / "x.weights.h5"
    with h5py.File(path, "w") as file:
        write_numbered(file, {})
        file["layers/dense"] = BIAS
    with pytest.raises(UserError, match="'/layers/dense' is no layer"):
        read_tensors(path)
