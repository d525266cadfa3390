"""The originals of the family with random weights, and ours with the same, by way of the converters."""

import contextlib
import importlib
import os
from unittest import mock

import numpy as np
from flax import traverse_util

from tests.weights import synthetic


def torch_original(torch, name, classes):
    """Returns the network of a PyTorch package ("timm:inception_v4"; where it has one only, "facenet_pytorch:").

    Its weights and statistics are random, and such that no signal fades.
    """
    net = _construct(name, classes).eval()
    with torch.no_grad():
        for key, tensor in net.state_dict().items():
            if tensor.ndim > 1:
                tensor.normal_(std=(2 / tensor[0].numel()) ** 0.5)
            elif key.endswith(("weight", "var")):
                tensor.uniform_(0.8, 1.2)
            elif key.endswith(("bias", "mean")):
                tensor.uniform_(-0.1, 0.1)
    return net


def _construct(name, classes):
    package, _, model = name.partition(":")
    if package == "timm":
        import timm

        return timm.create_model(model, pretrained=False, num_classes=classes)
    if package == "torchvision":
        from torchvision import models

        if model == "googlenet":
            return models.GoogLeNet(num_classes=classes, init_weights=False, dropout=0.0, dropout_aux=0.0)
        return models.Inception3(num_classes=classes, init_weights=False, dropout=0.0)
    if package == "cadene":
        networks = {
            "bn_inception": ("bninception", "BNInception"),
            "inception_v4": ("inceptionv4", "InceptionV4"),
            "inception_resnet_v2": ("inceptionresnetv2", "InceptionResNetV2"),
            "xception": ("xception", "Xception"),
        }
        module, network = networks[model]  # the package hides its modules behind functions of the same name
        net = getattr(importlib.import_module(f"pretrainedmodels.models.{module}"), network)(num_classes=classes)
        if model == "xception":
            net.last_linear = net.fc  # as the function does that makes the network
            del net.fc
        return net
    if package == "facenet_pytorch":
        from facenet_pytorch import InceptionResnetV1

        return InceptionResnetV1(classify=True, num_classes=classes)
    from pytorch_fid import inception
    from torchvision.models import Inception3

    # It builds its network in the function that also loads its weights.
    with (
        mock.patch.object(inception, "load_state_dict_from_url", return_value={}),
        mock.patch.object(Inception3, "load_state_dict", return_value=None),
    ):
        return inception.fid_inception_v3()


def state_of(net):
    """Returns a state dict as NumPy."""
    return {name: tensor.numpy().copy() for name, tensor in net.state_dict().items()}


def variables_from(origin, model, state):
    """Returns the tensors of an original as variables of `model`, their precision unchanged; every one is used."""
    slots = synthetic.lineage(origin, model.name_in_zoo).slots(model)
    assert {slot.name for slot in slots} == {name for name in state if not name.endswith("num_batches_tracked")}
    return traverse_util.unflatten_dict({slot.path: slot.to_ours(state[slot.name]) for slot in slots})


def keras_original(name, size, classes):
    """Returns a Keras application that reads images of `size` pixels and gives logits, with random weights."""
    os.environ["KERAS_BACKEND"] = "jax"
    import keras

    constructor = {
        "InceptionV3": keras.applications.InceptionV3,
        "InceptionResNetV2": keras.applications.InceptionResNetV2,
        "Xception": keras.applications.Xception,
    }[name]
    net = constructor(weights=None, input_shape=(size, size, 3), classes=classes, classifier_activation=None)
    rng = np.random.default_rng(0)
    for layer in net.layers:
        layer.set_weights([_random(rng, weight.name, tuple(weight.shape)) for weight in layer.weights])
    return net


def _random(rng, name, shape):
    if name == "depthwise_kernel":
        return rng.normal(0, (2 / np.prod(shape[:2])) ** 0.5, shape)
    if name.endswith("kernel"):
        return rng.normal(0, (2 / np.prod(shape[:-1])) ** 0.5, shape)
    return rng.uniform(0.8, 1.2, shape) if name in ("gamma", "moving_variance") else rng.uniform(-0.1, 0.1, shape)


@contextlib.contextmanager
def inputs_of(module):
    """Yields a list that collects what a torch module reads, as NumPy."""
    seen = []
    handle = module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].numpy()))
    yield seen
    handle.remove()
