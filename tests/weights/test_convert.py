"""Tensors of originals become ours: nothing is lost, left over or guessed. The originals themselves: tests/parity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import inception_jax as ij
from inception_jax.errors import UserError
from inception_jax.models import zoo
from inception_jax.weights.convert import convert, export, find_lineage
from inception_jax.weights.fitting import adapt
from inception_jax.weights.lineages import LINEAGES
from tests.weights import synthetic
from tests.weights.test_files import tiny

GOOGLENET = synthetic.lineage("torchvision", "googlenet_torchvision")


@pytest.fixture(scope="module")
def tensors():
    return synthetic.tensors(GOOGLENET)


@pytest.fixture(scope="module")
def weights(tensors):
    return convert(tensors, GOOGLENET, source="googlenet.pth")


@pytest.mark.parametrize(
    ("origin", "model", "names"),
    [
        (
            "torchvision",
            "googlenet_torchvision",
            "conv1.conv.weight conv3.bn.running_var inception3a.branch1.conv.weight inception4e.branch2.0.bn.weight "
            "inception5b.branch3.1.bn.running_mean inception3b.branch4.1.conv.weight aux1.conv.conv.weight "
            "aux1.fc1.bias aux2.fc2.weight fc.bias",
        ),
        (
            "timm",
            "inception_v4",
            "features.0.conv.weight features.3.conv.conv.weight features.4.branch0.1.bn.bias "
            "features.4.branch1.3.conv.weight features.5.conv.bn.weight features.6.branch3.1.conv.weight "
            "features.10.branch1.2.conv.weight features.11.branch2.4.conv.weight features.18.branch1.3.conv.weight "
            "features.19.branch1_1b.conv.weight features.21.branch2_3a.bn.weight last_linear.weight",
        ),
        (
            "timm",
            "inception_resnet_v2",
            "conv2d_1a.conv.weight mixed_5b.branch1.1.conv.weight repeat.0.branch2.2.conv.weight "
            "repeat.9.conv2d.bias mixed_6a.branch1.2.bn.weight repeat_1.19.branch1.0.conv.weight "
            "mixed_7a.branch2.2.conv.weight repeat_2.8.conv2d.weight block8.branch1.2.conv.weight "
            "conv2d_7b.bn.running_var classif.bias",
        ),
        (
            "timm",
            "xception_timm",
            "conv1.weight bn2.running_mean block1.rep.0.conv1.weight block1.rep.4.weight block2.rep.1.pointwise.weight "
            "block2.rep.5.bias block7.rep.8.running_var block12.skipbn.weight block3.skip.weight conv3.conv1.weight "
            "conv4.pointwise.weight bn4.bias fc.weight",
        ),
        (
            "cadene",
            "bn_inception",
            "conv1_7x7_s2.weight conv1_7x7_s2.bias conv1_7x7_s2_bn.running_var conv2_3x3_reduce_bn.weight "
            "inception_3a_double_3x3_2.bias inception_3c_3x3_reduce.weight inception_3c_double_3x3_2_bn.bias "
            "inception_5b_pool_proj.weight last_linear.bias",
        ),
        (
            "caffe",
            "googlenet",
            "conv1/7x7_s2/0 conv2/3x3_reduce/1 inception_3a/pool_proj/0 inception_5b/5x5_reduce/1 loss1/conv/0 "
            "loss2/fc/1 loss3/classifier/0",
        ),
        (
            "slim",
            "inception_v1_slim",
            "InceptionV1/Conv2d_1a_7x7/weights InceptionV1/Conv2d_2c_3x3/BatchNorm/moving_variance "
            "InceptionV1/Mixed_3b/Branch_2/Conv2d_0b_3x3/weights InceptionV1/Mixed_5b/Branch_2/Conv2d_0a_3x3/weights "
            "InceptionV1/Mixed_5c/Branch_3/Conv2d_0b_1x1/BatchNorm/beta InceptionV1/Logits/Conv2d_0c_1x1/biases",
        ),
        (
            "slim",
            "inception_v2",
            "InceptionV2/Conv2d_1a_7x7/depthwise_weights InceptionV2/Conv2d_1a_7x7/pointwise_weights "
            "InceptionV2/Conv2d_1a_7x7/biases InceptionV2/Mixed_4a/Branch_0/Conv2d_1a_3x3/weights "
            "InceptionV2/Mixed_5a/Branch_1/Conv2d_0b_3x3/weights InceptionV2/Mixed_5c/Branch_2/Conv2d_0c_3x3/weights "
            "InceptionV2/Logits/Conv2d_1c_1x1/weights",
        ),
        (
            "slim",
            "inception_v3_tf",
            "InceptionV3/Conv2d_4a_3x3/weights InceptionV3/Mixed_5b/Branch_1/Conv2d_0b_5x5/weights "
            "InceptionV3/Mixed_5c/Branch_1/Conv2d_0b_1x1/weights InceptionV3/Mixed_5c/Branch_1/Conv_1_0c_5x5/weights "
            "InceptionV3/Mixed_6a/Branch_0/Conv2d_1a_1x1/weights InceptionV3/Mixed_6a/Branch_1/Conv2d_1a_1x1/weights "
            "InceptionV3/Mixed_6e/Branch_2/Conv2d_0e_1x7/weights InceptionV3/Mixed_7a/Branch_1/Conv2d_1a_3x3/weights "
            "InceptionV3/Mixed_7b/Branch_1/Conv2d_0b_1x3/weights InceptionV3/Mixed_7b/Branch_1/Conv2d_0b_3x1/weights "
            "InceptionV3/Mixed_7b/Branch_2/Conv2d_0d_3x1/weights InceptionV3/Mixed_7c/Branch_1/Conv2d_0c_3x1/weights "
            "InceptionV3/AuxLogits/Conv2d_2b_1x1/biases InceptionV3/AuxLogits/Conv2d_2a_5x5/BatchNorm/beta",
        ),
        (
            "slim",
            "inception_v4",
            "InceptionV4/Mixed_3a/Branch_1/Conv2d_0a_3x3/weights InceptionV4/Mixed_4a/Branch_1/Conv2d_1a_3x3/weights "
            "InceptionV4/Mixed_5a/Branch_0/Conv2d_1a_3x3/weights InceptionV4/Mixed_7d/Branch_2/Conv2d_0e_3x1/weights "
            "InceptionV4/AuxLogits/Conv2d_2a/weights InceptionV4/AuxLogits/Aux_logits/biases "
            "InceptionV4/Logits/Logits/weights",
        ),
        (
            "slim",
            "inception_resnet_v2",
            "InceptionResnetV2/Mixed_5b/Branch_0/Conv2d_1x1/weights "
            "InceptionResnetV2/Repeat/block35_1/Branch_0/Conv2d_1x1/weights "
            "InceptionResnetV2/Repeat/block35_10/Conv2d_1x1/biases "
            "InceptionResnetV2/Repeat_1/block17_20/Branch_1/Conv2d_0c_7x1/weights "
            "InceptionResnetV2/Mixed_6a/Branch_0/Conv2d_1a_3x3/weights "
            "InceptionResnetV2/Repeat_2/block8_9/Branch_1/Conv2d_0b_1x3/weights "
            "InceptionResnetV2/Block8/Conv2d_1x1/weights InceptionResnetV2/Conv2d_7b_1x1/weights "
            "InceptionResnetV2/AuxLogits/Logits/weights",
        ),
        (
            "keras",
            "inception_resnet_v2",
            "conv2d_1/kernel conv2d_203/kernel batch_normalization_203/beta block35_10_conv/bias block17_1_conv/kernel "
            "block8_10_conv/kernel conv_7b/kernel conv_7b_bn/moving_mean predictions/bias",
        ),
        (
            "keras",
            "xception",
            "block1_conv1/kernel block1_conv2_bn/gamma block2_sepconv1/depthwise_kernel "
            "block14_sepconv2/pointwise_kernel conv2d_4/kernel batch_normalization_4/moving_variance "
            "predictions/kernel",
        ),
        (
            "keras1",
            "xception",
            "convolution2d_2/kernel convolution2d_6/kernel separableconvolution2d_1/depthwise_kernel "
            "separableconvolution2d_34/pointwise_kernel batchnormalization_40/gamma dense_2/bias",
        ),
    ],
)
def test_names_of_the_originals(origin, model, names):
    its = synthetic.lineage(origin, model)
    found = [slot.name for slot in its.slots(synthetic.model_of(its, 1000))]
    assert len(found) == len(set(found))
    assert set(names.split()) <= set(found)


def test_every_lineage_is_reachable():
    assert len({(x.origin, x.model) for x in LINEAGES}) == len(LINEAGES)
    assert {x.model for x in LINEAGES} <= set(ij.list_models())


def test_layouts_by_hand():
    """One number of each kind of tensor, found again where it belongs."""
    slots = {slot.name: slot for slot in GOOGLENET.slots(synthetic.model_of(GOOGLENET, 10))}
    for name, theirs, ours in (
        ("conv1.conv.weight", (5, 2, 6, 1), (6, 1, 2, 5)),
        ("fc.weight", (9, 1000), (1000, 9)),
        ("aux1.fc1.weight", (7, 3 * 16 + 2 * 4 + 1), ((2 * 4 + 1) * 128 + 3, 7)),  # channel 3, row 2, column 1
        ("conv1.bn.running_var", (63,), (63,)),
    ):
        slot = slots[name]
        tensor = np.zeros(slot.their_shape, np.float32)
        tensor[theirs] = 1
        assert slot.to_ours(tensor)[ours] == 1, name
        np.testing.assert_array_equal(slot.to_theirs(slot.to_ours(tensor)), tensor)
    slim = synthetic.lineage("slim", "inception_v2")
    slots = {slot.name: slot for slot in slim.slots(synthetic.model_of(slim, 10))}
    slot = slots["InceptionV2/Conv2d_1a_7x7/depthwise_weights"]
    tensor = np.zeros((7, 7, 3, 8), np.float32)
    tensor[1, 2, 2, 5] = 1  # multiplier 5 of channel 2
    assert slot.to_ours(tensor)[1, 2, 0, 2 * 8 + 5] == 1
    assert slots["InceptionV2/Logits/Conv2d_1c_1x1/weights"].their_shape == (1, 1, 1024, 10)


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
    gain = weights.variables["params"]["Conv2d_1a_3x3"]["bn"]["scale"]
    gain[0] = 2  # it has learned
    assert export(weights, "slim").keys() - tensors.keys() == {"InceptionV4/Conv2d_1a_3x3/BatchNorm/gamma"}


def test_heads_that_a_model_does_not_have():
    its = synthetic.lineage("keras", "xception")
    adapted = adapt(convert(synthetic.tensors(its, 4), its), aux=True)
    assert "xception has no auxiliary heads" in str(adapted.report)


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
    gain = "InceptionV4/Conv2d_1a_3x3/BatchNorm/gamma"
    with pytest.raises(UserError, match="150 missing"):  # one gain: then the others are missing
        convert(tensors | {gain: np.ones(32, np.float32)}, its)


def test_gains_that_the_model_lacks():
    """TF-slim can learn gains; then the network has them, too."""
    its = synthetic.lineage("slim", "inception_v1_slim")
    plain = synthetic.tensors(its, 7)
    gains = {
        name.replace("beta", "gamma"): np.full(tensor.shape, 1.5, np.float32)
        for name, tensor in plain.items()
        if name.endswith("beta")
    }
    weights = convert(plain | gains, its)
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


def test_keras_1_makes_shortcuts_first():
    its = synthetic.lineage("keras1", "xception")
    slots = {
        "/".join(slot.path[1:-1]): slot.name
        for slot in its.slots(synthetic.model_of(its, 5))
        if slot.path[-1] == "mean"
    }
    assert slots["block2/shortcut/bn"] == "batchnormalization_3/moving_mean"
    assert [slots[f"block2/rows_{j}/bn"] for j in (0, 1)] == [f"batchnormalization_{i}/moving_mean" for i in (4, 5)]
    assert slots["block13/shortcut/bn"] == "batchnormalization_36/moving_mean"
    assert slots["block14_sepconv2/bn"] == "batchnormalization_40/moving_mean"


def test_another_number_of_classes(weights):
    adapted = adapt(weights, num_classes=7, seed=3)
    assert adapted.info.num_classes == 7
    assert set(adapted.report.reinitialised) == {
        f"params/{head}/linear/{leaf}"
        for head in ("classifier", "aux_4a/classifier", "aux_4d/classifier")
        for leaf in ("kernel", "bias")
    }
    model = zoo.create_model("googlenet_torchvision", 7)
    shapes = jax.eval_shape(model.init, jax.random.key(3), jnp.zeros((1, 224, 224, 3)))
    assert jax.tree.map(np.shape, adapted.variables) == jax.tree.map(np.shape, shapes)
    old, new, other = weights.flat(), adapted.flat(), adapt(weights, num_classes=7, seed=4).flat()
    kernel = "params/classifier/linear/kernel"
    assert new[kernel].std() == pytest.approx(0.01, rel=0.05)  # as torchvision initialises it
    assert not np.array_equal(new[kernel], other[kernel])
    assert all(np.array_equal(new[name], old[name]) for name in adapted.report.loaded)
    assert len(adapted.report.loaded) == 305 - 6


def test_heads_leave_and_come(weights):
    bare = adapt(weights, aux=False)
    assert not bare.info.aux
    assert all("/aux_" in name for name in bare.report.dropped)
    assert len(bare.report.dropped) == 2 * 9
    again = adapt(bare, aux=True)
    assert {name.split("/")[1] for name in again.report.reinitialised} == {"aux_4a", "aux_4d"}
    assert again.flat().keys() == weights.flat().keys()


def test_another_image_size(weights):
    """Heads of torchvision pool to 4 x 4 whatever they read; the paper's do not."""
    assert adapt(weights, image_size=160).report.reinitialised == ()
    small = adapt(tiny(), image_size=48)
    assert {name.split("/")[1] for name in small.report.reinitialised} == {"aux_4a", "aux_4d"}
    assert small.info.preprocess.size == 48
    hidden = "params/aux_4a/hidden/kernel"
    assert small.flat()[hidden].shape != tiny().flat()[hidden].shape


def test_a_new_classifier_for_as_many_classes(weights):
    same = adapt(weights)
    assert same.report == weights.report
    new = adapt(weights, reset_head=True)
    assert len(new.report.reinitialised) == 6
    assert not np.array_equal(
        new.flat()["params/classifier/linear/kernel"], weights.flat()["params/classifier/linear/kernel"]
    )


def test_export_refuses_what_has_no_place(weights):
    with pytest.raises(UserError, match="keras has no googlenet_torchvision; its weights can be given to: torchvision"):
        export(weights, "keras")
    its = synthetic.lineage("slim", "inception_v4")
    v4 = convert(synthetic.tensors(its, 5), its)
    with pytest.raises(UserError, match="timm has no place for aux_Mixed_6h of inception_v4"):
        export(v4, "timm")
