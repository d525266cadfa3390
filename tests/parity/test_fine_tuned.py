"""Networks as people fine-tune and save them: other heads, wrappers around the network, checkpoints of training."""

import argparse
import warnings

import jax
import numpy as np
import pytest
import safetensors.torch

from inception_jax import weights
from inception_jax.errors import UserError
from tests.parity import originals

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")]

SIZE = 96


def images(size=SIZE):
    return np.random.default_rng(0).standard_normal((2, size, size, 3)).astype(np.float32)


def ours(loaded, size=SIZE):
    return np.asarray(jax.jit(loaded.create_model().apply)(loaded.variables, images(size)).logits)


def compare(record, loaded, what, theirs, size=SIZE):
    record(loaded.info.model, "eval", f"2x{size}x{size} f32")(what, ours(loaded, size), theirs, 1e-5)


# ---- PyTorch -------------------------------------------------------------------------------------------------------


def randomised(torch, net):
    """Returns a network with random weights and statistics, and no dropout."""
    net.eval()
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            if tensor.ndim > 1:
                tensor.normal_(std=(2 / tensor[0].numel()) ** 0.5)
            elif name.endswith(("weight", "var")):
                tensor.uniform_(0.8, 1.2)
            elif name.endswith(("bias", "mean")):
                tensor.uniform_(-0.1, 0.1)
    return net


def logits(torch, net, size=SIZE):
    with torch.no_grad():
        return net(torch.from_numpy(images(size).transpose(0, 3, 1, 2).copy())).numpy()


@pytest.fixture(scope="module")
def googlenet(torch):
    """GoogLeNet with 10 classes; its auxiliary heads still have 1000."""
    net = originals.torch_original(torch, "torchvision:googlenet", 1000)
    net.fc = torch.nn.Linear(1024, 10)
    return randomised(torch, net)


def test_a_new_fc_beside_old_auxiliary_heads(torch, googlenet, tmp_path, record):
    path = tmp_path / "x.pth"
    torch.save({"epoch": 7, "model_state_dict": googlenet.state_dict(), "best_acc": np.float64(0.9)}, path)
    loaded = weights.load(path, unverified=True)
    assert (loaded.info.num_classes, loaded.info.aux) == (10, True)
    report = str(loaded.report)
    assert "the names of the network begin with 'model_state_dict.', which is removed" in report
    assert "the classifiers of aux_4a and aux_4d have other outputs than the 10 here: not taken" in report
    redrawn = [f"params/aux_{tap}/classifier/linear/{leaf}" for tap in ("4a", "4d") for leaf in ("bias", "kernel")]
    assert list(loaded.report.reinitialised) == redrawn
    assert {"epoch", "best_acc", "aux1.fc2.weight"} <= set(loaded.report.dropped)
    compare(record, loaded, "torchvision: fc replaced, aux of 1000", logits(torch, googlenet))
    without = weights.load(path, unverified=True, aux=False)
    assert not without.info.aux
    assert not without.report.reinitialised


class Wrapped:
    """Modules around a network, made when PyTorch is there."""

    @staticmethod
    def of(torch, net, head=None, name="backbone"):
        module = torch.nn.Module()
        setattr(module, name, net)
        if head is not None:
            module.head = head
            module.forward = lambda x: head(net(x))
        else:
            module.forward = net.forward
        return module


@pytest.mark.slow
def test_a_head_beside_the_body_in_a_checkpoint_of_lightning(torch, tmp_path, record):
    body = originals.torch_original(torch, "timm:inception_v4", 0)
    nn = torch.nn
    head = nn.Sequential(nn.Dropout(), nn.Linear(1536, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 7))
    net = randomised(torch, Wrapped.of(torch, body, head))
    state = {f"model.{name}": tensor for name, tensor in net.state_dict().items()}
    checkpoint = {
        "state_dict": state | {"criterion.weight": torch.ones(7), "val_acc.total": torch.tensor(3)},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(3)}}}],
        "hyper_parameters": argparse.Namespace(lr=1e-3),
        "pytorch-lightning_version": "2.4.0",
        "loops": {"fit_loop": {"state_dict": {}}},
    }
    torch.save(checkpoint, tmp_path / "last.ckpt")
    loaded = weights.load(tmp_path / "last.ckpt", unverified=True)
    assert (loaded.info.model, loaded.info.num_classes, len(loaded.info.head.rows)) == ("inception_v4", 7, 1)
    report = str(loaded.report)
    assert "ReLU between its linear layers is assumed" in report
    assert "model.head.2 (batch norm of 64) is folded into the linear layer beside it" in report
    assert {"criterion.weight", "val_acc.total"} <= {
        name.rpartition("state_dict.")[2] for name in loaded.report.dropped
    }
    compare(record, loaded, "timm: Linear, norm, ReLU, Linear; Lightning", logits(torch, net))


@pytest.fixture(scope="module")
def xception(torch):
    """Xception of FaceForensics++, with the head that it has there."""
    from pretrainedmodels.models.xception import Xception

    net = Xception(num_classes=2)
    net.last_linear = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Linear(2048, 2))
    del net.fc
    return randomised(torch, net)


def test_xception_of_faceforensics(torch, xception, tmp_path, record):
    spare = torch.nn.Sequential(torch.nn.Conv2d(2048, 512, 1), torch.nn.BatchNorm2d(512))
    state = xception.state_dict() | {f"adjust_channel.{name}": tensor for name, tensor in spare.state_dict().items()}
    state = {f"backbone.{n}": t[:, :, 0, 0] if "pointwise" in n else t for n, t in state.items()}
    torch.save(state, tmp_path / "xception_best.pth")
    loaded = weights.load(tmp_path / "xception_best.pth", "xception_timm", unverified=True)
    assert loaded.info.num_classes == 2
    assert {"adjust_channel.0.weight", "adjust_channel.1.running_mean"} <= set(loaded.report.dropped)
    compare(record, loaded, "FaceForensics++ in DeepfakeBench", logits(torch, xception))


def test_wrappers_change_nothing(torch, googlenet, tmp_path):
    """Every wrapper, and every way to save, leads to the same arrays."""
    plain = googlenet.state_dict()
    path = tmp_path / "x.pth"
    torch.save(plain, path)
    expected = weights.load(path, unverified=True, aux=False).flat()
    averaged = torch.optim.swa_utils.AveragedModel(googlenet)
    counted = plain | {"total_ops": torch.zeros(1), "conv1.total_params": torch.zeros(1)}
    cases = {
        "DataParallel": {f"module.{name}": tensor for name, tensor in plain.items()},
        "torch.compile": {f"module._orig_mod.{name}": tensor for name, tensor in plain.items()},
        "SWA": {"ema": averaged.state_dict(), "optimizer": {"state": {"a": {"b": torch.ones(3)}}}},
        "thop": {"net": counted, "scheduler": {"last_epoch": 3}},
        "deep": {"a": {"b": {"module.model.net.": 1, "weights": plain}}},
        "double": {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in plain.items()},
    }
    for what, checkpoint in cases.items():
        torch.save(checkpoint, path)
        found = weights.load(path, unverified=True, aux=False)
        assert found.flat().keys() == expected.keys()
        assert all(np.array_equal(array, expected[name]) for name, array in found.flat().items()), what
    assert "of its tensors are float64; here they are float32" in str(found.report)
    halves = {f"model.{n}": t.bfloat16() if t.is_floating_point() else t for n, t in plain.items()}
    for suffix, save in (("pth", torch.save), ("safetensors", safetensors.torch.save_file)):
        save(halves, tmp_path / f"half.{suffix}")
        found = weights.load(tmp_path / f"half.{suffix}", unverified=True, aux=False)
        assert "of its tensors are bfloat16" in str(found.report)
        np.testing.assert_array_equal(
            found.flat()["params/classifier/linear/bias"], plain["fc.bias"].bfloat16().float()
        )


@pytest.mark.slow
def test_several_networks_in_one_file(torch, googlenet, tmp_path):
    path, state = tmp_path / "x.pth", googlenet.state_dict()
    other = {f"module.{name}": tensor + 1 if name == "fc.bias" else tensor for name, tensor in state.items()}
    torch.save({"state_dict": state, "state_dict_ema": other, "epoch": 1}, path)
    with pytest.raises(
        UserError, match=r"x.pth holds 2 networks, under state_dict, state_dict_ema: .*--key state_dict"
    ) as e:
        weights.load(path, unverified=True)
    assert "\n" not in str(e.value)
    for key, offset in (("state_dict", 0), ("state_dict_ema", 1), ("state_dict_ema.module", 1)):
        loaded = weights.load(path, key=key, unverified=True, aux=False)
        np.testing.assert_array_equal(loaded.flat()["params/classifier/linear/bias"], state["fc.bias"] + offset)
        assert "tensors elsewhere in the file are left out" in str(loaded.report)
    with pytest.raises(UserError, match=r"has nothing under key 'ema'; it has state_dict, state_dict_ema"):
        weights.load(path, key="ema", unverified=True)


@pytest.mark.slow
def test_heads_of_pytorch_that_are_not_taken(torch, googlenet, tmp_path):
    path, nn = tmp_path / "x.pth", torch.nn
    body = {name: tensor for name, tensor in googlenet.state_dict().items() if not name.startswith(("fc.", "aux"))}
    heads = {
        r"the shapes of its layers do not lead from the 1024": nn.Sequential(nn.Linear(50176, 8), nn.Linear(8, 2)),
        r"it has no linear layer": nn.LayerNorm(1024),
    }
    for words, head in heads.items():
        torch.save(body | {f"top.{name}": tensor for name, tensor in head.state_dict().items()}, path)
        with pytest.raises(UserError, match=rf"is googlenet_torchvision of torchvision, but its head, top.*{words}"):
            weights.load(path, unverified=True)
        for classes in (0, 3):
            loaded = weights.load(path, num_classes=classes, unverified=True)
            assert loaded.info.num_classes == classes
            assert "it is left out" in str(loaded.report)
            assert any(name.startswith("top.") for name in loaded.report.dropped)
    torch.save({name: tensor for name, tensor in googlenet.state_dict().items() if not name.startswith("fc.")}, path)
    with pytest.raises(
        UserError, match=r"but its classifier, fc, is missing beside its auxiliary heads\. num_classes=0"
    ):
        weights.load(path, unverified=True)
    assert weights.load(path, num_classes=0, unverified=True).info.num_classes == 0


# ---- Keras ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def keras():
    import os

    os.environ.setdefault("KERAS_BACKEND", "jax")
    import keras

    return keras


@pytest.fixture(scope="module")
def inception_v3(keras):
    return keras.applications.InceptionV3(weights=None, include_top=False, input_shape=(SIZE, SIZE, 3))


def filled(model):
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if hasattr(layer, "layers"):
            filled(layer)
        else:
            layer.set_weights([originals._random(rng, each.name, tuple(each.shape)) for each in layer.weights])
    return model


def saved(model, folder, *suffixes):
    """Yields the files of a model in several formats."""
    for suffix in suffixes:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            path = folder / f"x{suffix}"
            model.save_weights(path) if suffix == ".weights.h5" else model.save(path)
        yield path
        path.unlink()


def outputs(model, size=SIZE):
    with jax.numpy_rank_promotion("allow"):
        return np.asarray(model(images(size), training=False))


def softmax(values):
    powers = np.exp(values - values.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def test_three_dense_layers_on_inception_v3(keras, inception_v3, tmp_path, record):
    """Batch norms stand before and between them; the last one has a softmax."""
    layers = keras.layers
    with jax.numpy_rank_promotion("allow"):
        x = layers.GlobalAveragePooling2D()(inception_v3.output)
        x = layers.BatchNormalization()(x)
        x = layers.Dense(64, activation="relu")(x)
        x = layers.Dropout(0.5)(layers.BatchNormalization(epsilon=0.1)(x))
        x = layers.ReLU()(layers.BatchNormalization()(layers.Dense(32, use_bias=False)(x)))
        model = filled(keras.Model(inception_v3.input, layers.Dense(4, activation="softmax")(x)))
    expected = outputs(model)
    for path in saved(model, tmp_path, ".keras", ".h5"):
        loaded = weights.load(path, unverified=True)
        assert (loaded.info.model, loaded.info.num_classes) == ("inception_v3_tf", 4)
        assert [row.features for row in loaded.info.head.rows] == [64, 32]
        record(loaded.info.model, "eval", f"2x{SIZE}x{SIZE} f32")(
            f"keras: three Dense, three norms, {path.suffix}", softmax(ours(loaded)), expected, 1e-5
        )


@pytest.mark.slow
def test_a_body_in_a_sequential_model_with_a_sigmoid(keras, inception_v3, tmp_path, record):
    layers = keras.layers
    with jax.numpy_rank_promotion("allow"):
        last = layers.Dense(1)
        top = [layers.GlobalAveragePooling2D(), layers.Dense(16, activation="relu"), last]
        model = filled(keras.Sequential([inception_v3, *top]))
    expected = outputs(model)[:, 0]
    last.activation = keras.activations.sigmoid
    for path in saved(model, tmp_path, ".keras", ".h5", ".weights.h5"):
        loaded = weights.load(path, unverified=True)
        assert len(loaded.info.head.rows) == 1
        found = ours(loaded)
        if path.name.endswith(".weights.h5"):  # it does not say what the activations are
            assert "of which the softmax is always 1" in str(loaded.report)
        else:
            assert "its one output with a sigmoid becomes two classes" in str(loaded.report)
            assert (found[:, 0] == 0).all()
        check = record(loaded.info.model, "eval", f"2x{SIZE}x{SIZE} f32")
        check(f"keras: in a Sequential, {path.name}", found[:, -1], expected, 1e-5)


@pytest.mark.slow
def test_a_policy_of_mixed_precision(keras, tmp_path):
    """It computes in 16 bits and stores 32."""
    keras.config.set_dtype_policy("mixed_float16")
    try:
        with jax.numpy_rank_promotion("allow"):
            body = keras.applications.Xception(weights=None, include_top=False, input_shape=(SIZE, SIZE, 3))
            x = keras.layers.GlobalAveragePooling2D()(body.output)
            model = filled(keras.Model(body.input, keras.layers.Dense(3, dtype="float32")(x)))
    finally:
        keras.config.set_dtype_policy("float32")
    live = weights.load(model)
    assert live.info.num_classes == 3
    for path in saved(model, tmp_path, ".keras", ".h5"):
        found = weights.load(path, unverified=True).flat()
        assert all(np.array_equal(found[name], array) for name, array in live.flat().items())


@pytest.mark.slow
def test_heads_of_keras_that_are_not_taken(keras, inception_v3, tmp_path):
    layers = keras.layers
    two = keras.Input((3,))
    with jax.numpy_rank_promotion("allow"):
        y = inception_v3.output
        pooled = layers.GlobalAveragePooling2D()(y)
        models = {
            r"\('GlobalMaxPooling2D'\) stands where ours have global average": layers.Dense(3)(
                layers.GlobalMaxPooling2D()(y)
            ),
            r"\('Flatten'\) stands where ours have global average": layers.Dense(3)(layers.Flatten()(y)),
            r"'gelu' stands where": layers.Dense(3)(layers.Dense(8, activation="gelu")(pooled)),
            r"\('Conv2D'\) stands where ours": layers.Dense(3)(layers.GlobalAveragePooling2D()(layers.Conv2D(8, 1)(y))),
            r"reads global_average_pooling2d.*, input_layer.*: it is no chain": (
                layers.Dense(3)(layers.Concatenate()([pooled, two]))
            ),
            r"each of its 3 outputs has a sigmoid": layers.Dense(3, activation="sigmoid")(pooled),
        }
        for words, output in models.items():
            inputs = [inception_v3.input, two] if "no chain" in words else inception_v3.input
            model = keras.Model(inputs, output)
            with pytest.raises(
                UserError, match=rf"but its head, .*, cannot be taken: .*{words}.*num_classes=0"
            ) as caught:
                weights.load(model)
            assert "\n" not in str(caught.value)
        features = weights.load(model, num_classes=0)
    assert features.info.num_classes == 0
    assert {name for name in features.report.dropped if name.startswith("dense")}
