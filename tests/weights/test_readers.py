"""Files written byte by byte, or with the libraries of their formats; tests/parity has those that frameworks write."""

import io
import json
import pickle
import struct
import sys
import types
import zipfile

import h5py
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from inception_jax.errors import UserError
from inception_jax.weights.readers import keras, read_tensors

RNG = np.random.default_rng(0)
KERNEL, BIAS = RNG.normal(size=(3, 3, 2, 4)).astype(np.float32), np.arange(4, dtype=np.float32)


def assert_equal(found, expected):
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype, name
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def truncations(data):
    return [data[:n] for n in (1, 4, 9, len(data) // 3, len(data) // 2, len(data) - 40, len(data) - 1)]


# ---- Which kind a file is of ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("empty.pth", b"", "is empty"),
        ("notes.txt", b"hello there", r"of no known kind: it begins with b'hello th'.*Allowed: PyTorch \(.pth"),
        ("page.pth", b"<!DOCTYPE html>", "web page"),
        ("pointer.h5", b"version https://git-lfs.github.com/spec/v1", "Git LFS"),
        ("v3.ckpt", b"\x1f\x8b\x08\x00rest", "gzip archive"),
        ("v3.tar", b"name".ljust(257, b"\0") + b"ustar\0", "tar archive"),
        ("x.safetensors", b"\xff" * 64, "of safetensors, but it cannot be read"),
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
    with pytest.raises(UserError, match=r"none.pth cannot be read: No such file"):
        read_tensors(str(tmp_path / "none.pth"))
    with pytest.raises(UserError, match="not from int 3"):
        read_tensors(3)


@pytest.mark.parametrize(
    ("member", "words"),
    [
        ("net/constants.pkl", "TorchScript archive, which holds code"),
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


@pytest.mark.parametrize(("package", "extra"), [("torch", "torch"), ("tensorflow", "slim")])
def test_a_missing_package_is_named(tmp_path, monkeypatch, package, extra):
    monkeypatch.setitem(sys.modules, package, None)
    sources = {"torch": ["x"], "tensorflow": ["v1", "v2.ckpt", "v2.ckpt.index", "v2.ckpt.data-00000-of-00001"]}
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
    assert_equal(dict(sorted(found.items())), expected)
    for data in truncations(path.read_bytes()):
        path.write_bytes(data)
        with pytest.raises(UserError, match="of safetensors, but it cannot be read"):
            read_tensors(path)


def test_a_prefix_that_not_all_names_have_stays(tmp_path):
    path = tmp_path / "x.safetensors"
    safetensors.numpy.save_file({"module.a": BIAS, "b": BIAS}, path)
    assert set(read_tensors(path)) == {"module.a", "b"}


def test_what_is_no_number_is_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    safetensors.numpy.save_file({"mask": np.ones(3, bool)}, path)
    with pytest.raises(UserError, match="'mask' has the type bool"):
        read_tensors(path)


# ---- Keras: names --------------------------------------------------------------------------------------------------


def write_named(group, layers, parts=1):
    """Writes {layer: {weight name: array}} as Keras 1 and 2 do; long lists of names are written in parts."""
    names = [name.encode() for name in layers]
    if parts == 1:
        group.attrs["layer_names"] = names
    else:
        for i, part in enumerate(np.array_split(np.array(names), parts)):
            group.attrs[f"layer_names{i}"] = part
    for layer, weights in layers.items():
        member = group.create_group(layer)
        member.attrs["weight_names"] = [name.encode() for name in weights]
        for name, array in weights.items():
            member[name] = array


KERAS_2 = {
    "input_1": {},
    "conv2d_2": {"conv2d_2_1/kernel:0": KERNEL, "conv2d_2_1/bias:0": BIAS},
    "bn": {f"bn/{x}:0": BIAS + i for i, x in enumerate(("gamma", "beta", "moving_mean", "moving_variance"))},
    "conv2d_1": {"conv2d_1/kernel:0": 2 * KERNEL},
}
NAMED = {
    "conv2d_2/kernel": KERNEL,
    "conv2d_2/bias": BIAS,
    "bn/gamma": BIAS,
    "bn/beta": BIAS + 1,
    "bn/moving_mean": BIAS + 2,
    "bn/moving_variance": BIAS + 3,
    "conv2d_1/kernel": 2 * KERNEL,
}


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("group", ["/", "/model_weights"])
def test_keras_2_in_the_order_of_the_file(tmp_path, group, parts):
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        write_named(file.require_group(group), KERAS_2, parts)
    assert_equal(read_tensors(path), NAMED)


def test_a_model_as_a_layer_names_its_own_layers(tmp_path):
    path = tmp_path / "x.h5"
    inner = {"conv2d/kernel:0": KERNEL, "xception/bn/beta:0": BIAS}
    with h5py.File(path, "w") as file:
        write_named(file, {"xception": inner, "dense": {"dense/bias:0": BIAS}})
    assert_equal(read_tensors(path), {"conv2d/kernel": KERNEL, "bn/beta": BIAS, "dense/bias": BIAS})


def test_keras_1(tmp_path):
    path = tmp_path / "x.h5"
    conv, norm = "separableconvolution2d_1", "batchnormalization_3"
    with h5py.File(path, "w") as file:
        write_named(
            file,
            {
                conv: {f"{conv}_depthwise_kernel:0": KERNEL, f"{conv}_pointwise_kernel:0": KERNEL[:1, :1]},
                norm: {f"{norm}_{x}:0": BIAS for x in ("gamma", "beta", "running_mean", "running_std")},
                "dense_2": {"dense_2_W:0": KERNEL[0, 0], "dense_2_b_1:0": BIAS},
            },
        )
    assert list(read_tensors(path)) == [
        f"{conv}/depthwise_kernel",
        f"{conv}/pointwise_kernel",
        *(f"{norm}/{x}" for x in ("gamma", "beta", "moving_mean", "moving_variance")),
        "dense_2/kernel",
        "dense_2/bias",
    ]


def test_two_tensors_of_one_name_are_refused(tmp_path):
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        write_named(file, {"a": {"x/kernel:0": BIAS, "y/x/kernel:0": BIAS}})
    with pytest.raises(UserError, match="it holds 'x/kernel' twice"):
        read_tensors(path)


# ---- Keras 3: numbers ----------------------------------------------------------------------------------------------


def write_numbered(file, layers, named=True, container="layers"):
    """Writes {member: (layer name, arrays)} as Keras 3 does."""
    for member, (name, arrays) in layers.items():
        variables = file.create_group(f"{container}/{member}/vars")
        if named:
            variables.attrs["name"] = name
        for i, array in enumerate(arrays):
            variables[str(i)] = array


KERAS_3 = {
    "input_layer": ("in", ()),
    "conv2d": ("stem", (KERNEL, BIAS)),
    "conv2d_2": ("conv2d_7", (2 * KERNEL,)),
    "conv2d_10": ("conv2d_1", (3 * KERNEL,)),
    "separable_conv2d": ("sep", (KERNEL, KERNEL[:1, :1])),
    "batch_normalization": ("bn", (BIAS, BIAS + 1, BIAS + 2, BIAS + 3)),
    "batch_normalization_1": ("bn_1", (BIAS, BIAS + 1, BIAS + 2)),
    "custom": ("mine", [BIAS + i for i in range(11)]),
}
NUMBERED = {
    "stem/kernel": KERNEL,
    "stem/bias": BIAS,
    "conv2d_7/kernel": 2 * KERNEL,
    "conv2d_1/kernel": 3 * KERNEL,
    "sep/depthwise_kernel": KERNEL,
    "sep/pointwise_kernel": KERNEL[:1, :1],
    "bn/gamma": BIAS,
    "bn/beta": BIAS + 1,
    "bn/moving_mean": BIAS + 2,
    "bn/moving_variance": BIAS + 3,
    "bn_1/beta": BIAS,
    "bn_1/moving_mean": BIAS + 1,
    "bn_1/moving_variance": BIAS + 2,
    **{f"mine/vars/{i}": BIAS + i for i in range(11)},
}


def test_weights_h5_takes_the_names_from_the_file(tmp_path):
    path = tmp_path / "x.weights.h5"
    with h5py.File(path, "w") as file:
        write_numbered(file, KERAS_3)
        write_numbered(file, {"dense": ("head", (BIAS,))}, container="layers/functional/layers")
        file["optimizer/vars/0"] = np.array(1)
    found = read_tensors(path)
    in_order = ["stem/kernel", "conv2d_7/kernel", "conv2d_1/kernel", "head/kernel"]
    assert [name for name in found if "kernel" in name][:4] == in_order
    assert_equal(dict(sorted(found.items())), dict(sorted((NUMBERED | {"head/kernel": BIAS}).items())))


def test_weights_h5_without_names_is_refused(tmp_path):
    path = tmp_path / "x.weights.h5"
    with h5py.File(path, "w") as file:
        write_numbered(file, KERAS_3, named=False)
    with pytest.raises(UserError, match=r"lacks the names of its layers.*or give the model itself"):
        read_tensors(path)


def archive(path, config, layers, **settings):
    weights = io.BytesIO()
    with h5py.File(weights, "w") as file:
        write_numbered(file, layers, **settings)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("config.json", json.dumps(config))
        file.writestr("model.weights.h5", weights.getvalue())


def layer(kind, name, **config):
    return {"class_name": kind, "config": {"name": name} | config}


@pytest.mark.parametrize("container", ["layers", "_layer_checkpoint_dependencies"])
def test_keras_archive_takes_the_names_from_its_config(tmp_path, container):
    path = tmp_path / "x.keras"
    layers = [
        layer("Conv2D", "last"),
        layer("BatchNormalization", "gains", center=False),
        layer("Conv2D", "first"),
        layer("BatchNormalization", "offsets", scale=False),
    ]
    pair = (BIAS, BIAS + 1, BIAS + 2)
    members = {
        "batch_normalization": pair,
        "batch_normalization_1": pair,
        "conv2d": (KERNEL,),
        "conv2d_1": (2 * KERNEL,),
    }
    members = {member: ("", arrays) for member, arrays in members.items()}
    archive(path, {"config": {"layers": layers}}, members, named=False, container=container)
    expected = {"gains/gamma": BIAS, "gains/moving_mean": BIAS + 1, "gains/moving_variance": BIAS + 2}
    expected |= {"offsets/beta": BIAS, "offsets/moving_mean": BIAS + 1, "offsets/moving_variance": BIAS + 2}
    assert_equal(read_tensors(path), expected | {"last/kernel": KERNEL, "first/kernel": 2 * KERNEL})


def test_an_archive_that_contradicts_itself_is_refused(tmp_path):
    path = tmp_path / "x.keras"
    archive(path, {"config": {"layers": [layer("Conv2D", "a")]}}, {"conv2d": ("b", (KERNEL,))})
    with pytest.raises(UserError, match="names conv2d twice, a and b"):
        read_tensors(path)
    config = {"config": {"layers": [layer("BatchNormalization", "bn", scale=True)]}}
    archive(path, config, {"batch_normalization": ("bn", (BIAS, BIAS, BIAS))})
    with pytest.raises(UserError, match="bn has 3 variables, not gamma, beta, moving_mean, moving_variance"):
        read_tensors(path)


def test_bfloat16_of_keras(tmp_path):
    path = tmp_path / "x.weights.h5"
    with h5py.File(path, "w") as file:
        write_numbered(file, {"dense": ("d", (BIAS.astype(ml_dtypes.bfloat16),))})
        file["layers/dense/vars/0"].attrs["dtype"] = "bfloat16"
    assert_equal(read_tensors(path), {"d/kernel": BIAS})


def test_a_live_model():
    """Names of variables are "kernel" in Keras 3 and "conv/kernel:0" before."""

    def fake(name, **weights):
        variables = [types.SimpleNamespace(name=variable) for variable in weights]
        return types.SimpleNamespace(name=name, weights=variables, get_weights=lambda: list(weights.values()))

    inner = types.SimpleNamespace(name="inner", layers=[fake("bn", **{"bn/beta:0": BIAS})])
    model = types.SimpleNamespace(name="net", layers=[fake("in"), fake("conv", kernel=KERNEL), inner])
    assert_equal(read_tensors(model), {"conv/kernel": KERNEL, "bn/beta": BIAS})
    model.layers.append(model.layers[1])
    with pytest.raises(UserError, match="The model 'net' cannot be taken: it holds 'conv/kernel' twice"):
        read_tensors(model)


def test_the_error_of_a_library_is_told_in_one_line():
    def fail():
        raise RuntimeError("not built.\nHere is how:\n...")

    layers = [types.SimpleNamespace(name="conv", weights=[], get_weights=fail)]
    with pytest.raises(UserError, match=r"cannot be taken: it cannot be read: not built\.$"):
        read_tensors(types.SimpleNamespace(name="net", layers=layers))


# ---- HDF5 that is up to no good ------------------------------------------------------------------------------------


def _external_link(file, elsewhere):
    file["a/kernel"] = h5py.ExternalLink(str(elsewhere), "/secret")


def _soft_link(file, elsewhere):
    file["b"] = BIAS
    file["a/kernel"] = h5py.SoftLink("/b")


def _external_storage(file, elsewhere):
    file.create_dataset("a/kernel", (4,), "f4", external=[(str(elsewhere), 0, 16)])


def _virtual(file, elsewhere):
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource(str(elsewhere), "secret", (4,))
    file.create_virtual_dataset("a/kernel", layout)


def _objects(file, elsewhere):
    file.create_dataset("a/kernel", data=["text"], dtype=h5py.string_dtype())


def _huge(file, elsewhere):
    file.create_dataset("a/kernel", (2**40,), "f4", chunks=(1024,), compression="gzip")


def _missing(file, elsewhere):
    pass


def _group(file, elsewhere):
    file.create_group("a/kernel")


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (_external_link, "/a/kernel is a link"),
        (_soft_link, "/a/kernel is a link"),
        (_external_storage, "/a/kernel is no tensor in this file"),
        (_virtual, "/a/kernel is no tensor in this file"),
        (_objects, "'a/kernel' has the type object"),
        (_huge, r"/a/kernel claims the shape \(1099511627776,\)"),
        (_missing, "it lacks /a/kernel"),
        (_group, "/a/kernel is no tensor in this file"),
    ],
)
def test_hdf5_that_leads_elsewhere_is_refused(tmp_path, write, words):
    elsewhere = tmp_path / "elsewhere"
    with h5py.File(elsewhere, "w") as file:
        file["secret"] = BIAS
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = ["a"]
        file.create_group("a").attrs["weight_names"] = ["kernel"]
        write(file, elsewhere)
    with pytest.raises(UserError, match=words):
        read_tensors(path)


def test_a_group_that_is_a_link_is_refused(tmp_path):
    path, elsewhere = tmp_path / "x.weights.h5", tmp_path / "elsewhere"
    with h5py.File(elsewhere, "w") as file:
        write_numbered(file, KERAS_3)
    for link in ("layers", "layers/conv2d"):
        with h5py.File(path, "w") as file:
            file[link] = h5py.ExternalLink(str(elsewhere), link)
        with pytest.raises(UserError, match=f"/{link} is a link"):
            read_tensors(path)


def test_hdf5_that_is_not_of_keras_or_not_whole(tmp_path):
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file["data"] = BIAS
    with pytest.raises(UserError, match=r"it holds no layers, only \['data'\]"):
        read_tensors(path)
    with h5py.File(path, "w") as file:
        write_named(file, KERAS_2)
    for data in truncations(path.read_bytes()):
        path.write_bytes(data)
        with pytest.raises(UserError, match="cannot be read"):
            read_tensors(path)


def test_an_archive_that_lacks_its_weights_or_claims_too_many(tmp_path, monkeypatch):
    path = tmp_path / "x.keras"
    archive(path, {}, KERAS_3)
    monkeypatch.setattr(keras, "MAX_BYTES", 1000)
    with pytest.raises(UserError, match=r"its model\.weights\.h5 claims \d+,\d+ bytes"):
        read_tensors(path)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("config.json", "{}")
    with pytest.raises(UserError, match=r"has no model\.weights\.h5"):
        read_tensors(path)


def test_a_truncated_archive(tmp_path):
    path = tmp_path / "x.keras"
    archive(path, {}, KERAS_3)
    for data in truncations(path.read_bytes()):
        path.write_bytes(data)
        with pytest.raises(UserError, match="cannot be read"):
            read_tensors(path)


# ---- Caffe, byte by byte -------------------------------------------------------------------------------------------


def varint(value):
    low, rest = value & 127, value >> 7
    return bytes([low | 128]) + varint(rest) if rest else bytes([low])


def field(number, payload):
    """Returns a field of the wire format: a number as varint, bytes with their length."""
    if isinstance(payload, int):
        return varint(number << 3) + varint(payload)
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def floats(array, code="f"):
    return struct.pack(f"<{array.size}{code}", *array.ravel())


def blob(array):
    return field(7, field(1, b"".join(map(varint, array.shape)))) + field(5, floats(array))


def old_blob(array):
    """Returns a blob with four axes, as of 2014."""
    return b"".join(field(i, size) for i, size in enumerate(array.shape, start=1)) + field(5, floats(array))


def net_v1(*layers):
    """Returns a net of V1 layers, with the fields around the weights that real ones have."""
    return field(1, b"GoogLeNet") + b"".join(
        field(2, field(2, b"data") + field(4, name.encode()) + field(5, 4) + b"".join(field(6, x) for x in blobs))
        for name, *blobs in layers
    )


def net_v2(*layers):
    return field(1, b"net") + b"".join(
        field(100, field(1, name.encode()) + field(2, b"Convolution") + b"".join(field(7, x) for x in blobs))
        for name, *blobs in layers
    )


def test_caffe_of_2014(tmp_path):
    path = tmp_path / "x.caffemodel"
    kernel, bias = KERNEL.transpose(3, 2, 0, 1), BIAS.reshape(1, 1, 1, 4)
    path.write_bytes(net_v1(("data",), ("conv1/7x7_s2", old_blob(kernel) + field(6, bytes(4)), old_blob(bias))))
    assert_equal(read_tensors(path), {"conv1/7x7_s2/0": kernel, "conv1/7x7_s2/1": bias})


def test_caffe_since_2015(tmp_path):
    path = tmp_path / "x.caffemodel"
    double = field(7, field(1, varint(2) + varint(2))) + field(8, floats(BIAS, "d"))
    scalar = field(7, b"") + field(5, floats(np.float32([7])))
    path.write_bytes(net_v2(("fc", blob(KERNEL[0, 0]), double, scalar), ("relu",)))
    expected = {"fc/0": KERNEL[0, 0], "fc/1": BIAS.reshape(2, 2).astype(np.float64), "fc/2": np.array(7, np.float32)}
    assert_equal(read_tensors(path), expected)


def test_caffe_that_is_wrong(tmp_path):
    path = tmp_path / "x.caffemodel"
    path.write_bytes(net_v2(("fc", field(7, field(1, varint(5))) + field(5, floats(BIAS)))))
    with pytest.raises(UserError, match=r"'fc/0' has 4 values and the shape \(5,\)"):
        read_tensors(path)
    path.write_bytes(net_v2(("fc", blob(BIAS)), ("fc", blob(BIAS))))
    with pytest.raises(UserError, match="holds 'fc/0' twice"):
        read_tensors(path)
    for data in truncations(net_v2(("fc", blob(KERNEL)))):
        path.write_bytes(data)
        with pytest.raises(UserError, match="of Caffe, but it"):
            read_tensors(path)
