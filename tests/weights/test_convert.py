"""Tensors of originals become ours: nothing is lost, left over or guessed. The originals themselves: tests/parity."""

import numpy as np
import pytest

from inception_jax.errors import UserError
from inception_jax.weights.convert import convert, export
from inception_jax.weights.recognition import find_lineage
from tests.weights import synthetic
from tests.weights.synthetic import GOOGLENET


def test_round_trip(tensors, weights):
    back = export(weights, "torchvision")
    counters = {name for name in back if name.endswith("num_batches_tracked")}
    assert back.keys() - counters == tensors.keys()
    assert len(counters) == 59
    assert all(np.array_equal(back[name], tensor) for name, tensor in tensors.items())
    assert weights.info.num_classes == 1000
    assert weights.info.aux
    assert "loaded 305 tensors" in str(weights.report)


def test_gray_counters_are_left_behind(tensors):
    with_counters = tensors | {"conv1.bn.num_batches_tracked": np.array(7)}
    report = convert(with_counters, GOOGLENET).report
    assert report.dropped == ("conv1.bn.num_batches_tracked",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("conv2.bn.bias"), r"1 missing \(conv2.bn.bias\)"),
        (lambda t: t.update({"conv9.conv.weight": np.ones(3, np.float32)}), r"1 left over \(conv9.conv.weight\)"),
        (
            lambda t: t.update({"conv3.conv.weight": t["conv3.conv.weight"].swapaxes(0, 1)}),
            r"1 misshapen \(conv3.conv.weight: \(64, 192, 3, 3\), not \(192, 64, 3, 3\)\)",
        ),
        (lambda t: t.update({"fc.bias": np.full(1000, np.nan, np.float32)}), r"1 not finite \(fc.bias\)"),
        (lambda t: t.update({"fc.weight": np.ones((1000, 1024), np.int8)}), r"1 not finite \(fc.weight\)"),
        (lambda t: t["conv1.bn.running_var"].__setitem__(3, -1), r"1 negative \(conv1.bn.running_var\)"),
        (lambda t: t.pop("aux1.fc1.weight"), r"1 missing \(aux1.fc1.weight\)"),
    ],
)
def test_strict(tensors, change, message):
    changed = {name: tensor.copy() if name == "conv1.bn.running_var" else tensor for name, tensor in tensors.items()}
    change(changed)
    with pytest.raises(UserError, match=message):
        convert(changed, GOOGLENET, source="googlenet.pth")


def test_swapped_names_of_one_shape_do_not_pass_unnoticed(tensors, weights):
    """Shapes agree, so only the numbers can tell: what was stored under a name arrives at its module."""
    a, b = "inception4b.branch3.0.conv.weight", "inception4c.branch3.0.conv.weight"
    swapped = convert(tensors | {a: tensors[b], b: tensors[a]}, GOOGLENET)
    kernel = lambda w, block: w.variables["params"][f"inception_{block}"]["branch3_0"]["conv"]["kernel"]  # noqa: E731
    np.testing.assert_array_equal(kernel(swapped, "4b"), kernel(weights, "4c"))
    assert not np.array_equal(kernel(swapped, "4b"), kernel(weights, "4b"))


def test_weights_of_a_relative_are_refused_by_name(tensors):
    with pytest.raises(UserError, match=r"They fit googlenet_torchvision \(from torchvision\)"):
        find_lineage(tensors, "inception_v3_tf", None)
    v3 = synthetic.lineage("timm", "inception_v3")
    with pytest.raises(UserError, match=r"cannot be inception_v3 of timm: .* They fit googlenet_torchvision"):
        convert(tensors, v3, source="file.pth")


def test_the_model_must_be_named_where_several_fit():
    v3 = synthetic.tensors(synthetic.lineage("pytorch_fid", "inception_v3_fid"), 1008)
    with pytest.raises(UserError, match="fit inception_v3 and inception_v3_fid: name the model"):
        find_lineage(v3, None, None)
    assert find_lineage(v3, "inception_v3_fid", None).origin == "pytorch_fid"
    with pytest.raises(UserError, match="No files of keras are known for googlenet; known: caffe"):
        find_lineage(v3, "googlenet", "keras")


@pytest.mark.parametrize(("outputs", "label_offset", "classes"), [(1000, 0, 1000), (1001, 1, 1000), (1008, 0, 1008)])
def test_background_class(outputs, label_offset, classes):
    """The class that fires in the source has the same label here, whether or not the source counts its background."""
    its = synthetic.lineage("slim", "inception_v1_slim")
    tensors = synthetic.tensors(its, outputs)
    label = 321
    tensors["InceptionV1/Logits/Conv2d_0c_1x1/biases"][:] = 0
    tensors["InceptionV1/Logits/Conv2d_0c_1x1/biases"][label + label_offset] = 1
    weights = convert(tensors, its)
    assert weights.variables["params"]["classifier"]["linear"]["bias"].argmax() == label
    assert weights.variables["params"]["classifier"]["linear"]["kernel"].shape == (1024, classes)
    assert (weights.info.label_offset, weights.info.num_classes) == (label_offset, classes)


def test_1001_classes_of_ones_own():
    """Only TF-slim, and Cadene's copies of it, count a background."""
    assert convert(synthetic.tensors(GOOGLENET, 1001, aux=False), GOOGLENET).info.num_classes == 1001


def test_filled_gains_do_not_go_back():
    its = synthetic.lineage("slim", "inception_v4")
    tensors = {n: t for n, t in synthetic.tensors(its, 20).items() if not n.endswith("/gamma")}
    weights = convert(tensors, its)
    assert export(weights, "slim").keys() == tensors.keys()
    scale = weights.variables["params"]["Conv2d_1a_3x3"]["bn"]["scale"]
    scale[0] = 2  # it has learned
    assert export(weights, "slim").keys() - tensors.keys() == {"InceptionV4/Conv2d_1a_3x3/BatchNorm/gamma"}


def test_raw_outputs():
    its = synthetic.lineage("slim", "inception_v1_slim")
    raw = convert(synthetic.tensors(its, 1001), its, label_offset=0)
    assert raw.info.num_classes == 1001


def test_gains_that_the_source_lacks():
    its = synthetic.lineage("slim", "inception_v4")
    model = synthetic.model_of(its, 20)
    tensors = {
        slot.name: np.ones(slot.their_shape, np.float32) for slot in its.slots(model) if slot.path[-1] != "scale"
    }
    weights = convert(tensors, its)
    assert len(weights.info.filled) == 149 + 2
    assert "Mixed_7d/branch1_0/bn/scale" not in weights.info.filled  # it is a module of ours: inception_Mixed_7d
    assert "inception_Mixed_7d/branch1_0/bn/scale" in weights.info.filled
    assert all((weights.flat()[f"params/{name}"] == 1).all() for name in weights.info.filled)
    scale = "InceptionV4/Conv2d_1a_3x3/BatchNorm/gamma"
    with pytest.raises(UserError, match="150 missing"):  # one scale: then the others are missing
        convert(tensors | {scale: np.ones(32, np.float32)}, its)


def test_gains_that_the_model_lacks():
    """TF-slim can learn scales; then the network has them, too."""
    its = synthetic.lineage("slim", "inception_v1_slim")
    plain = synthetic.tensors(its, 7)
    scales = {
        name.replace("beta", "gamma"): np.full(tensor.shape, 1.5, np.float32)
        for name, tensor in plain.items()
        if name.endswith("beta")
    }
    weights = convert(plain | scales, its)
    assert weights.info.numerics.norm.scale
    assert weights.variables["params"]["Conv2d_1a_7x7"]["bn"]["scale"][0] == 1.5


def test_blue_first_becomes_red_first():
    its = synthetic.lineage("caffe", "googlenet")
    tensors = synthetic.tensors(its, 5)
    kernel = convert(tensors, its).variables["params"]["conv1"]["conv"]["kernel"]
    np.testing.assert_array_equal(kernel, tensors["conv1/7x7_s2/0"][:, ::-1].transpose(2, 3, 1, 0))
    assert not np.array_equal(kernel, tensors["conv1/7x7_s2/0"].transpose(2, 3, 1, 0))


def test_old_caffe_shapes():
    its = synthetic.lineage("caffe", "googlenet")
    tensors = synthetic.tensors(its, 5)
    old = {name: t if t.ndim == 4 else t.reshape((1,) * (4 - t.ndim) + t.shape) for name, t in tensors.items()}
    for ours, theirs in zip(convert(tensors, its).flat().values(), convert(old, its).flat().values(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_keras_counts_from_any_number():
    its = synthetic.lineage("keras", "xception")
    tensors = synthetic.tensors(its, 5)
    later = {
        name.replace("conv2d_", "conv2d_9").replace("batch_normalization_1/", "batch_normalization/"): tensor
        for name, tensor in tensors.items()
    }
    assert later.keys() != tensors.keys()
    for ours, theirs in zip(convert(tensors, its).flat().values(), convert(later, its).flat().values(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_export_refuses_what_the_origin_does_not_have(weights):
    with pytest.raises(UserError, match=r"keras has no googlenet_torchvision; .* can be exported to: torchvision"):
        export(weights, "keras")
    its = synthetic.lineage("slim", "inception_v4")
    v4 = convert(synthetic.tensors(its, 5), its)
    with pytest.raises(UserError, match="timm does not have aux_Mixed_6h of inception_v4"):
        export(v4, "timm")
