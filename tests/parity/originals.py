"""The originals of the family, filled by the rule of fixtures.py: each a function of NHWC images in NumPy."""

import contextlib
import os
from unittest import mock

import numpy as np

from tests.parity import fixtures


def torch_original(torch, name, classes):
    """Returns the network of a PyTorch package ("timm:inception_v4"; where it has one only, "facenet:"), in float64."""
    net = _construct(name, classes).double().eval()
    with torch.no_grad():
        for module in net.modules():
            for leaf, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
                if tensor.ndim:
                    tensor.copy_(torch.from_numpy(_leaf(module, leaf, tuple(tensor.shape))))
    return net


def _construct(name, classes):
    package, _, model = name.partition(":")
    if package == "timm":
        import timm

        return timm.create_model(model, pretrained=False, num_classes=classes)
    if package == "torchvision":
        from torchvision.models import Inception3

        return Inception3(num_classes=classes, init_weights=False, dropout=0.0)
    if package == "pretrainedmodels":
        from pretrainedmodels.models.bninception import BNInception

        return BNInception(num_classes=classes)
    if package == "facenet":
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


def _leaf(module, leaf, shape):
    n = int(np.prod(shape))
    if leaf == "weight" and len(shape) > 1:
        gain = 3 if getattr(module, "groups", 1) > 1 else 6
        return fixtures.weight(shape, gain)
    streams = {"weight": (3, 0.8, 0.4), "bias": (4, -0.1, 0.2), "running_mean": (5, -0.1, 0.2)}
    streams["running_var"] = (6, 0.8, 0.4)
    if not hasattr(module, "running_mean"):
        streams = {"bias": (2, -0.1, 0.2)}
    stream, low, span = streams[leaf]
    return (low + span * fixtures.uniform(n, stream)).reshape(shape)


def keras_original(name, size, classes):
    """Returns a Keras application that reads images of `size` pixels and gives logits, filled, in float32."""
    os.environ["KERAS_BACKEND"] = "jax"
    import keras

    constructor = {
        "InceptionV3": keras.applications.InceptionV3,
        "InceptionResNetV2": keras.applications.InceptionResNetV2,
        "Xception": keras.applications.Xception,
    }[name]
    net = constructor(weights=None, input_shape=(size, size, 3), classes=classes, classifier_activation=None)
    for layer in net.layers:
        layer.set_weights([_keras_leaf(layer, weight.name, tuple(weight.shape)) for weight in layer.weights])
    return net


def _keras_leaf(layer, name, shape):
    n = int(np.prod(shape))
    kind = type(layer).__name__
    if name == "depthwise_kernel":
        height, width, channels, _ = shape
        return fixtures.weight((channels, 1, height, width), 3).transpose(2, 3, 0, 1)
    if name.endswith("kernel"):
        outputs_first = (len(shape) - 1, len(shape) - 2, *range(len(shape) - 2))
        weight = fixtures.weight(tuple(shape[axis] for axis in outputs_first))
        return weight.transpose(np.argsort(outputs_first))
    stream, low, span = {
        "gamma": (3, 0.8, 0.4),
        "beta": (4, -0.1, 0.2),
        "moving_mean": (5, -0.1, 0.2),
        "moving_variance": (6, 0.8, 0.4),
        "bias": (2, -0.1, 0.2),
    }[name]
    assert (name == "bias") != (kind == "BatchNormalization")
    return low + span * fixtures.uniform(n, stream)


@contextlib.contextmanager
def inputs_of(module):
    """Yields a list that collects what a torch module reads, as NumPy."""
    seen = []
    handle = module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].numpy()))
    yield seen
    handle.remove()
