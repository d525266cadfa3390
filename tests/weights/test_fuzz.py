"""Mutated files of every format: read or refused in one line, whatever the library does. Minutes: `make test-slow`."""

import gzip
import json
import pathlib
import subprocess
import sys
import tarfile

import h5py
import numpy as np
import pytest
import safetensors.numpy

from tests.weights import graph_def, torchscript
from tests.weights.small_files import BIAS, KERAS_2, KERAS_3, KERNEL, archive, write_named, write_numbered
from tests.weights.test_caffe_reader import blob, net_v2

COUNT = 500
ROOT = pathlib.Path(__file__).parents[2]


def fuzz(path, kind, count=COUNT):
    """Returns {outcome: count} of mutations of a file, and prints it."""
    command = [sys.executable, "-m", "tests.weights.fuzz", str(path), str(count), kind]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=3600)
    assert done.returncode == 0, done.stderr[-2000:]
    counts = json.loads(done.stdout.splitlines()[-1])
    print(f"{path.name}: {counts}")
    assert sum(counts.values()) == count
    return counts


def check(counts):
    assert not [outcome for outcome in counts if outcome.startswith("raised")]
    assert counts["refused"] > 0
    # libhdf5 hangs or crashes on some: their process is ended, which test_budget.py tests.
    assert sum(number for outcome, number in counts.items() if outcome not in ("read", "refused")) < COUNT / 20


def _keras_2(path):
    with h5py.File(path, "w") as file:
        write_named(file, KERAS_2)
        file.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": {"layers": []}})


def _keras_3(path):
    with h5py.File(path, "w") as file:
        write_numbered(file, KERAS_3)


def _keras_archive(path):
    archive(path, {"config": {"layers": []}}, KERAS_3)


def _tar(path):
    source = path.with_name("x.ckpt")
    source.write_bytes(bytes(2000))
    with tarfile.open(path, "w") as tar:
        for name in ("a/" + "long" * 40 + "/readme", "inception_v3.ckpt"):
            tar.add(source, name)


def _tar_gz(path):
    _tar(path)
    path.write_bytes(gzip.compress(path.read_bytes()))


def _caffe(path):
    path.write_bytes(net_v2(("conv1", blob(KERNEL), blob(BIAS)), ("fc", blob(KERNEL[0, 0]))))


def _graph(path):
    path.write_bytes(graph_def.convolution("conv", KERNEL, *4 * [BIAS]) + graph_def.constant("softmax/biases", BIAS))


def _torchscript(path):
    inner = torchscript.module("conv", weight=torchscript.tensor("0", KERNEL), bias=torchscript.tensor("1", BIAS))
    torchscript.archive(path, torchscript.module("net", conv=inner), {"0": KERNEL, "1": BIAS})


def _safetensors(path):
    safetensors.numpy.save_file({"conv1.weight": KERNEL, "conv1.bias": BIAS.astype(np.float16)}, path)


def _npz(path):
    np.savez_compressed(path, images=KERNEL, logits=BIAS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kind", "write"),
    [
        ("x.h5", "", _keras_2),
        ("x.weights.h5", "", _keras_3),
        ("x.keras", "", _keras_archive),
        ("x.safetensors", "", _safetensors),
        ("x.caffemodel", "", _caffe),
        ("x.pb", "", _graph),
        ("x.pt", "", _torchscript),
        ("x.npz", "npz", _npz),
        ("x.tar.gz", "tar", _tar),
        ("packed.tar.gz", "tar", _tar_gz),
    ],
)
def test_mutations_are_read_or_refused_in_one_line(tmp_path, name, kind, write):
    write(tmp_path / name)
    check(fuzz(tmp_path / name, kind))
