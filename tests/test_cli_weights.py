"""`inception-jax convert`, as its user runs it."""

import os

import jax
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from inception_jax import weights
from tests.weights import synthetic
from tests.weights.test_files import tiny


@pytest.fixture
def ours(tmp_path):
    path = tmp_path / "ours.safetensors"
    weights.save(path, tiny())
    return path


def test_another_number_of_classes(run, ours, tmp_path):
    new = tmp_path / "new.safetensors"
    code, out, _ = run("convert", str(ours), str(new), "--num-classes", "3", "--no-aux")
    assert code == 0
    assert "re-initialised 2: params/classifier/linear/bias, params/classifier/linear/kernel" in out
    assert "dropped 18: " in out
    assert f"wrote {new}: googlenet_cifar, 3 classes" in out
    loaded = weights.load(new)
    assert (loaded.info.num_classes, loaded.info.aux) == (3, False)


def test_there_and_back(run, tmp_path):
    """From torchvision's names to ours, and to torchvision's again: the same tensors."""
    its = synthetic.lineage("torchvision", "googlenet_torchvision")
    tensors = synthetic.tensors(its, 3, aux=False)
    theirs, ours, back = (tmp_path / f"{name}.safetensors" for name in ("theirs", "ours", "back"))
    theirs.write_bytes(safetensors.numpy.save(tensors, {"format": "pt"}))
    code, out, _ = run("convert", str(theirs), str(ours), "--from", "torchvision", "--unverified")
    assert code == 0
    assert "unverified: no published file" in out
    assert run("convert", str(ours), str(back), "--to", "torchvision")[0] == 0
    found = safetensors.numpy.load_file(back)
    assert found.keys() - tensors.keys() == {name for name in found if name.endswith("num_batches_tracked")}
    assert all(np.array_equal(found[name], tensor) for name, tensor in tensors.items())


def test_nothing_is_overwritten_by_accident(run, ours):
    before = ours.read_bytes()
    code, _, err = run("convert", str(ours), str(ours), "--num-classes", "3")
    assert (code, err) == (2, f"inception-jax: {ours} exists; --overwrite replaces it (overwrite=True in Python).\n")
    assert ours.read_bytes() == before
    assert run("convert", str(ours), str(ours), "--num-classes", "3", "--overwrite")[0] == 0
    assert weights.load(ours).info.num_classes == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--model", "inception_v3"), "{ours} is of googlenet_cifar, not of inception_v3."),
        (
            ("--to", "tim"),
            "--to is 'tim'; it must be one of torchvision, timm, cadene, pytorch_fid, tf_2015, stylegan2_ada, "
            "facenet_pytorch, caffe, slim, facenet, keras, keras1.",
        ),
        (("--average",), "--average and --no-average are for runs; {ours} is none."),
        (("--to", "timm"), "timm has no googlenet_cifar; its weights can be exported to: none."),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(run, ours, tmp_path, arguments, message):
    new = tmp_path / "new.safetensors"
    code, _, err = run("convert", str(ours), str(new), *arguments)
    assert (code, err) == (2, f"inception-jax: {message.format(ours=ours)}\n")
    assert not new.exists()


@pytest.mark.parametrize(
    ("destination", "message"), [("new.bin", "must end in .safetensors."), ("nowhere/new.safetensors", "is no folder.")]
)
def test_a_bad_destination_is_refused_before_the_work(run, ours, tmp_path, destination, message):
    code, out, err = run("convert", str(ours), str(tmp_path / destination))
    assert (code, out) == (2, "")
    assert err.endswith(f"{message}\n")


@pytest.mark.usefixtures("short_network")
def test_comparing(run, tmp_path):
    ours = tmp_path / "short.safetensors"
    weights.save(ours, tiny("short"))
    model = tiny("short").create_model(aux=False)
    images = np.random.default_rng(0).standard_normal((2, 16, 16, 3)).astype(np.float32)
    output = jax.jit(model.apply)(tiny("short").variables, images)
    dump, new = tmp_path / "dump.npz", tmp_path / "new.safetensors"
    np.savez(dump, images=images, conv1=output.endpoints["conv1"], **{"5b": output.endpoints["5b"] * 2})
    code, out, err = run("convert", str(ours), str(new), "--compare", str(dump))
    assert (code, err) == (2, "inception-jax: 1 of 2 endpoints diverge, the first is 5b.\n")
    rows = [line.split() for line in out.splitlines() if line.split()[-1:] in (["diverges"], ["agrees"])]
    assert [(row[0], row[-1]) for row in rows] == [("5b", "diverges"), ("conv1", "agrees")]
    assert not new.exists()
    np.savez(dump, images=images, conv1=output.endpoints["conv1"])
    assert run("convert", str(ours), str(new), "--compare", str(dump))[0] == 0
    assert new.exists()


def test_what_the_input_and_the_classes_are(run, tmp_path):
    its = synthetic.lineage("torchvision", "googlenet_torchvision")
    theirs, ours, classes = tmp_path / "theirs.safetensors", tmp_path / "ours.safetensors", tmp_path / "classes.txt"
    theirs.write_bytes(safetensors.numpy.save(synthetic.tensors(its, 3, aux=False), {"format": "pt"}))
    classes.write_bytes("\ufeffcat\r\ndog\r\nhorse\r\n".encode())
    arguments = ("convert", str(theirs), str(ours), "--unverified", "--from", "torchvision", "--classes", str(classes))
    assert run(*arguments, "--preprocess", "imagenet;size=160")[0] == 0
    info = weights.load(ours).info
    assert info.class_names == ("cat", "dog", "horse")
    assert (info.preprocess.size, info.preprocess.mean) == (160, (123.675, 116.28, 103.53))
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff")
    for options, message in (
        (("--preprocess", "imagnet"), "The preprocessing states 'imagnet'; allowed: inception, imagenet, caffe, or"),
        (("--classes", str(binary)), f"{binary} is no text in UTF-8: byte 0 is 0xff."),
    ):
        code, _, err = run(*arguments[:-2], *options, "--overwrite")
        assert (code, err.count("\n")) == (2, 1)
        assert message in err
    code, _, err = run("convert", str(ours), str(tmp_path / "x.safetensors"), "--preprocess", "caffe")
    assert (code, err.count("\n")) == (2, 1)
    assert "this source states its own" in err


@pytest.mark.parametrize("command", [("convert", "{}", "new.safetensors"), ("predict", "x.png", "--weights", "{}")])
@pytest.mark.parametrize(
    ("name", "message"),
    [("fifo.h5", "fifo.h5 is no regular file"), ("~nosuch/x.pth", "'~nosuch' is no user of this machine")],
)
def test_sources_that_are_no_files(run, tmp_path, monkeypatch, command, name, message):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo.h5")
    Image.new("RGB", (8, 8)).save("x.png")
    code, _, err = run(*(part.format(name) for part in command))
    assert (code, err.count("\n")) == (2, 1)
    assert message in err


def test_one_of_several_networks(run, tmp_path):
    its = synthetic.lineage("torchvision", "googlenet_torchvision")
    tensors = synthetic.tensors(its, 3, aux=False)
    averaged = {name: tensor + 1 if name == "fc.bias" else tensor for name, tensor in tensors.items()}
    theirs, ours = tmp_path / "theirs.safetensors", tmp_path / "ours.safetensors"
    both = {f"model.{n}": t for n, t in tensors.items()} | {f"model_ema.module.{n}": t for n, t in averaged.items()}
    theirs.write_bytes(safetensors.numpy.save(both, {"format": "pt"}))
    convert = ("convert", str(theirs), str(ours), "--unverified", "--from", "torchvision")
    words = "holds 2 networks, under model, model_ema.module: choose one, such as key='model' (--key model)."
    for command in (convert, ("predict", str(theirs), "--weights", str(theirs), "--unverified")):
        assert run(*command) == (2, "", f"inception-jax: {theirs} {words}\n")
    code, out, _ = run(*convert, "--key", "model_ema")
    assert code == 0
    assert f"{len(tensors)} tensors elsewhere in the file are left out" in out
    assert "the names of the network begin with 'model_ema.module.', which is removed" in out
    bias = weights.load(ours).variables["params"]["classifier"]["linear"]["bias"]
    np.testing.assert_array_equal(bias, averaged["fc.bias"])
    code, _, err = run("convert", str(ours), str(tmp_path / "x.safetensors"), "--key", "model")
    assert (code, err.count("\n")) == (2, 1)
    assert "key are for third-party files" in err
