"""Graphs in files against what runs them: frozen TensorFlow graphs, TorchScript, and ONNX by onnxruntime."""

import dataclasses
import json
import warnings

import jax
import numpy as np
import onnx
import onnxruntime
import pytest

from inception_jax import weights
from inception_jax.errors import UserError
from inception_jax.inference.export_onnx import onnx_model
from inception_jax.models import spec, zoo
from tests.parity import fid_files, originals
from tests.parity.onnx_zoo import ZooGraph
from tests.selection import cases
from tests.weights.test_files import tiny
from tests.weights.test_fuzz import check, fuzz

pytestmark = [
    pytest.mark.parity,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]
TOLERANCE = 1e-5


def _images(height, width, batch=1):
    return np.random.default_rng(height).standard_normal((batch, height, width, 3)).astype(np.float32)


def _nchw(images):
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def _run(loaded, images):
    return jax.jit(loaded.create_model().apply)(loaded.variables, images)


# ---- The network of the FID -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fid(torch):
    """Returns pytorch-fid's network with random weights, of which the scales are one, and its state."""
    net = originals.torch_original(torch, "pytorch_fid:", 1008)
    with torch.no_grad():
        for key, tensor in net.state_dict().items():
            if key.endswith("bn.weight"):
                tensor.fill_(1)
    return net, originals.state_of(net)


def _write_graph(torch, state, path):
    path.write_bytes(fid_files.graph_def(state))


def _write_scripted(torch, state, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fid_files.scripted(torch, state).save(str(path))


@pytest.mark.parametrize(
    ("origin", "name", "write", "dropped"),
    [
        ("tf_2015", "classify_image_graph_def.pb", _write_graph, 0),
        ("stylegan2_ada", "inception-2015-12-05.pt", _write_scripted, 0),
    ],
)
def test_files_of_the_fid(torch, record, tmp_path, fid, origin, name, write, dropped):
    net, state = fid
    write(torch, state, tmp_path / name)
    loaded = weights.load(tmp_path / name, unverified=True)  # names alone tell which it is
    assert loaded.info.model == "inception_v3_fid"
    assert len(loaded.report.dropped) == dropped
    assert len(loaded.info.filled) == 94  # the scales that no such file has
    assert loaded.info.preprocess.mean == loaded.info.preprocess.std == (128.0, 128.0, 128.0)
    images = _images(299, 299)
    with torch.no_grad(), originals.inputs_of(net.fc) as pooled:
        logits = net(torch.from_numpy(_nchw(images))).numpy()
    found = _run(loaded, images)
    check = record("inception_v3_fid", "eval", "1x299x299 f32")
    check(f"{origin}: logits", found.logits, logits, TOLERANCE)
    check(f"{origin}: pooled", found.pooled, pooled[0], TOLERANCE)
    back = weights.export(loaded, origin)
    assert len(back) == 94 * 4 + 2


def test_another_epsilon_is_taken_from_the_graph(torch, tmp_path, fid):
    path = tmp_path / "x.pb"
    data = fid_files.graph_def(fid[1])
    path.write_bytes(data.replace(np.float32(0.001).tobytes(), np.float32(0.01).tobytes()))
    loaded = weights.load(path, unverified=True)
    assert loaded.info.numerics.norm.epsilon == 0.01
    assert "the epsilon of its batch norms is 0.01" in loaded.report.notes


# ---- ONNX -----------------------------------------------------------------------------------------------------------


def _logits_by_onnxruntime(path, images, output):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run([output], {session.get_inputs()[0].name: images})[0]


ZOO = {  # name in the ONNX Model Zoo: our model, and how the graph is written
    "googlenet": ("googlenet", {"norm": False}),
    "inception-v1": ("googlenet", {"norm": False, "rounds_up": False}),
    "inception-v2": ("bn_inception", {"norm": True}),
    "inception-v2, counting": ("bn_inception", {"norm": True, "counts_padding": True, "seed": 1}),
}


@pytest.mark.parametrize("name", ZOO)
def test_the_model_zoo(record, tmp_path, name):
    model, settings = ZOO[name]
    graph = ZooGraph(zoo.model_card(model).table, 224, 20, **settings)
    path = tmp_path / f"{name}.onnx"
    onnx.save(graph.model(224), path)
    loaded = weights.load(path, unverified=True)
    assert loaded.info.model == model
    assert loaded.info.num_classes == 20
    assert loaded.info.numerics.pool_same == ("ceil" if settings.get("rounds_up", True) else "floor")
    images = _images(224, 224)
    expected = _logits_by_onnxruntime(path, _nchw(images[..., ::-1]), graph.logits)  # its kernels read BGR
    record(model, "eval", "1x224x224 f32")(f"onnxruntime: {name}", _run(loaded, images).logits, expected, TOLERANCE)


EXPORTED = (  # original, our model, image size
    ("torchvision:googlenet", "googlenet_torchvision", 224),
    ("torchvision:", "inception_v3", 299),
    ("timm:inception_v4", "inception_v4", 299),
    ("timm:inception_resnet_v2", "inception_resnet_v2", 299),
    ("timm:legacy_xception", "xception_timm", 299),
    ("pytorch_fid:", "inception_v3_fid", 299),
    ("facenet_pytorch:", "inception_resnet_v1", 160),
)


@pytest.mark.parametrize(
    ("original", "model", "size", "folded"),
    cases(
        [*((*each, True) for each in EXPORTED), *((*each, False) for each in (EXPORTED[0], EXPORTED[-1]))],
        fast=[(*EXPORTED[0], True), (*EXPORTED[0], False)],
    ),
)
def test_exports_of_pytorch(torch, record, tmp_path, original, model, size, folded):
    classes = 1008 if model == "inception_v3_fid" else 20
    net = originals.torch_original(torch, original, classes)
    images = _images(size, size)
    path = tmp_path / "x.onnx"
    training = torch.onnx.TrainingMode.EVAL if folded else torch.onnx.TrainingMode.PRESERVE
    x = torch.from_numpy(_nchw(images))
    torch.onnx.export(net, (x,), str(path), dynamo=False, training=training, do_constant_folding=folded)
    operators = {node.op_type for node in onnx.load(path).graph.node}
    assert "BatchNormalization" not in operators or not folded or "facenet" in original
    loaded = weights.load(path, unverified=True)
    assert loaded.info.model == model
    with torch.no_grad():
        expected = net(x).numpy()
    found = _run(loaded, images)
    how = "folded" if folded else "not folded"
    record(model, "eval", f"1x{size}x{size} f32")(f"{original} .onnx, {how}", found.logits, expected, TOLERANCE)


HIDDEN = spec.Head((spec.Conv(16, norm=False), spec.Conv(24)))
FACE = spec.Head((spec.Conv(16, relu=False),), embedding=True)


@pytest.mark.parametrize(
    ("name", "head"),
    [
        *(
            (name, spec.NO_HEAD)
            for name in ("googlenet", "googlenet_cifar", "inception_v3", "inception_v2", "xception")
        ),
        ("googlenet_cifar", HIDDEN),
        ("googlenet_cifar", FACE),
    ],
)
def test_our_own(record, tmp_path, name, head):
    """Metadata say which model it is; kernels that were merged come apart."""
    source = weights.adapt(tiny(name, head=head), aux=False)
    path = tmp_path / "x.onnx"
    onnx.save(onnx_model(source), path)
    loaded = weights.load(path, unverified=True)
    same = {"sha256": source.info.sha256, "numerics": source.info.numerics, "filled": source.info.filled}
    assert dataclasses.replace(loaded.info, **same) == source.info
    images = _images(source.info.preprocess.size, source.info.preprocess.size, 2)
    found, expected = (_run(each, images) for each in (loaded, source))
    for output in ("logits", "embedding") if head.embedding else ("logits",):
        pair = (np.asarray(getattr(each, output)) for each in (found, expected))
        record(name, "eval", "2 images f32")(f"our own .onnx: {output}", *pair, TOLERANCE)


def _edited(path, edit):
    model = onnx.load(path)
    edit(model)
    path.write_bytes(model.SerializeToString())


def _node(model, op, index=0):
    return [node for node in model.graph.node if node.op_type == op][index]


def _set(node, **attributes):
    for name, value in attributes.items():
        for each in [each for each in node.attribute if each.name == name]:
            node.attribute.remove(each)
        node.attribute.append(onnx.helper.make_attribute(name, value))


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda m: _set(_node(m, "MaxPool", 1), kernel_shape=[2, 2]), "operator 10 of its graph is max 2x2"),
        (lambda m: _set(_node(m, "Conv", 5), pads=[0, 0, 0, 0]), r"operator \d+ of its graph is conv 128x96x3x3"),
        (
            lambda m: setattr(_node(m, "Relu", 3), "op_type", "Sigmoid"),
            "has the operator Sigmoid, which these networks",
        ),
        (lambda m: _set(_node(m, "LRN"), alpha=0.1), "operator 4 of its graph is lrn"),
        (lambda m: setattr(m.graph.initializer[0], "data_location", 1), "lies in another file"),
        (lambda m: m.graph.initializer[0].dims.append(1 << 40), "claims the shape|no kernel of images"),
        (lambda m: m.graph.initializer.pop(0), "is no constant"),
        (lambda m: m.graph.node.pop(5), r"operator \d+ of its graph|no constant|no place"),
    ],
)
def test_graphs_that_are_something_else(tmp_path, edit, words):
    path = tmp_path / "x.onnx"
    onnx.save(ZooGraph(zoo.model_card("googlenet").table, 224, 20, norm=False).model(224), path)
    _edited(path, edit)
    with pytest.raises(UserError, match=words) as caught:
        weights.load(path, unverified=True)
    assert "\n" not in str(caught.value)


def test_what_changes_the_images_must_be_stated(torch, tmp_path):
    """The normalisation in torchvision's network becomes operators of the graph."""
    net = originals.torch_original(torch, "torchvision:", 20)
    net.transform_input = True
    path = tmp_path / "x.onnx"
    images = _images(299, 299)
    x = torch.from_numpy(_nchw(images))
    torch.onnx.export(net, (x,), str(path), dynamo=False)
    with pytest.raises(UserError, match=r"operators .*Mul.* change the images before .* State its preprocessing"):
        weights.load(path, unverified=True)
    loaded = weights.load(path, unverified=True, preprocess="inception")
    net.transform_input = False
    with torch.no_grad():
        expected = net(x).numpy()
    np.testing.assert_allclose(_run(loaded, images).logits, expected, rtol=0, atol=TOLERANCE * np.abs(expected).max())


def test_a_graph_of_ours_with_other_metadata(tmp_path):
    path = tmp_path / "x.onnx"
    made = onnx_model(weights.adapt(tiny("googlenet_cifar"), aux=False))
    entry = next(each for each in made.metadata_props if each.key == "info")
    entry.value = json.dumps(json.loads(entry.value) | {"width": 0.5})
    onnx.save(made, path)
    with pytest.raises(UserError, match="is not the graph of its metadata: operator 1 is conv"):
        weights.load(path, unverified=True)


@pytest.mark.slow
def test_mutations_are_read_or_refused_in_one_line(tmp_path):
    path = tmp_path / "x.onnx"
    onnx.save(onnx_model(weights.adapt(tiny("googlenet_cifar", width=0.05), aux=False)), path)
    check(fuzz(path, "onnx"))
