"""Exported networks: one file, which a fresh process runs without this package; what it refuses."""

import dataclasses
import json
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from inception_jax import weights
from inception_jax.errors import UserError
from inception_jax.inference.export_stablehlo import export_stablehlo, load_exported
from inception_jax.inference.predictor import Predictor
from tests.weights.test_files import tiny

NAMES = tuple(f"class {i}" for i in range(10))


def tiny_to_export():
    """Weights of a narrow network with class names that reads 16 pixels."""
    made = weights.adapt(tiny(), image_size=16, aux=False)
    return dataclasses.replace(made, info=dataclasses.replace(made.info, class_names=NAMES))


@pytest.fixture(scope="module")
def source():
    return tiny_to_export()


@pytest.fixture(scope="module")
def path(source, tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "network.zip"
    export_stablehlo(path, source)
    return path


# Batch 3 as docs/EXPORT.md says it without this package, the others through it.
FRESH = """
import sys, zipfile
import jax, numpy as np
from jax import export

path, images, outputs = sys.argv[1:]
images = np.load(images)
program = export.deserialize(bytearray(zipfile.ZipFile(path).read("program.bin")))
assert program.platforms == ("cpu", "cuda", "tpu"), program.platforms
found = {3: jax.jit(program.call)(images[:3])}
assert not any(name.startswith(("inception_jax", "flax")) for name in sys.modules)

from inception_jax.inference.export_stablehlo import load_exported
network = load_exported(path)
found |= {count: network(images[:count]) for count in (1, 8)}
np.savez(outputs, **{f"{name} {count}": array for count, out in found.items() for name, array in out.items()})
"""


def test_a_fresh_process_gives_what_the_predictor_gives(source, path, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), np.uint8)
    np.save(tmp_path / "images.npy", images)
    command = [sys.executable, "-c", FRESH, str(path), str(tmp_path / "images.npy"), str(tmp_path / "found.npz")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "found.npz")
    predictor = Predictor(source, max_batch=8)
    expected = predictor.logits(images)  # an image of 16 pixels is cut as it is
    chosen = predictor(images, k=10)
    for count in (1, 3, 8):
        logits, probabilities = (found[f"{name} {count}"] for name in ("logits", "probabilities"))
        np.testing.assert_allclose(logits, expected[:count], rtol=0, atol=1e-5 * np.abs(expected).max())
        for row, prediction in zip(probabilities, chosen, strict=False):
            np.testing.assert_allclose(
                [row[c.index] for c in prediction.classes], [c.probability for c in prediction.classes], atol=1e-5
            )


def test_what_travels_along(source, path, tmp_path):
    network = load_exported(path)
    assert network.info == source.info
    assert network.platforms == ("cpu", "cuda", "tpu")
    with zipfile.ZipFile(path) as archive:
        info = json.loads(archive.read("info.json"))
    assert info["class_names"] == list(NAMES)
    assert info["preprocess"]["mean"] == list(source.info.preprocess.mean)
    parameters = sum(leaf.nbytes for leaf in source.flat().values())
    assert parameters < path.stat().st_size < parameters * 1.2  # once, not once for each platform


@pytest.mark.parametrize(
    ("images", "given"),
    [
        (np.zeros((2, 16, 16, 3), np.float32), r"float32\[2, 16, 16, 3\]"),
        (np.zeros((2, 8, 16, 3), np.uint8), r"uint8\[2, 8, 16, 3\]"),
        (np.zeros((16, 16, 3), np.uint8), r"uint8\[16, 16, 3\]"),
        (np.zeros((0, 16, 16, 3), np.uint8), r"uint8\[0, 16, 16, 3\]"),
    ],
)
def test_pixels_it_was_not_exported_for(path, images, given):
    with pytest.raises(UserError, match=rf"exported for pixels uint8\[N, 16, 16, 3\], not {given}\."):
        load_exported(path)(images)


def test_a_damaged_file_is_refused(path, source, tmp_path):
    whole, damaged = path.read_bytes(), tmp_path / "damaged.zip"
    for keep in (0, 100, len(whole) // 2, len(whole) - 1):
        damaged.write_bytes(whole[:keep])
        with pytest.raises(UserError, match=r"damaged.zip is no exported network, or damaged: "):
            load_exported(damaged)
    for place in np.linspace(200, len(whole) - 300, 20, dtype=int):  # within the members
        damaged.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(UserError, match="Bad CRC-32"):
            load_exported(damaged)


def _archive(path, **members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name.replace("_", "."), content)


def test_files_of_others_are_refused(path, tmp_path):
    other = tmp_path / "other.zip"
    with pytest.raises(UserError, match=r"other.zip: No such file"):
        load_exported(other)
    weights.save(tmp_path / "ours.safetensors", tiny())
    with pytest.raises(UserError, match="no exported network, or damaged: File is not a zip file"):
        load_exported(tmp_path / "ours.safetensors")
    with zipfile.ZipFile(path) as archive:
        info, program = json.loads(archive.read("info.json")), archive.read("program.bin")
    for members, message in (
        ({"words_txt": "abc"}, "it lacks info.json or program.bin of this package"),
        ({"info_json": json.dumps(info)}, "it lacks info.json or program.bin"),
        ({"info_json": "[]", "program_bin": program}, "it lacks info.json or program.bin"),
        (
            {"info_json": json.dumps(info | {"format_version": 2}), "program_bin": program},
            "has format .* 2; this version",
        ),
        ({"info_json": json.dumps(info | {"preprocess": {}}), "program_bin": program}, "cannot be read by JAX"),
        ({"info_json": json.dumps(info), "program_bin": b"abc"}, r"cannot be read by JAX .*\. Export it again\."),
    ):
        _archive(other, **members)
        with pytest.raises(UserError, match=message):
            load_exported(other)


def test_a_network_without_classifier(source, tmp_path):
    with pytest.raises(UserError, match="a test has no classifier to export"):
        export_stablehlo(tmp_path / "network.zip", weights.adapt(source, num_classes=0))


def test_the_command(run, source, tmp_path):
    ours, new = tmp_path / "ours.safetensors", tmp_path / "network.zip"
    weights.save(ours, source)
    new.write_bytes(b"before")
    command = ("export", "--weights", str(ours), "--format", "stablehlo", "-o", str(new))
    code, _, err = run(*command)
    assert (code, err) == (2, f"inception-jax: {new} exists; --overwrite replaces it (overwrite=True in Python).\n")
    assert new.read_bytes() == b"before"
    code, out, _ = run(*command, "--overwrite")
    assert code == 0
    assert out.startswith(f"wrote {new}: googlenet_cifar, 10 classes, 0.")
    assert load_exported(new).info == source.info


def test_mistakes_are_one_line(run, source, tmp_path, monkeypatch):
    new = tmp_path / "network.onnx"
    for arguments in ((), ("--weights", "a", "--workdir", "b")):
        code, _, err = run("export", "--format", "onnx", "-o", str(new), *arguments)
        assert (code, err) == (2, "inception-jax: Name a network: either --weights or --workdir.\n")
    ours = tmp_path / "ours.safetensors"
    weights.save(ours, source)
    monkeypatch.setitem(sys.modules, "onnx", None)
    code, _, err = run("export", "--weights", str(ours), "--format", "onnx", "-o", str(new))
    assert code == 2
    assert err.startswith("inception-jax: Writing ONNX needs the package onnx (pip install 'inception-jax[onnx]'): ")
    assert not new.exists()
