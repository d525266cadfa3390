"""What the originals call the parts of our networks, and how they lay them out."""

import numpy as np
import pytest

import inception_jax as ij
from inception_jax.models import spec
from inception_jax.weights.naming.lineages import LINEAGES
from inception_jax.weights.naming.names import Names
from tests.weights import synthetic


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
            "facenet_pytorch",
            "inception_resnet_v1",
            "repeat_1.4.conv2d.bias last_linear.weight last_bn.running_var logits.weight logits.bias",
        ),
        (
            "facenet",
            "inception_resnet_v1",
            "InceptionResnetV1/Bottleneck/weights InceptionResnetV1/Bottleneck/BatchNorm/moving_mean Logits/biases",
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
    slots = {slot.name: slot for slot in synthetic.GOOGLENET.slots(synthetic.model_of(synthetic.GOOGLENET, 10))}
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


@pytest.mark.parametrize(
    ("origin", "model", "shape", "where"),
    [
        ("torchvision", "inception_v3", (5, 2048), (3, 7)),
        ("keras", "inception_v3_tf", (2048, 5), (7, 3)),
        ("slim", "inception_v4", (1536, 5), (7, 3)),
        ("slim", "inception_v3_tf", (1, 1, 2048, 5), (0, 0, 7, 3)),  # its linear layers are convolutions
    ],
)
def test_the_head_of_a_file(origin, model, shape, where):
    """A row of a head is a linear layer there, and the classifier reads what it returns."""
    head = spec.Head((spec.Conv(5, norm=False), spec.Conv(4)))
    its = synthetic.lineage(origin, model).with_head(head, [Names("x"), Names("y", "y_norm")], Names("z"))
    slots = {slot.path: slot for slot in its.slots(synthetic.model_of(its, 3))}
    kernel = slots["params", "head", "rows_0", "conv", "kernel"]
    tensor = np.zeros(shape, np.float32)
    tensor[where] = 1  # output 3 reads input 7
    assert (kernel.their_shape, kernel.to_ours(tensor).shape) == (shape, (1, 1, max(shape), 5))
    assert kernel.to_ours(tensor)[0, 0, 7, 3] == 1
    np.testing.assert_array_equal(kernel.to_theirs(kernel.to_ours(tensor)), tensor)
    assert slots["params", "head", "rows_0", "conv", "bias"].name[0] == "x"
    assert slots["batch_stats", "head", "rows_1", "bn", "mean"].name.startswith("y_norm")
    assert slots["params", "classifier", "linear", "kernel"].our_shape == (4, 3)
    found = its.head_of({slots["params", "head", f"rows_{j}", "conv", "kernel"].name: np.ones(shape) for j in (0, 1)})
    assert found == head._replace(rows=tuple(row._replace(features=5) for row in head.rows))


def test_an_origin_has_no_names_for_another_head():
    its = synthetic.lineage("facenet_pytorch", "inception_resnet_v1")
    hidden = spec.Head((spec.Conv(16, norm=False),))
    paths = {slot.path[1] for slot in its.slots(ij.create_model(its.model, 3, head=hidden))}
    assert not paths & {"head", "classifier"}
    narrow = its.head._replace(rows=(its.head.rows[0]._replace(features=16),))
    assert {"head", "classifier"} <= {slot.path[1] for slot in its.slots(ij.create_model(its.model, 3, head=narrow))}


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
