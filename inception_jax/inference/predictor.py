"""Prediction: images in, classes out. `forward` compiles one program for each bucket of batch sizes."""

from __future__ import annotations

import collections
import concurrent.futures
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

import jax
import jax.numpy as jnp
import numpy as np

from inception_jax import weights
from inception_jax.data.transforms import BrokenImage, eval_transform
from inception_jax.errors import UserError
from inception_jax.inference.fold_and_fuse import for_inference
from inception_jax.inference.forward import Programs, Started, fetch
from inception_jax.inference.images import Encoded, Images, Input, as_images, as_names, joined, loaded
from inception_jax.inference.multi_crop import check_crops, crops
from inception_jax.inference.prediction import Prediction, likeliest, mean_log_probabilities
from inception_jax.ops import Implementation
from inception_jax.weights.pretrained import Pretrained

Crops = np.ndarray  # of one image: uint8 [N, size, size, C]


class Predictor:
    """A network with its weights, its preprocessing and its class names, compiled for inference.

    Batch norms are folded into the convolutions and leading 1x1 convolutions merged (`fold_and_fuse`). A batch is
    padded to the next bucket, as `forward.Programs` says.

    Args:
      source: weights, as `ij.weights.load` returns them, or what `ij.load` returns.
      max_batch: images in the largest bucket; more images run in several batches.
      dtype: of the computation: float32, or bfloat16 on accelerators.
      class_names: one for each class; None: those of the weights.
      threads: how many threads decode images; None: one for each CPU core, at most 16.
      exif: turn images by their EXIF orientation.
      implementation: of convolutions and pools; see `create_model`.

    Raises:
      UserError: `max_batch` or the number of class names is wrong.
    """

    def __init__(
        self,
        source: weights.Weights | Pretrained,
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
        self.weights = source.weights if isinstance(source, Pretrained) else source
        self.info = source.info
        names = as_names(source.info.class_names if class_names is None else class_names)
        if names and len(names) != self.info.num_classes:
            raise UserError(f"{len(names)} class names were given; {self.info.model} has {self.info.num_classes}.")
        self.class_names = names or ("",) * self.info.num_classes
        self.transform = eval_transform(self.info.preprocess)
        self.threads, self.exif = threads or min(os.cpu_count() or 1, 16), exif

        platform = jax.local_devices()[0].platform
        model = self.weights.create_model(dtype, aux=False, implementation=implementation)
        network = for_inference(model, self.weights.variables, platform)
        self.model = network.model
        self.programs = Programs(network.model, network.params, self.info.preprocess, max_batch)

    @property
    def buckets(self) -> list[int]:
        """The batch sizes of the compiled programs, the smallest first."""
        return self.programs.buckets

    @classmethod
    def from_weights(
        cls, source: Any, name: str | None = None, *, unverified: bool = False, key: str | None = None, **settings: Any
    ) -> Predictor:
        """Returns the predictor of whatever `ij.weights.load` takes: a file, the id of a card, weights.

        Args:
          source, name, unverified, key: arguments of `ij.weights.load`, which says what it raises.
          settings: arguments of `Predictor`.
        """
        return cls(weights.load(source, name, unverified=unverified, key=key), **settings)

    @classmethod
    def from_checkpoint(cls, workdir: str | os.PathLike, average: bool | None = None, **settings: Any) -> Predictor:
        """Returns the predictor of the best checkpoint of a run.

        Args:
          workdir: the folder of the run.
          average: use the averaged parameters; None: if the run kept them.
          settings: arguments of `Predictor`.
        """
        from inception_jax.training.saved import run_weights

        return cls(run_weights(os.fspath(workdir), average), **settings)

    def __repr__(self) -> str:
        """Returns one line: the model, its classes, pixels, dtype, devices and batch sizes."""
        classes, size = f"{self.info.num_classes:,} classes", self.info.preprocess.size
        mesh = self.programs.mesh
        devices = f"{mesh.size} {mesh.devices.flat[0].platform} device{'s' * (mesh.size > 1)}"
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
        """Returns the k likeliest classes of each image; for a single image, not in a list, one prediction.

        Args:
          images: a path, encoded bytes, a Pillow image or an array [H, W, 3]; or a list of these, or an array
            [B, H, W, 3]. A network of one channel reads them as grey, and takes arrays [H, W, 1], too; one of another
            number of channels C takes arrays [H, W, C] alone.
          k: how many classes; None: 5, or all if there are fewer.

        Raises:
          BrokenImage: one of them cannot be read; `stream` continues with the others.
          UserError: k is out of range, or an array is no image.
        """
        given, alone = as_images(images, self.info.in_channels)
        found = [self.top(logits, k) for logits in self.logits(given)]
        return found[0] if alone else found

    def stream(self, images: Images, k: int | None = None) -> Iterator[Prediction | BrokenImage]:
        """Yields a prediction, or a `BrokenImage`, for each image in order; the next images are decoded meanwhile."""
        for result in self.log_probabilities(images):
            yield result if isinstance(result, BrokenImage) else self.top(result, k)

    def log_probabilities(self, images: Images, crops: int = 1) -> Iterator[np.ndarray | BrokenImage]:
        """Yields for each image in order its log-probabilities [K], float64, or a `BrokenImage`.

        Args:
          images: as `__call__` takes them.
          crops: 1, 10 or 144 crops of each image, over which the probabilities are averaged: see `multi_crop.crops`.
        """
        for result in self.outputs(images, ("logits",), crops):
            yield result if isinstance(result, BrokenImage) else mean_log_probabilities(result["logits"])

    def outputs(
        self, images: Images, names: str | Sequence[str], crops: int = 1, exif: bool | None = None
    ) -> Iterator[dict[str, np.ndarray] | BrokenImage]:
        """Yields for each image in order its outputs [crops, ...] by name, or a `BrokenImage`.

        The next images are decoded while a batch runs.

        Args:
          images: as `__call__` takes them.
          names: "logits", "pooled", "embedding" or endpoints.
          crops: 1, 10 or 144 crops of each image.
          exif: turn images by their EXIF orientation; None: as the predictor does.

        Raises:
          UserError: an unknown output, "logits" of a network without classifier, or another number of crops.
        """
        names = self._known(names)
        if not self.info.num_classes and "logits" in names:
            raise UserError(f"{self.info.source or self.info.model} has no classifier.")
        running: tuple[list[Crops | BrokenImage], Started] | None = None
        for chunk in self._decoded(images, crops, self.exif if exif is None else exif):
            pixels = [crop for each in chunk if not isinstance(each, BrokenImage) for crop in each]
            started = chunk, self.programs.start(pixels, names)
            if running:
                yield from _collect(*running)
            running = started
        if running:
            yield from _collect(*running)

    def logits(self, images: Images) -> np.ndarray:
        """Returns the logits [N, K] of images, float32; N is 1 for a single image."""
        return self._stack(images, ("logits",))["logits"]

    def features(self, images: Images) -> np.ndarray:
        """Returns the pooled features [N, C], float32: the last activations, averaged over height and width."""
        return self._stack(images, ("pooled",))["pooled"]

    def embed(self, images: Images) -> np.ndarray:
        """Returns embeddings [N, D], each of length 1, if the network has one; else the pooled features [N, C]."""
        name = "embedding" if self.info.head.embedding else "pooled"
        return self._stack(images, (name,))[name]

    def endpoints(self, images: Images, names: str | Sequence[str]) -> dict[str, np.ndarray]:
        """Returns the activations [N, H, W, C] at endpoints, by name; N is 1 for a single image.

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
        """Returns outputs by name for pixels that `prepare` returned: nothing but the work of the devices.

        Raises:
          UserError: an unknown output, or the pixels are not uint8 [size, size, C].
        """
        size, channels = self.info.preprocess.size, self.info.in_channels
        ready, expected = [np.asarray(each) for each in as_images(pixels, channels)[0]], (size, size, channels)
        for each in ready:
            if (each.shape, each.dtype) != (expected, np.uint8):
                raise UserError(
                    f"Pixels are uint8{list(expected)}, as `prepare` makes them, not {each.dtype}{list(each.shape)}."
                )
        return fetch(self.programs.start(ready, self._known(outputs)))

    def warmup(self, outputs: str | Sequence[str] = ("logits",)) -> None:
        """Compiles the programs of all buckets, so that no later call compiles."""
        names = self._known(outputs)
        for bucket in self.buckets:
            self.programs.compiled(bucket, names)

    @property
    def compilations(self) -> int:
        """How many programs were compiled."""
        return self.programs.count

    def prepare(self, image: Input) -> np.ndarray:
        """Returns the pixels uint8 [size, size, C] of an image, cut and resized as the preprocessing says."""
        with loaded(image, self.info.in_channels, self.exif) as planes:
            return joined([self.transform(plane) for plane in planes], self.info.in_channels)

    @property
    def params(self) -> Any:
        """The parameters of `model`, on every device."""
        return self.programs.params

    def place(self, rows: Sequence[np.ndarray]) -> jax.Array:
        """Returns arrays of one shape as a batch on the devices, padded with zeros to the next bucket."""
        return self.programs.place(rows)

    def trace(self, bucket: int, outputs: tuple[str, ...] = ("logits",)) -> jax.stages.Traced:
        """Returns the program of a bucket before it is compiled: (params, images) -> outputs."""
        return self.programs.trace(bucket, outputs)

    def top(self, logits: np.ndarray, k: int | None = None) -> Prediction:
        """Returns the k likeliest classes of logits or log-probabilities [K]; None: 5, or all if there are fewer.

        Raises:
          UserError: k is out of range.
        """
        return likeliest(logits, self.class_names, k)

    def _known(self, names: str | Sequence[str]) -> tuple[str, ...]:
        """Returns the names of outputs; raises a `UserError` for a name that the network does not have."""
        asked = as_names(names)
        embedding = ("embedding",) if self.info.head.embedding else ()
        known = ("logits", "pooled", *embedding, *self.model.table)
        if unknown := [name for name in asked if name not in known]:
            raise UserError(f"There is no output {unknown[0]!r}: there are {', '.join(known)}.")
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

    def _decoded(self, images: Images, count: int, exif: bool) -> Iterator[list[Crops | BrokenImage]]:
        """Yields lists of images whose crops fill a bucket; a pool of threads decodes at least one list ahead."""
        check_crops(count)

        def read(image: Input) -> Crops | BrokenImage:
            try:
                with loaded(image, self.info.in_channels, exif) as planes:
                    found = [crops(plane, count, self.info.preprocess) for plane in planes]
                return joined(found, self.info.in_channels)
            except BrokenImage as error:
                return error

        size = max(self.buckets[-1] // count, 1)
        rest = iter(as_images(images, self.info.in_channels)[0])
        ahead = collections.deque[concurrent.futures.Future]()
        with concurrent.futures.ThreadPoolExecutor(self.threads) as pool:
            while True:
                missing = size + max(size, self.threads) - len(ahead)
                ahead.extend(pool.submit(read, image) for image in itertools.islice(rest, missing))
                if not ahead:
                    return
                yield [ahead.popleft().result() for _ in range(min(size, len(ahead)))]


def _collect(chunk: list[Crops | BrokenImage], started: Started) -> Iterator[dict[str, np.ndarray] | BrokenImage]:
    """Yields for each image of a chunk its outputs, fetched from the devices, or a `BrokenImage`."""
    arrays, first = fetch(started), 0
    for each in chunk:
        if isinstance(each, BrokenImage):
            yield each
        else:
            yield {name: array[first : first + len(each)] for name, array in arrays.items()}
            first += len(each)
