"""Our own files: what goes in comes out, bit for bit, and a file that cannot be trusted is refused."""

import dataclasses
import json
import os

import numpy as np
import pytest
import safetensors.numpy

from inception_jax.errors import UserError
from inception_jax.models import zoo
from inception_jax.weights import files
from inception_jax.weights.files import Weights, WeightsInfo
from inception_jax.weights.fitting import initial_values
from inception_jax.weights.naming.lineages import variable_shapes


def tiny(name="googlenet_cifar", num_classes=10, width=0.1, **settings) -> Weights:
    """Weights of a narrow network, random but for what its initialisation makes constant."""
    card = zoo.model_card(name)
    info = WeightsInfo(
        model=name,
        num_classes=num_classes,
        aux=True,
        preprocess=card.preprocess,
        numerics=card.numerics,
        width=width,
        source="a test",
        **settings,
    )
    rng = np.random.default_rng(0)

    def draw(path, shape):
        leaf = rng.standard_normal(shape, dtype=np.float32)
        if path[-1] == "kernel":
            return leaf * np.float32((2 / np.prod(shape[:-1])) ** 0.5)  # so that no signal fades or grows
        return np.abs(leaf) + 1 if path[-1] == "var" else leaf

    return Weights.of(info, {path: draw(path, shape) for path, shape in variable_shapes(info.create_model()).items()})


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "weights.safetensors"
    files.save(path, tiny())
    return path


def test_round_trip_is_bit_exact(path):
    weights = tiny(label_offset=1, sha256="ab", filled=("conv1/bn/scale",))
    weights.variables["params"]["classifier"]["linear"]["bias"][:3] = np.nan, -0.0, np.inf
    files.save(path, weights)
    back = files.read(path)
    assert back.info == weights.info
    assert back.flat().keys() == weights.flat().keys()
    for name, array in weights.flat().items():
        assert back.flat()[name].tobytes() == array.tobytes(), name
        assert back.flat()[name].dtype == np.float32


@pytest.mark.parametrize("name", zoo.MODELS)
def test_numerics_survive(name, tmp_path):
    info = WeightsInfo(name, 3, False, zoo.model_card(name).preprocess, zoo.model_card(name).numerics, width=0.1)
    assert files.from_json(files.to_json(info)) == info


def test_other_frameworks_read_the_arrays(path):
    arrays = safetensors.numpy.load_file(path)
    assert arrays["params/conv1/conv/kernel"].shape == (3, 3, 3, 19)


def test_a_file_is_whole_or_not_there(path, monkeypatch):
    before = path.read_bytes()

    def full_disk(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full_disk)
    with pytest.raises(UserError, match=r"weights.safetensors cannot be written: No space left on device"):
        files.save(path, tiny())
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_names_and_folders(tmp_path):
    with pytest.raises(UserError, match=r"weights.bin: weights are written as .safetensors files"):
        files.save(tmp_path / "weights.bin", tiny())
    with pytest.raises(UserError, match="nowhere is no folder"):
        files.save(tmp_path / "nowhere" / "weights.safetensors", tiny())


def _rewritten(path, change):
    metadata, arrays = files._open(path)
    del metadata[files.CHECKSUM]
    change(metadata, arrays)
    if files.FORMAT in metadata.values():
        metadata[files.CHECKSUM] = files.checksum(metadata, arrays)
    path.write_bytes(safetensors.numpy.save(arrays, metadata or None))


def _info(**changes):
    """Returns a change of the `WeightsInfo` in the metadata; "a__b" is b in a."""

    def change(metadata, arrays):
        info = json.loads(metadata["info"])
        for name, value in changes.items():
            *outer, inner = name.split("__")
            (info[outer[0]] if outer else info)[inner] = value
        metadata["info"] = json.dumps(info)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m, a: m.clear(), r"has no metadata of inception_jax, .*: write it with inception_jax.weights.save"),
        (lambda m, a: m.update(format_version="2"), "has format '2'; this version reads 1"),
        (lambda m, a: m.pop("info"), "metadata that this version cannot read: it: Invalid JSON"),
        (lambda m, a: m.update(info="[" * 100_000), "metadata that this version cannot read: it"),
        (lambda m, a: m.update(info="null"), "metadata that this version cannot read: it"),
        (_info(model="googlenet_cfar"), "No model is called 'googlenet_cfar'"),
        (_info(preprocess={}), r"cannot read: preprocess.size: Field required"),
        (_info(preprocess=None), r"cannot read: preprocess"),
        (_info(preprocess__size=10**9), r"cannot read: preprocess.size 1000000000 is out of range"),
        (_info(preprocess__std=[0.0, 1.0, 1.0]), r"cannot read: preprocess.std \(0.0, 1.0, 1.0\) is out of range"),
        (_info(preprocess__mean=[1.0]), r"cannot read: preprocess with 1 means and 3 stds"),
        (_info(preprocess__geometry="foo"), r"cannot read: preprocess.geometry: Input should be 'short_side' or"),
        (_info(numerics__conv_same="foo"), r"cannot read: numerics.conv_same: Input should be 'symmetric' or 'tf'"),
        (_info(numerics__norm={"epsilon": -1.0}), r"cannot read: numerics.norm .* is out of range"),
        (_info(aux="no"), r"cannot read: aux: Input should be a valid boolean"),
        (_info(num_classes=10.5), r"cannot read: num_classes"),
        (_info(width=1e308), r"cannot read: width 1e\+308 is out of range"),
        (_info(filled=["nope"]), r"cannot read: filled lists nope, which the file does not hold"),
        (
            lambda m, a: a.pop("params/conv1/bn/bias"),
            r"the arrays of googlenet_cifar: 1 differ, the first is params/conv1/bn/bias: None, not \(19,\)",
        ),
        (lambda m, a: a.update({"params/extra": np.ones(3)}), r"the first is params/extra: \(3,\), not None"),
        (
            lambda m, a: a.update({"params/conv1/bn/bias": np.ones(19, np.float16)}),
            "params/conv1/bn/bias is float16; weights are float32",
        ),
        (_info(width=0.2), "does not hold the arrays of googlenet_cifar"),
    ],
)
def test_files_that_cannot_be_trusted(path, change, message):
    _rewritten(path, change)
    with pytest.raises(UserError, match=message):
        files.read(path)


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_files_that_are_cut(path, keep):
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"weights.safetensors cannot be read"):
        files.read(path)
    assert not files.is_ours(path)


def test_a_file_of_before_checksums_loads_with_a_note(path):
    content = files._open(path)
    del content[0][files.CHECKSUM]
    path.write_bytes(safetensors.numpy.save(content[1], content[0]))
    assert str(files.read(path).report).splitlines()[1:] == ["not verified: it was written before files had checksums"]


def test_a_checksum_that_has_lost_its_name_is_no_file_of_before_checksums(path):
    data = path.read_bytes()
    assert data.count(b'"sha256":"') == 1
    path.write_bytes(data.replace(b'"sha256":"', b'"sha25v":"'))
    with pytest.raises(UserError, match="is damaged: its metadata have the key 'sha25v', which no version"):
        files.read(path)


@pytest.mark.usefixtures("short_network")
@pytest.mark.parametrize("count", [40, pytest.param(500, marks=pytest.mark.slow)])
@pytest.mark.parametrize("part", ["header", "anywhere"])
def test_a_damaged_file_is_refused_or_reads_as_it_was(tmp_path, part, count):
    path = tmp_path / "short.safetensors"
    files.save(path, tiny("short"))
    whole, data = files.read(path), path.read_bytes()
    flat, rng = whole.flat(), np.random.default_rng(0)
    end = int.from_bytes(data[:8], "little") + 8 if part == "header" else len(data)
    refused = 0
    for _ in range(count):
        damaged = bytearray(data)
        for place in rng.integers(end, size=rng.integers(1, 4)):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            found = files.read(path)
        except UserError:
            refused += 1
            continue
        assert (found.info, found.report) == (whole.info, whole.report)
        assert all(np.array_equal(array, flat[name]) for name, array in found.flat().items())
    assert refused > 0.9 * count


def test_whose_file_it_is(path, tmp_path):
    assert files.is_ours(path)
    _rewritten(path, lambda metadata, arrays: metadata.clear())
    assert files.is_ours(path)  # so that the error says how to mend it
    other = tmp_path / "torch.safetensors"
    other.write_bytes(safetensors.numpy.save({"conv1.conv.weight": np.ones(3, np.float32)}, {"format": "pt"}))
    assert not files.is_ours(other)
    assert not files.is_ours(tmp_path / "missing.safetensors")


def test_the_network_of_the_file(path):
    weights = files.read(path)
    model = weights.create_model()
    assert (model.num_classes, sorted(model.aux_heads)) == (10, ["4a", "4d"])
    assert variable_shapes(model) == {tuple(name.split("/")): array.shape for name, array in weights.flat().items()}
    assert initial_values(model, [], 0) == {}
    assert dataclasses.replace(weights.info, aux=False).create_model().aux_heads == {}
