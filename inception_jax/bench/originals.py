"""The PyTorch and Keras originals of networks of the zoo: which exist, and how to build them."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

from inception_jax.errors import UserError

TORCH = {  # model: the package with its torch.nn.Module, as in `weights.origins`
    "googlenet_torchvision": "torchvision",
    "inception_v3": "torchvision",
    "inception_v4": "timm",
    "inception_resnet_v2": "timm",
    "xception_timm": "timm",
}
KERAS = {"inception_v3_tf": "InceptionV3", "inception_resnet_v2": "InceptionResNetV2", "xception": "Xception"}
KERAS_WITHOUT_SCALE = ("inception_resnet_v2",)  # batch norms that have a scale (gamma) here and in PyTorch
TIMM = {"xception_timm": "legacy_xception"}  # where timm uses another name


def torch_original(model: str, num_classes: int, aux: bool) -> Any:
    """Returns the PyTorch original of a model of the zoo, without dropout, with initial weights.

    Raises:
      UserError: there is none, it has no auxiliary heads, or its package is not installed.
    """
    origin = origin_of("torch", model)
    if origin == "timm":
        timm = require("timm")
        if aux:
            raise UserError(f"timm's {model} has no auxiliary heads; measure without them.")
        return timm.create_model(TIMM.get(model, model), pretrained=False, num_classes=num_classes, drop_rate=0.0)
    with without_missing_operators():
        models = require("torchvision.models")
    if model == "googlenet_torchvision":
        dropouts = {"dropout": 0.0, "dropout_aux": 0.0}
        return models.GoogLeNet(num_classes=num_classes, aux_logits=aux, init_weights=False, **dropouts)
    return models.Inception3(num_classes=num_classes, aux_logits=aux, init_weights=False, dropout=0.0)


def keras_original(model: str, image_size: int, num_classes: int) -> Any:
    """Returns the Keras application of a model of the zoo, with logits as output.

    Raises:
      UserError: there is none, or Keras is not installed.
    """
    origin_of("keras", model)
    applications = require("keras").applications
    build = getattr(applications, KERAS[model])
    shape = (image_size, image_size, 3)
    return build(weights=None, input_shape=shape, classes=num_classes, classifier_activation=None)


def origin_of(framework: str, model: str) -> str:
    """Returns the origin, as in `weights.export`, of a model in the framework "torch" or "keras".

    Raises:
      UserError: the framework does not have the model.
    """
    known = TORCH if framework == "torch" else dict.fromkeys(KERAS, "keras")
    if model not in known:
        raise UserError(f"{model} has no original in {framework}. These models have one: {', '.join(known)}.")
    return known[model]


def check(framework: str, model: str | None) -> None:
    """Checks that a framework and the package with the original of a model are installed, without importing them.

    Raises:
      UserError: there is no original, or a package is not installed.
    """
    for name in (framework, *(() if model is None else (origin_of(framework, model),))):
        if importlib.util.find_spec(name) is None:
            raise UserError(f"{name} is not installed: pip install {name}.")


def require(name: str) -> Any:
    """Returns an optional module.

    Raises:
      UserError: it, or something that it needs, is not installed.
    """
    package = name.partition(".")[0]
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"{package} cannot be imported ({error}): pip install {package}.") from error


@contextlib.contextmanager
def without_missing_operators() -> Iterator[None]:
    """Lets torchvision be imported if its build lacks compiled operators, which no network here uses."""
    torch = require("torch")
    register = torch.library.register_fake

    def register_known(op: Any, *args: Any, **kwargs: Any) -> Callable[[Any], Any]:
        if str(op).startswith("torchvision::"):
            return lambda function: function
        return register(op, *args, **kwargs)

    torch.library.register_fake = register_known
    try:
        yield
    finally:
        torch.library.register_fake = register
