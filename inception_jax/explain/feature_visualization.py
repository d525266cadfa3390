"""What a network learnt, as images: first filters, activations, and images that maximise a channel."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from inception_jax.errors import UserError, printable
from inception_jax.explain import subnetworks
from inception_jax.inference.images import Input
from inception_jax.inference.predictor import Predictor
from inception_jax.models.inputs import Preprocess, normalise
from inception_jax.models.network import InceptionNet

MOST = 64  # channels in a grid, if none are given


class MaximisedChannel(NamedTuple):
    """An image [size, size, C] in 0 ... 1, and the mean of the channel before each step and after the last."""

    image: np.ndarray
    objectives: np.ndarray


def first_filters(variables: dict[str, Any]) -> np.ndarray:
    """Returns the filters [N, H, W, 3] of the first convolution, each scaled to 0 ... 1.

    The depthwise kernel of a separable convolution has M filters for each colour; filter i of red, green and blue make
    one image.

    Raises:
      UserError: no convolution reads three channels.
    """
    paths = jax.tree_util.tree_flatten_with_path(variables["params"])[0]
    for path, leaf in paths:
        names = [key.key for key in path]
        if names[-1] == "kernel" and names[-2] == "conv" and leaf.shape[2] == 3:
            return _stretched(np.asarray(leaf).transpose(3, 0, 1, 2))
        if names[-2:] == ["depthwise", "kernel"] and leaf.shape[-1] % 3 == 0 and names[0].endswith("1a_7x7"):
            by_colour = np.asarray(leaf)[:, :, 0].reshape(*leaf.shape[:2], 3, -1)
            return _stretched(by_colour.transpose(3, 0, 1, 2))
    raise UserError("No convolution of these weights reads three channels.")


def activations(
    predictor: Predictor, image: Input, endpoint: str, channels: int | Sequence[int] | None = None
) -> tuple[list[int], np.ndarray]:
    """Returns channel indices of an endpoint and their feature maps [N, H, W] for an image.

    Args:
      predictor: the network.
      image: as the predictor takes it.
      endpoint: a name of `ij.endpoints`.
      channels: one index or several; None: the 64 channels with the largest maximum, or all.

    Raises:
      UserError: an unknown endpoint or channel.
    """
    subnetworks.check_endpoint(predictor.model, endpoint)
    maps = predictor.endpoints([image], [endpoint])[endpoint][0].transpose(2, 0, 1)
    shown = sorted(np.argsort(-maps.max((1, 2)))[:MOST].tolist()) if channels is None else _channels(channels)
    for channel in shown:
        _check_channel(predictor.model, endpoint, channel, len(maps))
    return shown, maps[shown]


def maximise(
    predictor: Predictor,
    endpoint: str,
    channel: int,
    steps: int = 256,
    seed: int = 0,
    rate: float = 0.05,
    jitter: int | None = None,
) -> MaximisedChannel:
    """Returns an image for which the mean of a channel is large, by gradient ascent from grey noise.

    Each step shifts the image by a random offset of up to `jitter` pixels, so that no pattern depends on its position,
    and adds the gradient, scaled to a root mean square of `rate`. A sigmoid keeps pixels in range.

    Args:
      predictor: the network.
      endpoint, channel: what is maximised.
      steps: of the ascent.
      seed: of the noise and of the jitter.
      rate: root mean square of a step, before the sigmoid.
      jitter: largest shift in pixels; None: a sixteenth of the input size.

    Raises:
      UserError: an unknown endpoint or channel, or less than one step.
    """
    subnetworks.check_endpoint(predictor.model, endpoint)
    if steps < 1:
        raise UserError(f"steps is {steps}; it must be at least 1.")
    model, preprocess, size = predictor.model, predictor.info.preprocess, predictor.info.preprocess.size
    rng = np.random.default_rng(seed)
    latent = jnp.asarray(rng.normal(0, 0.1, (1, size, size, predictor.info.in_channels)), jnp.float32)
    run = functools.partial(_ascend, model=model, preprocess=preprocess, endpoint=endpoint)
    shape = jax.eval_shape(
        functools.partial(subnetworks.to_endpoint, model, endpoint), {"params": predictor.params}, latent
    )
    _check_channel(model, endpoint, channel, shape.shape[-1])
    reach = size // 16 if jitter is None else jitter
    objectives = []
    for _ in range(steps):
        offset = rng.integers(-reach, reach, 2, endpoint=True)
        latent, value = run(predictor.params, latent, offset, channel, rate)
        objectives.append(value)
    _, value = run(predictor.params, latent, np.zeros(2, int), channel, rate)
    return MaximisedChannel(np.asarray(jax.nn.sigmoid(latent[0])), np.array([*objectives, value]))


@functools.partial(jax.jit, static_argnames=("model", "preprocess", "endpoint"))
def _ascend(
    params: Any,
    latent: jax.Array,
    offset: jax.Array,
    channel: jax.Array,
    rate: float,
    *,
    model: InceptionNet,
    preprocess: Preprocess,
    endpoint: str,
) -> tuple[jax.Array, jax.Array]:
    """Returns the latent image after a step, and the objective before it."""

    def objective(latent: jax.Array) -> jax.Array:
        pixels = 255 * jax.nn.sigmoid(jnp.roll(latent, offset, (1, 2)))
        x = subnetworks.to_endpoint(model, endpoint, {"params": params}, normalise(pixels, preprocess))
        return x[..., channel].astype(jnp.float32).mean()

    value, gradient = jax.value_and_grad(objective)(latent)
    return latent + rate * gradient / (jnp.sqrt(jnp.square(gradient).mean()) + 1e-12), value


def _channels(given: int | Sequence[int]) -> list[int]:
    found = [given] if isinstance(given, int | np.integer) else list(given)
    if not all(isinstance(each, int | np.integer) for each in found):
        raise UserError(f"channels are integers, not {printable(repr(given)[:80])}.")
    return [int(each) for each in found]


def _check_channel(model: InceptionNet, endpoint: str, channel: int, count: int) -> None:
    if not 0 <= channel < count:
        raise UserError(f"channel is {channel}; {endpoint} of {model.name_in_zoo} has 0 ... {count - 1}.")


def _stretched(filters: np.ndarray) -> np.ndarray:
    """Returns filters in 0 ... 1, where 0.5 stands for zero: colours and signs compare within a filter."""
    largest = np.abs(filters).max((1, 2, 3), keepdims=True)
    return 0.5 + 0.5 * filters / np.where(largest > 0, largest, 1)
