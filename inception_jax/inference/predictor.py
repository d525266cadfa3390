"""Prediction: images in, classes out, compiled once for each bucket of batch sizes."""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from inception_jax import weights
from inception_jax.data.transforms import BrokenImage, eval_transform
from inception_jax.errors import UserError
from inception_jax.inference.fold_and_fuse import for_inference
from inception_jax.inference.forward import Outputs, log_mean, log_softmax, trace_forward
from inception_jax.inference.images import Encoded, Images, Input, as_images, as_names, loaded_rgb
from inception_jax.inference.multi_crop import check_crops, crops
from inception_jax.ops import Implementation
from inception_jax.ops.platforms import tracing_for, without_garbage_collection

Views = np.ndarray  # of one image: uint8 [V, size, size, 3]
Started = list[tuple[int, Outputs]]  # of each batch, how many of its rows are views


@dataclasses.dataclass(frozen=True)
class ClassScore:
    """A class, and how likely it is; the name is empty where none is known."""

    index: int
    label: str
    probability: float


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The likeliest classes of an image, the first first."""

    classes: tuple[ClassScore, ...]


class Predictor:
    """A network with its weights, its preprocessing and its class names, compiled for inference.

    Batch norms are folded into the convolutions and leading 1x1 convolutions fused; parameters are arguments of the
    compiled programs. A batch is padded to the next bucket: 1, 2, 4, ... times the number of devices, which share it.

    Args:
      source: weights, or what `ij.weights.load` takes.
      max_batch: images in the largest bucket; more are cut into several batches.
      dtype: of the computation: float32, or bfloat16 on accelerators.
      class_names: one for each class; None: those that the weights bring along.
      threads: that decode images.
      exif: turn images as their EXIF data say, so that a photograph is read as it is seen.
      implementation: of convolutions and pools; see `create_model`.

    Raises:
      UserError: the source cannot be loaded or has no classifier, or a number is out of range.
    """

    def __init__(
        self,
        source: weights.Weights,
        *,
        max_batch: int = 32,
        dtype: Any = jnp.float32,
        class_names: Sequence[str] | None = None,
        threads: int | None = None,
        exif: bool = True,
        implementation: Implementation = "auto",
    ):
        if max_batch < 1:
            raise UserError(f"max_batch is {max_batch}; it must be at least 1.")
        self.weights, self.info = source, source.info
        names = as_names(source.info.class_names if class_names is None else class_names)
        if names and len(names) != self.info.num_classes:
            raise UserError(f"{len(names)} class names were given; {self.info.model} has {self.info.num_classes}.")
        self.class_names = names or ("",) * self.info.num_classes
        self.transform = eval_transform(self.info.preprocess)
        self.threads, self.exif = threads or min(os.cpu_count() or 1, 16), exif

        devices = jax.local_devices()
        model = source.create_model(dtype, aux=False, implementation=implementation)
        network = for_inference(model, source.variables, devices[0].platform)
        self.model = network.model
        self._mesh = Mesh(np.array(devices), ("data",))
        self._split = NamedSharding(self._mesh, P("data"))
        self._params = jax.device_put(network.params, NamedSharding(self._mesh, P()))
        sizes = itertools.takewhile(lambda size: size < max_batch, (2**i for i in itertools.count()))
        self.buckets = sorted({-(-size // len(devices)) * len(devices) for size in (*sizes, max_batch)})
        self._programs: dict[tuple[int, tuple[str, ...]], jax.stages.Compiled] = {}

    @classmethod
    def from_weights(
        cls, source: Any, name: str | None = None, *, unverified: bool = False, **settings: Any
    ) -> Predictor:
        """Returns the predictor of a file, a card, or weights: see `ij.weights.load`, and `Predictor` for settings."""
        return cls(weights.load(source, name, unverified=unverified), **settings)

    @classmethod
    def from_checkpoint(cls, workdir: str | os.PathLike, average: bool | None = None, **settings: Any) -> Predictor:
        """Returns the predictor of the best checkpoint of a run; of the averaged parameters, if it kept some."""
        from inception_jax.training.saved import run_weights

        return cls(run_weights(os.fspath(workdir), average), **settings)

    def __repr__(self) -> str:
        """Returns one line: the model, its classes, pixels, dtype, devices and batch sizes."""
        classes, size = f"{self.info.num_classes:,} classes", self.info.preprocess.size
        devices = f"{self._mesh.size} {self._mesh.devices.flat[0].platform} device{'s' * (self._mesh.size > 1)}"
        batches = ", ".join(map(str, self.buckets))
        dtype = jnp.dtype(self.model.dtype).name
        return f"Predictor({self.info.model}, {classes}, {size} x {size} pixels, {dtype}, {devices}, batches {batches})"

    @overload
    def __call__(self, images: Encoded, k: int | None = None) -> Prediction: ...  # type: ignore[overload-overlap]

    @overload
    def __call__(self, images: np.ndarray, k: int | None = None) -> Any: ...  # by its axes: one image, or a batch

    @overload
    def __call__(self, images: Iterable[Input], k: int | None = None) -> list[Prediction]: ...

    def __call__(self, images: Images, k: int | None = None) -> Prediction | list[Prediction]:
        """Returns the k likeliest classes of each image; of an image that is given alone, its prediction alone.

        Args:
          images: a path, encoded bytes, an image of Pillow or an array [H, W, 3]; or a list of these, or an array
            [B, H, W, 3].
          k: how many classes; None: 5, or all if they are fewer.

        Raises:
          BrokenImage: one of them cannot be read; `stream` goes on with the others.
          UserError: k is out of range, or an array is no image.
        """
        given, alone = as_images(images)
        found = [self.top(logits, k) for logits in self.logits(given)]
        return found[0] if alone else found

    def stream(self, images: Images, k: int | None = None) -> Iterator[Prediction | BrokenImage]:
        """Yields a prediction, or what is broken, for each image in order, while the next ones are decoded."""
        for result in self.log_probabilities(images):
            yield result if isinstance(result, BrokenImage) else self.top(result, k)

    def log_probabilities(self, images: Images, crops: int = 1) -> Iterator[np.ndarray | BrokenImage]:
        """Yields for each image in order the logarithms [K], float64, of its probabilities, or what is broken.

        Args:
          images: what the predictor takes.
          crops: 1, 10 or 144 views of each image, over which the probabilities are averaged: see `crops`.
        """
        for result in self.outputs(images, ("logits",), crops):
            yield result if isinstance(result, BrokenImage) else log_mean(log_softmax(result["logits"]))

    def outputs(
        self, images: Images, names: str | Sequence[str], crops: int = 1, exif: bool | None = None
    ) -> Iterator[dict[str, np.ndarray] | BrokenImage]:
        """Yields for each image in order outputs [crops, ...] by name, or what is broken; decodes the next meanwhile.

        Args:
          images: what the predictor takes.
          names: "logits", "pooled" or endpoints.
          crops: 1, 10 or 144 views of each image.
          exif: turn images as their EXIF data say; None: as the predictor does.
        """
        names = self._known(names)
        if not self.info.num_classes and "logits" in names:
            raise UserError(f"{self.info.source or self.info.model} has no classifier.")
        running: tuple[list[Views | BrokenImage], Started] | None = None
        for chunk in self._decoded(images, crops, self.exif if exif is None else exif):
            views = [each for each in chunk if not isinstance(each, BrokenImage)]
            started = chunk, self._start(views, names)
            if running:
                yield from _collect(*running)
            running = started
        if running:
            yield from _collect(*running)

    def logits(self, images: Images) -> np.ndarray:
        """Returns the logits [N, K] of images; [1, K] of one that is given alone."""
        return self._stack(images, ("logits",))["logits"]

    def embed(self, images: Images) -> np.ndarray:
        """Returns what the classifier reads of images: the average [N, C] of the last map; N is 1 for one alone."""
        return self._stack(images, ("pooled",))["pooled"]

    def endpoints(self, images: Images, names: str | Sequence[str]) -> dict[str, np.ndarray]:
        """Returns the outputs [N, H, W, C] of endpoints for images, by name; N is 1 for an image that is given alone.

        Raises:
          UserError: the network has no such endpoint (`ij.endpoints` lists them), or none is named.
        """
        asked = as_names(names)
        unknown = [name for name in asked if name not in self.model.table]
        if unknown or not asked:
            raise UserError(f"{self.info.model} has no endpoint {unknown}; it has {', '.join(self.model.table)}.")
        return self._stack(images, asked)

    def compute(
        self, pixels: Sequence[np.ndarray], outputs: str | Sequence[str] = ("logits",)
    ) -> dict[str, np.ndarray]:
        """Returns outputs by name for images that `prepare` has made ready: the work of the devices alone.

        Raises:
          UserError: an unknown output, or other pixels than uint8 [size, size, 3].
        """
        ready, expected = [np.asarray(each) for each in as_images(pixels)[0]], (self.info.preprocess.size,) * 2 + (3,)
        for each in ready:
            if (each.shape, each.dtype) != (expected, np.uint8):
                raise UserError(
                    f"Pixels are uint8{list(expected)}, as `prepare` makes them, not {each.dtype}{list(each.shape)}."
                )
        return _fetch(self._start([each[None] for each in ready], self._known(outputs)))

    def warmup(self, outputs: str | Sequence[str] = ("logits",)) -> None:
        """Compiles the programs of all buckets ahead, so that no later call compiles."""
        names = self._known(outputs)
        for bucket in self.buckets:
            self._program(bucket, names)

    @property
    def compilations(self) -> int:
        """How many programs were compiled."""
        return len(self._programs)

    def prepare(self, image: Input) -> np.ndarray:
        """Returns the uint8 pixels [size, size, 3] that the network normalises and reads."""
        with loaded_rgb(image, self.exif) as rgb:
            return self.transform(rgb)

    @property
    def params(self) -> Any:
        """The parameters of `model`, on every device."""
        return self._params

    def place(self, rows: Sequence[np.ndarray]) -> jax.Array:
        """Returns arrays of one shape as a batch on the devices, padded with zeros to the next bucket."""
        bucket = next(size for size in self.buckets if size >= len(rows))
        batch = np.zeros((bucket, *rows[0].shape), rows[0].dtype)
        batch[: len(rows)] = rows
        return jax.device_put(batch, self._split)

    def trace(self, bucket: int, outputs: tuple[str, ...] = ("logits",)) -> jax.stages.Traced:
        """Returns the program of a bucket before it is compiled: (params, images) -> outputs."""
        return trace_forward(self.model, self._params, self.info.preprocess, bucket, outputs, self._mesh)

    def top(self, logits: np.ndarray, k: int | None = None) -> Prediction:
        """Returns the k likeliest classes of logits [K], or of log-probabilities; None: 5, or all if they are fewer.

        Raises:
          UserError: k is out of range.
        """
        k = min(5, len(logits)) if k is None else k
        if not 1 <= k <= len(logits):
            raise UserError(f"k is {k}; it must be 1 ... {len(logits)}.")
        log_probabilities = log_softmax(logits)
        probabilities = np.exp(log_probabilities)
        order = np.argsort(-log_probabilities, kind="stable")[:k]
        return Prediction(tuple(ClassScore(int(i), self.class_names[i], float(probabilities[i])) for i in order))

    def _known(self, names: str | Sequence[str]) -> tuple[str, ...]:
        """Returns names of outputs; raises a `UserError` for those that the network has not."""
        asked = as_names(names)
        if unknown := [name for name in asked if name not in ("logits", "pooled", *self.model.table)]:
            raise UserError(
                f"There is no output {unknown[0]!r}: there are logits, pooled, {', '.join(self.model.table)}."
            )
        return asked

    def _stack(self, images: Images, names: tuple[str, ...]) -> dict[str, np.ndarray]:
        rows: list[dict[str, np.ndarray]] = []
        for found in self.outputs(images, names):
            if isinstance(found, BrokenImage):
                raise found
            rows.append(found)
        if not rows:
            raise UserError("There are no images.")
        return {name: np.concatenate([row[name] for row in rows]) for name in names}

    def _decoded(self, images: Images, kind: int, exif: bool) -> Iterator[list[Views | BrokenImage]]:
        """Yields chunks of images whose views fill a bucket; a pool of threads is a chunk or more ahead."""
        check_crops(kind)

        def read(image: Input) -> Views | BrokenImage:
            try:
                with loaded_rgb(image, exif) as rgb:
                    return crops(rgb, kind, self.info.preprocess)
            except BrokenImage as error:
                return error

        size = max(self.buckets[-1] // kind, 1)
        rest, ahead = iter(as_images(images)[0]), collections.deque[concurrent.futures.Future]()
        with concurrent.futures.ThreadPoolExecutor(self.threads) as pool:
            while True:
                missing = size + max(size, self.threads) - len(ahead)
                ahead.extend(pool.submit(read, image) for image in itertools.islice(rest, missing))
                if not ahead:
                    return
                yield [ahead.popleft().result() for _ in range(min(size, len(ahead)))]

    def _start(self, views: list[Views], outputs: tuple[str, ...]) -> Started:
        """Starts the programs for the views of some images, in batches of up to the largest bucket."""
        pixels = [view for each in views for view in each]
        started = []
        for first in range(0, len(pixels), self.buckets[-1]):
            part = pixels[first : first + self.buckets[-1]]
            batch = self.place(part)
            started.append((len(part), self._program(len(batch), outputs)(self._params, batch)))
        return started

    def _program(self, bucket: int, outputs: tuple[str, ...]) -> jax.stages.Compiled:
        key = bucket, outputs
        if key not in self._programs:
            with without_garbage_collection(), tracing_for(list(self._mesh.devices.flat)):
                self._programs[key] = self.trace(bucket, outputs).lower().compile()
        return self._programs[key]


def _collect(chunk: list[Views | BrokenImage], started: Started) -> Iterator[dict[str, np.ndarray] | BrokenImage]:
    """Yields the outputs of each image of a chunk, fetched from the devices, or what is broken."""
    arrays, first = _fetch(started), 0
    for views in chunk:
        if isinstance(views, BrokenImage):
            yield views
        else:
            yield {name: array[first : first + len(views)] for name, array in arrays.items()}
            first += len(views)


def _fetch(started: Started) -> dict[str, np.ndarray]:
    """Returns the outputs of all batches by name, without the rows that pad them."""
    parts = [{name: array[:count] for name, array in found.items()} for count, found in jax.device_get(started)]
    return {name: np.concatenate([part[name] for part in parts]) for name in (parts[0] if parts else ())}
