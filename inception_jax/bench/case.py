"""A case of `bench model`: network, mode, batch and precision, with the weights and images that all engines get."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np

from inception_jax.describe import summary
from inception_jax.errors import UserError
from inception_jax.models import zoo
from inception_jax.ops import IMPLEMENTATIONS, Implementation
from inception_jax.weights import Weights, WeightsInfo
from inception_jax.weights.naming.lineages import variable_shapes

Mode = Literal["inference", "train"]
Dtype = Literal["float32", "tf32", "bfloat16"]
MODES: tuple[Mode, ...] = ("inference", "train")
DTYPES: tuple[Dtype, ...] = ("float32", "tf32", "bfloat16")

BATCHES = 4  # they rotate, so that the images of a call are not in a cache already
LEARNING_RATE, MOMENTUM = 1e-3, 0.9


@dataclasses.dataclass(frozen=True)
class Case:
    """What every engine runs.

    Attributes:
      model: a name of the zoo.
      mode: "inference" computes logits; "train" is a step of SGD with momentum that returns loss, new parameters and
        running statistics.
      batch: images per call.
      dtype: of the computation; parameters are float32. On GPUs, tf32 is float32 whose convolutions round their inputs
        to 10 bits of mantissa.
      image_size: height and width in pixels; None: the model card's.
      num_classes, aux: arguments of `create_model`; auxiliary heads run in training only.
      threads: CPU cores that an engine may use; None: all.
      implementation: of our convolutions and pools; see `create_model`.
      seed: of weights, images and labels.
    """

    model: str
    mode: Mode
    batch: int
    dtype: Dtype = "float32"
    image_size: int | None = None
    num_classes: int = 1000
    aux: bool = False
    threads: int | None = None
    seed: int = 0
    implementation: Implementation = "auto"

    def __post_init__(self) -> None:
        for name, allowed in (("mode", MODES), ("dtype", DTYPES), ("implementation", IMPLEMENTATIONS)):
            if getattr(self, name) not in allowed:
                raise UserError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(allowed)}.")
        if self.heads and not zoo.model_card(self.model).aux_heads:
            raise UserError(f"{self.model} has no auxiliary heads; measure without them.")
        for name in ("batch", "num_classes", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name} is {value}; it must be at least 1.")

    @property
    def size(self) -> int:
        """Height and width of the images."""
        return self.image_size or zoo.model_card(self.model).preprocess.size

    @property
    def heads(self) -> bool:
        """Whether auxiliary heads run."""
        return self.aux and self.mode == "train"

    def check(self) -> None:
        """Raises a `ValueError` if the model is unknown or does not accept this image size."""
        model = zoo.create_model(self.model, self.num_classes, aux=self.heads)
        model.check_size(self.size, self.size, heads=self.heads)

    def __str__(self) -> str:
        heads = " with auxiliary heads" if self.heads else ""
        return f"{self.model}{heads}, {self.mode}, {self.batch} x {self.size} x {self.size}, {self.dtype}"


def images(case: Case) -> np.ndarray:
    """Returns pixels [BATCHES, batch, size, size, 3], uint8: noise around a random colour for each image."""
    rng = np.random.default_rng((case.seed, 1))
    shape = (BATCHES, case.batch, case.size, case.size, 3)
    noise = rng.integers(0, 128, shape, np.uint8)
    noise += rng.integers(0, 128, (*shape[:2], 1, 1, 3), np.uint8)
    return noise


def labels(case: Case) -> np.ndarray:
    """Returns class indices [BATCHES, batch], int32."""
    rng = np.random.default_rng((case.seed, 2))
    return rng.integers(0, case.num_classes, (BATCHES, case.batch), np.int32)


def random_weights(case: Case, scales: bool = True) -> Weights:
    """Returns random weights: He-normal kernels, and the other variables uniform about one (scale, var) or zero.

    Args:
      case: names the model.
      scales: whether the scale (gamma) of batch norms is random; False: one, for engines without this parameter.
    """
    card = zoo.model_card(case.model)
    preprocess = dataclasses.replace(card.preprocess, size=case.size)
    info = WeightsInfo(case.model, case.num_classes, case.heads, preprocess, card.numerics)
    rng = np.random.default_rng((case.seed, 0))
    flat = {path: _draw(rng, path, shape) for path, shape in variable_shapes(info.create_model(), case.size).items()}
    if not scales:
        paths = [path for path in flat if path[-2:] == ("bn", "scale")]
        flat |= {path: np.ones_like(flat[path]) for path in paths}
        info = dataclasses.replace(info, filled=tuple("/".join(path[1:]) for path in paths))
    return Weights.of(info, flat)


def flops_per_image(case: Case) -> int:
    """Returns the floating-point operations per image: two for each multiply-add of convolutions and linear layers.

    Training counts three passes (forward, gradient by input, gradient by weights) but no gradient by the image.
    """
    table = summary.summarize(case.model, case.size, num_classes=case.num_classes, aux=case.heads)
    rows = (*table.rows, *table.aux)
    macs = sum(row.macs for row in rows)
    if case.mode == "inference":
        return 2 * macs
    first = next(row.layers[0] for row in rows if row.layers)
    return 2 * (3 * macs - first.macs)


def _draw(rng: np.random.Generator, path: tuple[str, ...], shape: tuple[int, ...]) -> np.ndarray:
    leaf = path[-1]
    if leaf == "kernel":
        return rng.standard_normal(shape, np.float32) * np.float32((2 / np.prod(shape[:-1])) ** 0.5)
    low, high = (0.8, 1.2) if leaf in ("scale", "var") else (-0.1, 0.1)
    return rng.uniform(low, high, shape).astype(np.float32)
