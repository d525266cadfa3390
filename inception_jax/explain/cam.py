"""Where a network looks: class activation maps (arXiv 1512.04150), Grad-CAM (1610.02391) and occlusion (1311.2901).

All take images as a `Predictor` does and prepare them as it does. `heatmaps` lays the result over the images.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from inception_jax.errors import UserError
from inception_jax.explain import subnetworks
from inception_jax.inference.images import Images, as_images
from inception_jax.inference.predictor import Predictor
from inception_jax.models.inputs import Preprocess, normalise
from inception_jax.models.network import InceptionNet, ModelOutput
from inception_jax.suggestions import hint

Program = Callable[[Any, jax.Array, jax.Array | None], tuple[Any, Any, Any]]


@dataclasses.dataclass(frozen=True)
class Explanation:
    """Class activation maps of K classes for each of N images; N is 1 for a single image.

    Attributes:
      classes: indices [N, K].
      logits: of all classes [N, C].
      maps: [N, K, H, W], positive where the image is evidence for the class. They cover the part of the image that the
        network reads.
    """

    classes: np.ndarray
    logits: np.ndarray
    maps: np.ndarray


def cam(predictor: Predictor, images: Images, classes: ArrayLike | None = None, k: int = 1) -> Explanation:
    """Returns class activation maps (1512.04150): maps[k] = sum over c of w[c, k] A[c].

    A are the last activations, and w the weights by which the classifier reads their averages. So the average of a map
    is the logit of its class without the bias. That holds for a classifier which reads these averages; of one behind
    other layers `grad_cam` is a map.

    Args:
      predictor: the network.
      images: as the predictor takes them, a list or a single one.
      classes: indices or names, of a shape that broadcasts to [N, K]; None: the k likeliest of each image.
      k: how many classes, if `classes` is None.

    Raises:
      UserError: an unknown class, k out of range, no classifier, layers in front of it, or no images.
    """
    subnetworks.check_linear(predictor.model, predictor.info.source)
    program = functools.partial(_cam, model=predictor.model, preprocess=predictor.info.preprocess, k=k)
    return _explain(predictor, images, classes, k, program)


def grad_cam(
    predictor: Predictor,
    images: Images,
    endpoint: str | None = None,
    classes: ArrayLike | None = None,
    k: int = 1,
) -> Explanation:
    """Returns Grad-CAM at an endpoint (1610.02391): its activations, summed over channels with one weight a channel.

    The weight of a channel is the gradient of the class's logit with respect to it, averaged over height and width.
    Negative values are kept. At the last activations, the result is the class activation map divided by H W, if the
    network has one.

    Args:
      endpoint: a name of `ij.endpoints`; None: the last activations.
      predictor, images, classes, k: as for `cam`.

    Raises:
      UserError: an unknown endpoint; or what `cam` raises.
    """
    where = subnetworks.averaged_endpoint(predictor.model) if endpoint is None else endpoint
    subnetworks.check_endpoint(predictor.model, where)
    program = functools.partial(
        _grad_cam, model=predictor.model, preprocess=predictor.info.preprocess, endpoint=where, k=k
    )
    return _explain(predictor, images, classes, k, program)


def occlusion(
    predictor: Predictor,
    images: Images,
    classes: ArrayLike | None = None,
    k: int = 1,
    window: int | None = None,
) -> Explanation:
    """Returns by how much the logit of a class drops when a square is covered with the mean colour (1311.2901).

    A pixel of the map [N, K, size, size] is the mean drop over the squares that cover it. The squares are half a side
    apart. Only the logits of the network are used.

    Args:
      window: side of the square in pixels; None: a quarter of the input size (49 squares; 64 at 299 pixels).
      predictor, images, classes, k: as for `cam`.

    Raises:
      UserError: the window is larger than the input; or what `cam` raises.
    """
    size = predictor.info.preprocess.size
    side = max(size // 4, 1) if window is None else window
    if not 1 <= side <= size:
        raise UserError(f"window is {side}; it must be 1 ... {size} pixels.")
    model, preprocess = predictor.model, predictor.info.preprocess
    logits_of = functools.partial(_covered, model=model, preprocess=preprocess, side=side)
    starts = np.unique(np.linspace(0, size - side, 1 + -(-(size - side) // max(side // 2, 1))).round().astype(int))
    covers = np.array([(np.arange(size) >= start) & (np.arange(size) < start + side) for start in starts], np.float32)

    def program(params: Any, pixels: jax.Array, classes: jax.Array | None) -> tuple[Any, Any, Any]:
        logits = np.asarray(logits_of(params, pixels, np.array([size, size])))  # nothing is covered
        chosen = np.asarray(_likeliest(logits, k) if classes is None else classes)
        drops = [[logits - np.asarray(logits_of(params, pixels, np.array([y, x]))) for x in starts] for y in starts]
        drops_of = np.take_along_axis(np.array(drops), chosen[None, None], axis=-1)  # [rows, columns, B, K]
        count = covers.sum(0)
        maps = np.einsum("yxbk,yh,xw->bkhw", drops_of, covers / count, covers / count)
        return chosen, logits, maps

    return _explain(predictor, images, classes, k, program)


def class_index(predictor: Predictor, which: int | str) -> int:
    """Returns the index of a class, given its name, one of its comma-separated names, or its index.

    Raises:
      UserError: no class matches, or several do.
    """
    names, count = predictor.class_names, predictor.info.num_classes
    text = str(which).casefold()
    if isinstance(which, str):
        found = [i for i, name in enumerate(names) if name.casefold() == text] or [
            i for i, name in enumerate(names) if text in name.casefold().split(", ")
        ]
        if len(found) > 1:
            raise UserError(f"Several classes are called {which!r}: give one of the indices {found}.")
        if found:
            return found[0]
    if text.isdecimal() and int(text) < count:
        return int(text)
    near = hint(which, names, cutoff=0.5) if isinstance(which, str) else ""
    raise UserError(f"There is no class {which!r}.{near} Indices are 0 ... {count - 1}.")


def _explain(predictor: Predictor, images: Images, classes: ArrayLike | None, k: int, program: Program) -> Explanation:
    """Runs a program (params, pixels, classes) -> (classes, logits, maps) over images, a bucket at a time."""
    given = list(as_images(images, predictor.info.in_channels)[0])
    count = predictor.info.num_classes
    if not given:
        raise UserError("There are no images.")
    if not count:
        raise UserError(f"{predictor.info.source or predictor.info.model} has no classifier.")
    if not 1 <= k <= count:
        raise UserError(f"k is {k}; it must be 1 ... {count}.")
    wanted = None if classes is None else _indices(predictor, classes, len(given))
    size, batches = predictor.buckets[-1], []
    with concurrent.futures.ThreadPoolExecutor(predictor.threads) as pool:
        for start in range(0, len(given), size):
            pixels = list(pool.map(predictor.prepare, given[start : start + size]))
            chosen = None if wanted is None else predictor.place(list(wanted[start : start + size]))
            outputs = jax.device_get(program(predictor.params, predictor.place(pixels), chosen))
            batches.append([output[: len(pixels)] for output in outputs])
    return Explanation(*(np.concatenate(outputs) for outputs in zip(*batches, strict=True)))


def _indices(predictor: Predictor, classes: ArrayLike, count: int) -> np.ndarray:
    """Returns classes [N, K] as indices."""
    named = np.asarray(classes)
    found = np.array([class_index(predictor, which) for which in named.ravel().tolist()], np.int32)
    found = found.reshape(named.shape or (1,))
    try:
        return np.broadcast_to(found, (count, *found.shape[-1:]))
    except ValueError as error:
        raise UserError(
            f"classes are {list(named.shape)}; for {count} images they must broadcast to [{count}, K]."
        ) from error


def _likeliest(logits: Any, k: int) -> jax.Array:
    return jax.lax.top_k(logits, k)[1]


@functools.partial(jax.jit, static_argnames=("model", "preprocess", "k"))
def _cam(
    params: Any, pixels: jax.Array, classes: jax.Array | None, *, model: InceptionNet, preprocess: Preprocess, k: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    output = cast(ModelOutput, model.apply({"params": params}, normalise(pixels, preprocess)))
    chosen = _likeliest(output.logits, k) if classes is None else classes
    last = output.endpoints[subnetworks.averaged_endpoint(model)].astype(jnp.float32)
    kernel = params["classifier"]["linear"]["kernel"].T[chosen]  # [B, K, channels]
    maps = jnp.einsum("bhwc,bkc->bkhw", last, kernel, precision=jax.lax.Precision.HIGHEST)
    return chosen, output.logits, maps


@functools.partial(jax.jit, static_argnames=("model", "preprocess", "endpoint", "k"))
def _grad_cam(
    params: Any,
    pixels: jax.Array,
    classes: jax.Array | None,
    *,
    model: InceptionNet,
    preprocess: Preprocess,
    endpoint: str,
    k: int,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    variables = {"params": params}
    activations = subnetworks.to_endpoint(model, endpoint, variables, normalise(pixels, preprocess))
    logits, pull = jax.vjp(lambda x: subnetworks.from_endpoint(model, endpoint, variables, x), activations)
    chosen = _likeliest(logits, k) if classes is None else classes
    ones = jax.nn.one_hot(chosen.T, logits.shape[-1], dtype=logits.dtype)  # [K, B, classes]
    gradients = jax.vmap(lambda each: pull(each)[0])(ones)  # [K, B, H, W, channels]
    weights = gradients.astype(jnp.float32).mean((2, 3))
    maps = jnp.einsum("bhwc,kbc->bkhw", activations.astype(jnp.float32), weights, precision=jax.lax.Precision.HIGHEST)
    return chosen, logits, maps


@functools.partial(jax.jit, static_argnames=("model", "preprocess", "side"))
def _covered(
    params: Any, pixels: jax.Array, corner: jax.Array, *, model: InceptionNet, preprocess: Preprocess, side: int
) -> jax.Array:
    """Returns the logits of images with a square in the mean colour, whose top left pixel is `corner` (row, column)."""
    images = normalise(pixels, preprocess)
    rows, columns = ((at := jnp.arange(images.shape[1]) - start, (at >= 0) & (at < side))[1] for start in corner)
    covered = (rows[:, None] & columns[None, :])[None, :, :, None]
    return cast(ModelOutput, model.apply({"params": params}, jnp.where(covered, 0.0, images))).logits
