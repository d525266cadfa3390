"""`load`: whose file it is, what is asked of it, and what is refused. Small files where the size does not matter."""

import dataclasses
import functools
import hashlib
import io
import os
import tarfile

import h5py
import jax
import numpy as np
import pytest
import safetensors.numpy

import inception_jax as ij
from inception_jax import weights
from inception_jax.errors import UserError
from inception_jax.models import inputs
from inception_jax.weights import files, loading
from inception_jax.weights.convert import convert
from inception_jax.weights.hub.download import Record
from inception_jax.weights.published import cards
from inception_jax.weights.readers import Content, Statement, read_tensors
from tests.weights import synthetic
from tests.weights.test_files import tiny

NAME = "googlenet_torchvision"


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A file with the tensors of torchvision's GoogLeNet, aux heads and counters among them."""
    its = synthetic.lineage("torchvision", NAME)
    tensors = synthetic.tensors(its) | {"conv1.bn.num_batches_tracked": np.array(3)}
    path = tmp_path_factory.mktemp("published") / "googlenet.safetensors"
    path.write_bytes(safetensors.numpy.save(tensors, {"format": "pt"}))
    return path


@pytest.fixture
def card(published, monkeypatch, tmp_path):
    """A card of that file, by its true checksum; the folder of cards is empty."""
    digest = hashlib.sha256(published.read_bytes()).hexdigest()
    card = dataclasses.replace(
        cards.weight_card("torchvision/googlenet"),
        url=f"https://example.org/{published.name}",
        hashes=(f"sha256:{digest[:8]}",),
    )
    monkeypatch.setitem(cards.CARDS, card.id, card)
    monkeypatch.setenv(loading.FOLDER_VARIABLE, str(tmp_path))
    return card


def test_a_published_file_is_known_by_its_checksum(published, card):
    loaded = weights.load(published)
    assert loaded.info.model == NAME
    assert loaded.info.sha256 == hashlib.sha256(published.read_bytes()).hexdigest()
    assert loaded.info.preprocess == card.preprocess == inputs.SYMMETRIC_224  # not the zoo's own
    assert f"published as {card.id}" in loaded.report.notes
    assert loaded.report.dropped == ("conv1.bn.num_batches_tracked",)
    model = loaded.create_model()
    images = np.zeros((1, 224, 224, 3), np.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    assert jax.tree.map(np.shape, loaded.variables) == jax.tree.map(np.shape, shapes)


def test_a_card_by_its_id(published, card, tmp_path):
    with pytest.raises(
        UserError, match=rf"Download googlenet.safetensors \({card.hashes[0]}\) from https://.* put it at"
    ):
        weights.load(card.id)
    path = tmp_path / card.id / card.file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(published.read_bytes())
    loaded = weights.load(card.id, NAME, num_classes=5, aux=False)
    assert (loaded.info.source, loaded.info.num_classes, loaded.info.aux) == (card.id, 5, False)
    path.write_bytes(published.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match=r"cannot be verified: torchvision/googlenet is googlenet.*; this is sha256:"):
        weights.load(card.id)
    note = "unverified: taken as torchvision/googlenet, which is googlenet.safetensors"
    assert note in str(weights.load(card.id, unverified=True).report)


def test_an_unknown_file_needs_a_word(published):
    with pytest.raises(UserError, match=r"is none of the published files. unverified=True \(--unverified\) accepts it"):
        weights.load(published, NAME)
    loaded = weights.load(published, NAME, unverified=True)
    assert "unverified: no published file" in str(loaded.report)


def test_a_card_without_checksum(card, published, monkeypatch, tmp_path):
    monkeypatch.setitem(cards.CARDS, card.id, dataclasses.replace(card, hashes=()))
    path = tmp_path / card.id / card.file
    path.parent.mkdir(parents=True)
    path.write_bytes(published.read_bytes())
    with pytest.raises(UserError, match=r"torchvision/googlenet has no checksum\. unverified=True"):
        weights.load(card.id)
    loaded = weights.load(card.id, unverified=True)
    assert loaded.info.preprocess == card.preprocess
    assert "unverified: taken as torchvision/googlenet, which has no checksum" in str(loaded.report)
    assert "heads in the file are not trained" in str(loaded.report)


def test_a_card_without_checksum_that_was_downloaded(card, published, monkeypatch, tmp_path):
    """Its publisher sent it: it is accepted, and the report says whence it is."""
    monkeypatch.setitem(cards.CARDS, card.id, dataclasses.replace(card, hashes=()))
    path = tmp_path / card.id / card.file
    path.parent.mkdir(parents=True)
    path.write_bytes(published.read_bytes())
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    Record(card.url, "2026-01-01T00:00:00+00:00", sha256, "").write(path)
    model, _ = loaded = ij.load("googlenet_torchvision", aux=False)
    assert (model.num_classes, model.aux_heads) == (1000, {})
    assert loaded.info.sha256 == sha256
    assert (
        f"taken as {card.id}: no checksum is published; downloaded from {card.url} at 2026-01-01T00:00:00+00:00, "
        f"sha256 {sha256}" in loaded.report.notes
    )


def test_another_file_in_the_place_of_a_card(card, published, monkeypatch, tmp_path):
    """It has other outputs: the label offset of the card is not for it."""
    monkeypatch.setitem(cards.CARDS, card.id, dataclasses.replace(card, outputs=1001, label_offset=1))
    path = tmp_path / card.id / card.file
    path.parent.mkdir(parents=True)
    path.write_bytes(published.read_bytes())
    with pytest.raises(UserError, match="torchvision/googlenet has 1000 outputs; torchvision/googlenet has 1001"):
        weights.load(card.id, unverified=True)


def test_the_input_of_files_without_a_card(published):
    loaded = weights.load(published, NAME, unverified=True)
    assert loaded.info.preprocess == inputs.SYMMETRIC_224
    assert "no preprocessing is stated; that of torchvision is assumed" in str(loaded.report)
    mine = dataclasses.replace(inputs.IMAGENET, size=160)
    loaded = weights.load(published, NAME, unverified=True, preprocess=mine)
    assert loaded.info.preprocess == mine
    assert "taken to be" not in str(loaded.report)
    assert synthetic.lineage("facenet", "inception_resnet_v1").preprocess == inputs.FACES


def test_options_that_a_source_does_not_take(tmp_path):
    path = tmp_path / "ours.safetensors"
    weights.save(path, tiny())
    for options in ({"raw": True}, {"origin": "timm"}, {"preprocess": inputs.CIFAR}):
        for source in (path, tiny()):
            with pytest.raises(UserError, match="are for third-party files; this source states its own"):
                weights.load(source, **options)
    with pytest.raises(UserError, match="num_classes is -1; it must be at least 0"):
        weights.load(path, num_classes=-1)


def test_weights_with_arrays_missing():
    broken = tiny()
    del broken.variables["params"]["conv1"]["conv"]
    with pytest.raises(
        UserError, match=r"1 arrays of a test do not fit googlenet_cifar, .*params/conv1/conv/kernel: nothing"
    ):
        weights.load(broken)


def test_another_model_than_asked(published, card, tmp_path):
    with pytest.raises(UserError, match=r"carry none of the names of inception_v4 .* They fit googlenet_torchvision"):
        weights.load(published, "inception_v4", unverified=True, origin="timm")
    with pytest.raises(UserError, match=r"No model is called 'googlenet_torchvison'. Nearest: googlenet_torchvision"):
        weights.load(published, "googlenet_torchvison")
    ours = tmp_path / "ours.safetensors"
    weights.save(ours, tiny())
    with pytest.raises(UserError, match=r"ours.safetensors is of googlenet_cifar, not of inception_v3"):
        weights.load(ours, "inception_v3")


def test_our_own_files_and_weights_in_memory(tmp_path):
    path = tmp_path / "ours.safetensors"
    original = tiny()
    weights.save(path, original)
    loaded = weights.load(path, "googlenet_cifar")
    assert all(np.array_equal(loaded.flat()[name], array) for name, array in original.flat().items())
    again = weights.load(loaded, num_classes=3, reset_head=True)
    assert again.info.num_classes == 3
    assert again.create_model().num_classes == 3


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("missing.pth", r"missing.pth is no file and no id of published weights\.$"),
        ("timm/inception_v3.tf_in1", r"no id of published weights\. Nearest: timm/inception_v3.tf_in1k"),
        ("", r"A path is empty"),
        (".", r"\. is a folder; weights are a file, the id of a card, or a run with checkpoints/ in it"),
        ("~nosuch/x.pth", r"~nosuch/x.pth: .* is no user of this machine"),
        ("a\0b", r"a\\x00b is not a path: it holds a NUL"),
        ("x" * 300, "cannot be read: File name too long"),
        (7, "Weights come from a path or a Keras model, not from int 7"),
    ],
)
def test_sources_that_are_none(source, message):
    for unverified in (True, False):
        with pytest.raises(UserError, match=message):
            weights.load(source, unverified=unverified)


def test_files_of_keras(tmp_path):
    """Xception from an .h5 file as Keras 2 wrote it, numbered from wherever its session was."""
    its = synthetic.lineage("keras", "xception")
    tensors = synthetic.tensors(its, 4)
    path = tmp_path / "xception.h5"
    with h5py.File(path, "w") as file:
        layers = sorted({name.rpartition("/")[0] for name in tensors})
        file.attrs["layer_names"] = [layer.encode() for layer in layers]
        for layer in layers:
            names = [name for name in tensors if name.rpartition("/")[0] == layer]
            group = file.create_group(layer)
            group.attrs["weight_names"] = [f"{name}:0".encode() for name in names]
            for name in names:
                group[f"{name}:0"] = tensors[name]
    loaded = weights.load(path, "xception", unverified=True)
    back = weights.export(loaded, "keras")
    assert back.keys() == tensors.keys()
    assert all(np.array_equal(back[name], tensor) for name, tensor in tensors.items())


def test_archives_of_slim(tmp_path, monkeypatch):
    def pack(*names):
        path = tmp_path / "inception.tar.gz"
        with tarfile.open(path, "w:gz") as archive:
            for name in names:
                archive.addfile(tarfile.TarInfo(name), io.BytesIO(b""))
        return path

    seen = []
    content = Content({"a": np.ones(1)}, Statement())
    monkeypatch.setattr(loading, "read_content", lambda path: seen.append(path) or content)
    with pytest.raises(UserError, match="carry none of the names of any model"):
        weights.load(pack("train/../../inception_v3.ckpt", "README"), unverified=True)
    assert seen[0].name == "inception_v3.ckpt"
    assert not seen[0].exists()  # the folder it was unpacked in is gone
    assert not list(tmp_path.rglob("inception_v3.ckpt"))
    for names, words in (
        (["README"], "holds 0 checkpoints; it must hold one"),
        (["a.ckpt", "b.ckpt"], "holds 2 checkpoints; it must hold one"),
        (["a/x.ckpt", "b/x.ckpt"], "holds 'x.ckpt' twice"),
    ):
        with pytest.raises(UserError, match=f"inception.tar.gz .*{words}"):
            weights.load(pack(*names), unverified=True)
    (tmp_path / "inception.tar.gz").write_bytes(b"\x1f\x8b broken")
    with pytest.raises(UserError, match="cannot be unpacked"):
        weights.load(tmp_path / "inception.tar.gz", unverified=True)


def _linked(path):
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("make", [os.mkfifo, _linked])
@pytest.mark.parametrize("name", ["x.pth", "x.safetensors", "x.h5", "x.tar.gz", "x.ckpt"])
def test_what_is_no_regular_file_is_refused_at_once(tmp_path, make, name):
    """Opening a FIFO waits for a writer, and reading a device may never end."""
    make(tmp_path / name)
    with pytest.raises(UserError, match=f"{name} is no regular file but a FIFO, a socket or a device"):
        weights.load(tmp_path / name, unverified=True)
    assert not files.is_ours(tmp_path / "missing")
    for read in (files.is_ours, files.read, read_tensors, functools.partial(weights.compare, tiny())):
        with pytest.raises(UserError, match="is no regular file"):
            read(tmp_path / name)


def test_a_data_file_of_a_checkpoint_that_is_a_fifo(tmp_path):
    (tmp_path / "v3.ckpt.index").write_bytes(b"x")
    os.mkfifo(tmp_path / "v3.ckpt.data-00000-of-00001")
    with pytest.raises(UserError, match="data-00000-of-00001 is no regular file"):
        weights.load(tmp_path / "v3.ckpt", unverified=True)


def test_names_of_tensors_do_not_reach_a_terminal_raw(tmp_path):
    path = tmp_path / "x\x1b[2J.safetensors"
    path.write_bytes(safetensors.numpy.save({"conv1\n\x1b[31m.weight": np.ones(3, np.float32)}))
    with pytest.raises(UserError) as caught:
        weights.load(path, unverified=True)
    assert str(caught.value).isprintable()
    assert r"conv1\n\x1b[31m.weight" in str(caught.value)
    report = str(weights.Report(dropped=("a\nb\x1b[0m",), notes=("from x\x1b[2J",)))
    assert report.splitlines() == ["loaded 0 tensors", r"from x\x1b[2J", r"dropped 1: a\nb\x1b[0m"]


def test_values_are_looked_at_where_the_shape_fits(published):
    """A tensor of stride 0 may have any shape; looking for infinities in it takes its whole size."""

    class Huge(np.ndarray):
        def __array_ufunc__(self, *args, **kwargs):
            raise AssertionError("it was computed with")

    tensors = read_tensors(published)
    tensors["conv1.bn.running_var"] = np.broadcast_to(np.float32(1), (1 << 20, 1 << 20)).view(Huge)
    with pytest.raises(UserError, match=r"1 misshapen \(conv1.bn.running_var: \(1048576, 1048576\), not"):
        convert(tensors, synthetic.lineage("torchvision", NAME))


def test_only_an_id_is_downloaded(card, published, monkeypatch):
    import socket

    monkeypatch.setattr(socket, "socket", lambda *args, **kwargs: pytest.fail("a socket was opened"))
    weights.load(published)
    ij.create_model(NAME)
    with pytest.raises(UserError, match="is no file and no id"):
        weights.load("https://example.org/googlenet.safetensors")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(
        UserError, match=r"torchvision/googlenet is not downloaded, because HF_HUB_OFFLINE is set\. Dow"
    ):
        weights.load(card.id)


@pytest.fixture(scope="module")
def v3():
    its = synthetic.lineage("keras", "inception_v3_tf")
    tensors = synthetic.tensors(its, 4)
    variances = {name: np.abs(tensor) + 0.5 for name, tensor in tensors.items() if name.endswith("variance")}
    kernels = {
        name: tensor / np.sqrt(np.prod(tensor.shape[:-1]))
        for name, tensor in tensors.items()
        if name.endswith("kernel")
    }
    from inception_jax.weights.convert import convert

    return convert(tensors | variances | kernels, its)


def test_folding_the_preprocessing(v3):
    """Pixels in, the same maps out: compared behind the first convolution, where folding acts."""
    folded = weights.fold_preprocess(v3)
    assert folded.info.preprocess.mean == (0.0, 0.0, 0.0)
    assert folded.info.preprocess.size == 299
    pixels = np.random.default_rng(0).uniform(0, 255, (1, 80, 80, 3)).astype(np.float32)
    stem = v3.create_model(features_only=("Conv2d_1a_3x3",))
    read = lambda w, images: np.asarray(stem.apply(w.variables, images).endpoints["Conv2d_1a_3x3"])  # noqa: E731
    expected = read(v3, (pixels - 127.5) / 127.5)
    np.testing.assert_allclose(read(folded, pixels), expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert not np.allclose(read(v3, pixels), expected, atol=1e-2)


def test_folding_is_refused_where_the_first_convolution_pads():
    with pytest.raises(UserError, match="conv1 of googlenet_cifar pads its input: folding would"):
        weights.fold_preprocess(tiny())


@pytest.mark.usefixtures("short_network")
def test_comparing_with_a_dump(tmp_path):
    original = tiny("short")
    model = original.create_model(aux=False)
    images = np.random.default_rng(0).standard_normal((2, 16, 16, 3)).astype(np.float32)
    output = jax.jit(model.apply)(original.variables, images)
    dump = tmp_path / "dump.npz"
    taps = {name: np.asarray(output.endpoints[name]) for name in ("conv1", "pool3", "5b")}
    np.savez(dump, images=images, logits=np.asarray(output.logits), **taps)
    assert [(d.endpoint, d.diverges) for d in weights.compare(original, dump)] == [
        *((name, False) for name in ("conv1", "pool3", "5b", "logits")),
    ]
    changed = weights.load(original)
    changed.variables["params"]["inception_4a"]["branch1_0"]["conv"]["kernel"] += 0.1
    found = weights.compare(changed, dump)
    assert [(d.endpoint, d.diverges) for d in found] == [
        ("5b", True),
        ("logits", True),
        ("conv1", False),
        ("pool3", False),
    ]
    assert found[0].difference > 1e-3 > 1e-6 > found[2].difference

    for contents, message in (
        ({"logits": taps["5b"]}, "must hold `images` and at least one endpoint"),
        ({"images": images}, "must hold `images` and at least one endpoint"),
        ({"images": images, "3c": taps["5b"]}, "names 3c; short has conv1, pool3, 4a, 5b, logits"),
        ({"images": images[..., 0], "5b": taps["5b"]}, r"images of .* are float32\[2, 16, 16\]; they must be floats"),
        ({"images": images[:, :0, :0], "5b": taps["5b"]}, "images of .*: short reads images of at least"),
        ({"images": images[:0], "5b": taps["5b"]}, r"are float32\[0, 16, 16, 3\]"),
        (
            {"images": images, "5b": taps["conv1"]},
            r"5b of .* is \(2, 16, 16, 16\); the network has \(2, 8, 8",
        ),
    ):
        np.savez(dump, **contents)
        with pytest.raises(UserError, match=message):
            weights.compare(original, dump)
    dump.write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"dump.npz is no .npz file of plain arrays"):
        weights.compare(original, dump)
