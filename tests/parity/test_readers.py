"""Weight files that PyTorch, Keras and TensorFlow wrote, and some that nobody should write."""

import argparse
import functools
import io
import os
import pickle
import warnings
import zipfile

import h5py
import numpy as np
import pytest

from inception_jax.errors import UserError
from inception_jax.weights.readers import read_content, read_tensors
from tests.weights.test_fuzz import check, fuzz

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")]


def refusal(path, words):
    with pytest.raises(UserError, match=words) as caught:
        read_tensors(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


# ---- PyTorch -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tensors(torch):
    """Returns a state dict as a network with batch norm has it, some of it in 16 bits."""
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).state_dict()
    halves = {f"half.{kind}": torch.randn(5).to(getattr(torch, kind)) for kind in ("float16", "bfloat16")}
    return net | halves | {"double": torch.randn(5, dtype=torch.float64)}


def save(torch, path, checkpoint, modern=True):
    torch.save(checkpoint, path, _use_new_zipfile_serialization=modern)
    return path


@pytest.mark.parametrize("modern", [True, False])
@pytest.mark.parametrize("place", [None, "state_dict", "model"])
def test_torch(torch, tensors, tmp_path, place, modern):
    """Both formats of torch.save, bare and inside what a training run saves; 16 bits become 32."""
    beside = {"epoch": 3, "best": np.float64(0.5), "optimizer": {"state": {0: tensors}}, "scheduler": {"step": 3}}
    beside["args"] = argparse.Namespace(lr=0.1)
    checkpoint = {place: tensors, **beside} if place else tensors
    path = save(torch, tmp_path / "x.pth.tar", checkpoint, modern)
    content = read_content(path)
    prefix = f"{place}." if place else ""
    assert list(content.tensors) == [prefix + name for name in tensors]
    assert content.statement.containers == (place or "",)
    assert content.statement.left_out == (tuple(beside) if place else ())
    found = {name.removeprefix(prefix): array for name, array in content.tensors.items()}
    for name, tensor in tensors.items():
        wanted = tensor.float() if name.startswith("half") else tensor
        assert found[name].dtype == wanted.numpy().dtype
        np.testing.assert_array_equal(found[name], wanted.numpy(), err_msg=name)
    assert {str(array.dtype) for array in found.values()} == {"float32", "float64", "int64"}


class Malice:
    """Unpickled, it would write a file."""

    def __init__(self, victim):
        self.victim = victim

    def __reduce__(self):
        return os.system, (f"touch {self.victim}",)


@pytest.mark.parametrize("write", ["torch", "torch, old", "pickle 0", "pickle 2", "pickle 4"])
def test_a_pickle_that_runs_code_is_refused(torch, tensors, tmp_path, write):
    victim, path = tmp_path / "victim", tmp_path / "x.pth"
    checkpoint = {**tensors, "bad": Malice(victim)}
    if write.startswith("torch"):
        save(torch, path, checkpoint, modern=write == "torch")
    else:
        path.write_bytes(pickle.dumps({"bad": Malice(victim)}, protocol=int(write[-1])))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        refusal(path, "nothing in it was run")
    assert not victim.exists()
    if write.startswith("torch"):
        refusal(path, r"it asks to run \w+\.system; .*save its state_dict")
        torch.load(path, weights_only=False)
        assert victim.exists()  # so the file would have done it


def _nested(checkpoint, depth):
    return {"a": _nested(checkpoint, depth - 1)} if depth else checkpoint


def test_tensors_at_any_depth(torch, tmp_path):
    """What holds no tensors counts as one entry; a list of tensors is no state dict."""
    ones = torch.ones(2)
    checkpoint = {"ema": {"module": {"a": ones, "note": "x"}, "decay": 0.9}, "b": ones, "list": [ones], 7: ones}
    checkpoint["class_to_idx"] = {"cat": 0, "dog": 1}
    content = read_content(save(torch, tmp_path / "x.pth", checkpoint))
    assert list(content.tensors) == ["ema.module.a", "b"]
    assert content.statement.containers == ("ema.module", "")
    assert content.statement.left_out == ("ema.module.note", "ema.decay", "list", "7", "class_to_idx")


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_pickle_of_arrays_is_refused_with_what_is_read_in_its_place(tmp_path, protocol):
    path = tmp_path / "inception_v3_weights_fid.pickle"
    path.write_bytes(pickle.dumps({"Conv2d_1a_3x3": {"kernel": np.ones((3, 3), np.float32)}}, protocol))
    refusal(path, r"a pickle of NumPy arrays; nothing in it was run\. .*pt_inception-2015-12-05-6726825d\.pth")


def test_what_is_no_state_dict(torch, tensors, tmp_path):
    path = tmp_path / "x.pt"
    net = torch.nn.Linear(2, 2)
    refusal(save(torch, path, net), r"asks to run torch\.nn\.modules\.linear\.Linear; nothing in it was run")
    refusal(save(torch, path, torch.ones(2)), "holds a Tensor, not a state dict")
    for checkpoint in ({"epoch": 3}, {1: torch.ones(2)}, {}, {"optimizer": tensors}, {"a": [torch.ones(2)]}):
        refusal(save(torch, path, checkpoint), "holds no tensors")
    endless = {"a": torch.ones(2)}
    refusal(save(torch, path, endless | {"self": endless, "deep": _nested(endless, 20)}), "nests over 16 groups")
    refusal(save(torch, path, {"a": torch.eye(2).to_sparse()}), "'a' is not a dense tensor")
    refusal(save(torch, path, {"a": torch.empty(2, device="meta")}), "'a' is not a dense tensor")
    refusal(save(torch, path, {"a": torch.ones(2, dtype=torch.complex64)}), "'a' has the type complex64")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(net).save(str(path))
    assert set(read_tensors(path)) == set(net.state_dict())  # its code is not run


@pytest.mark.slow
@pytest.mark.parametrize("modern", [True, False])
def test_a_truncated_checkpoint(torch, tensors, tmp_path, modern):
    data = save(torch, tmp_path / "whole.pth", tensors, modern).read_bytes()
    path = tmp_path / "x.pth"
    for n in (1, 2, 20, 100, len(data) // 2, len(data) - 100, len(data) - 1):
        path.write_bytes(data[:n])
        refusal(path, "looks like a file of PyTorch, but")
    path.write_bytes(b"\x93NUMPY" + data)
    refusal(path, "looks like a file of PyTorch, but")


# ---- Keras ---------------------------------------------------------------------------------------------------------


@functools.cache
def keras_model(name, dtype=None):
    """Returns a model with random variables, made after another: the numbers of its layers do not start at zero."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    import keras

    keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Conv2D(2, 1), keras.layers.BatchNormalization()])
    if dtype:
        keras.config.set_dtype_policy(dtype)
    try:
        if name == "nested":
            base = keras.Sequential(
                [
                    keras.Input((8, 8, 3)),
                    keras.layers.SeparableConv2D(4, 3, name="sep"),
                    keras.layers.Dropout(0.5),
                    keras.layers.BatchNormalization(name="norm", center=False),
                ]
            )
            inputs = keras.Input((8, 8, 3))
            pooled = keras.layers.GlobalAveragePooling2D()(base(inputs))
            model = keras.Model(inputs, keras.layers.Dense(3, name="head")(pooled))
        else:
            model = getattr(keras.applications, name)(weights=None, classes=5)
    finally:
        keras.config.set_dtype_policy("float32")
    rng = np.random.default_rng(0)
    model.set_weights([rng.uniform(0.5, 1, weight.shape) for weight in model.weights])
    return model


@pytest.mark.parametrize("name", ["InceptionV3", "Xception"])
def test_every_file_of_keras_reads_as_its_model(tmp_path, name):
    model = keras_model(name)
    live = read_tensors(model)
    assert len(live) == len(model.weights)
    for layer in model.layers:
        for weight in layer.weights:
            np.testing.assert_array_equal(live[f"{layer.name}/{weight.name}"], np.asarray(weight.value))
    for suffix in (".keras", ".weights.h5", ".h5"):
        path = tmp_path / f"x{suffix}"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.save_weights(path) if suffix == ".weights.h5" else model.save(path)
        found = read_tensors(path)
        assert found.keys() == live.keys()
        for key, array in live.items():
            np.testing.assert_array_equal(found[key], array, err_msg=f"{suffix} {key}")
        path.unlink()


def test_an_archive_of_before_names_reads_by_its_config(tmp_path):
    """The names that recent Keras writes beside the variables are taken out again."""
    model = keras_model("InceptionV3")
    model.save(tmp_path / "x.keras")
    with zipfile.ZipFile(tmp_path / "x.keras") as archive:
        config, weights = archive.read("config.json"), io.BytesIO(archive.read("model.weights.h5"))
    with h5py.File(weights, "r+") as file:
        for member in file["layers"].values():
            del member["vars"].attrs["name"]
    with zipfile.ZipFile(tmp_path / "old.keras", "w") as archive:
        archive.writestr("config.json", config)
        archive.writestr("model.weights.h5", weights.getvalue())
    live, found = read_tensors(model), read_tensors(tmp_path / "old.keras")
    assert found.keys() == live.keys()
    assert all(np.array_equal(found[key], array) for key, array in live.items())
    (tmp_path / "old.weights.h5").write_bytes(weights.getvalue())
    refusal(tmp_path / "old.weights.h5", "lacks the names of its layers")


def test_models_as_layers(tmp_path):
    """Of a norm without offsets the archive says so; the .h5 files of Keras 3 say it by name."""
    model = keras_model("nested")
    live = read_tensors(model)
    assert set(live) == {
        *(f"sep/{x}" for x in ("depthwise_kernel", "pointwise_kernel", "bias")),
        *(f"norm/{x}" for x in ("gamma", "moving_mean", "moving_variance")),
        "head/kernel", "head/bias",
    }  # fmt: skip
    for suffix in (".keras", ".h5"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.save(tmp_path / f"x{suffix}")
        found = read_tensors(tmp_path / f"x{suffix}")
        assert found.keys() == live.keys()
        assert all(np.array_equal(found[key], array) for key, array in live.items())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_keras_in_16_bits(tmp_path, dtype):
    model = keras_model("nested", dtype)
    live = read_tensors(model)
    assert {str(weight.dtype) for weight in model.weights} == {dtype}
    for save in (model.save, model.save_weights):
        path = tmp_path / ("x.keras" if save == model.save else "x.weights.h5")
        save(path)
        found = read_tensors(path)
        assert {array.dtype for array in found.values()} == {np.dtype(np.float32)}
        np.testing.assert_array_equal(found["sep/depthwise_kernel"], live["sep/depthwise_kernel"])


# ---- TensorFlow ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def variables():
    rng = np.random.default_rng(0)
    return {
        "InceptionV3/Conv2d_1a_3x3/weights": rng.normal(size=(3, 3, 3, 32)).astype(np.float32),
        "InceptionV3/Conv2d_1a_3x3/BatchNorm/moving_variance": rng.normal(size=32).astype(np.float32),
        "global_step": np.array(7),
    }


@pytest.mark.parametrize("version", ["V1", "V2"])
def test_tensorflow(tmp_path, variables, version):
    tf = pytest.importorskip("tensorflow", reason="it is as large as all other originals together")
    v1 = tf.compat.v1
    with v1.Graph().as_default(), v1.Session() as session:
        for name, array in variables.items():
            v1.get_variable(name, initializer=array)
        session.run(v1.global_variables_initializer())
        saver = v1.train.Saver(write_version=getattr(v1.train.SaverDef, version))
        saver.save(session, str(tmp_path / "inception_v3.ckpt"), write_meta_graph=False)
    path = tmp_path / "inception_v3.ckpt"
    data = tmp_path / "inception_v3.ckpt.data-00000-of-00001"
    assert path.exists() == (version == "V1")
    sources = [path] if version == "V1" else [path, tmp_path / "inception_v3.ckpt.index", data]
    for source in sources:
        found = read_tensors(source)
        assert list(found) == sorted(variables)
        for name, array in variables.items():
            assert found[name].dtype == array.dtype
            np.testing.assert_array_equal(found[name], array)
    for damaged in (source for source in sources if source.exists()):
        whole = damaged.read_bytes()
        for n in (1, 60, len(whole) // 2, len(whole) - 9, len(whole) - 1):
            damaged.write_bytes(whole[:n])
            refusal(damaged, "looks like a file of TensorFlow, but")
        damaged.write_bytes(whole)
    if version == "V2":
        data.unlink()
        refusal(path, "looks like a file of TensorFlow, but")


# ---- PyTorch, hostile ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_stride_of_0_makes_any_shape_of_one_value(torch, tmp_path, dtype):
    path = tmp_path / "x.pth"
    tensor = torch.ones(1, dtype=getattr(torch, dtype)).as_strided((1 << 18, 1 << 18), (0, 0))
    save(torch, path, {"conv1.conv.weight": tensor})
    refusal(path, r"'conv1.conv.weight' claims the shape \(262144, 262144\), .* and the file holds [24]")


def test_members_that_unpack_to_more_than_the_budget(torch, tensors, tmp_path):
    path = save(torch, tmp_path / "x.pth", tensors)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members[next(name for name in members if name.endswith("/data/0"))] = bytes(256 << 20)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    refusal(path, r"its members claim 268,\d+,\d+ bytes; at most")


@pytest.mark.slow
@pytest.mark.parametrize("modern", [True, False])
def test_mutations_are_read_or_refused_in_one_line(torch, tensors, tmp_path, modern):
    path = save(torch, tmp_path / "x.pth", tensors, modern)
    check(fuzz(path, "pytorch"))
