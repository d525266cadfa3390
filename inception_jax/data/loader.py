"""Batches for training and evaluation, from a source and a transform, with Grain.

The images of global training step s are the positions s B ... s B + B - 1 of one endless stream in which every epoch is
a new permutation. Position, permutation and augmentation depend on the seed alone, so a step holds the same images for
any number of processes and workers, and after any resume. Each process reads its own consecutive part of a step.
"""

from __future__ import annotations

import dataclasses
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Sequence
from typing import Any

import grain
import numpy as np
from absl import flags

from inception_jax.data.parts import decodes_parts, open_image
from inception_jax.data.sources import ImageSource
from inception_jax.data.transforms import BrokenImage, InceptionCrop, Transform, decode
from inception_jax.errors import UserError

logger = logging.getLogger(__name__)

Batch = dict[str, np.ndarray]
"""image uint8 [b, H, W, 3], label int32 [b], mask float32 [b] (0: padding or skipped), index int32 [b] (-1: padding).

`index` is the place of the image in its source.
"""

PADDING = -1
ON_ERROR = ("raise", "skip")


@dataclasses.dataclass(frozen=True)
class Reading:
    """How a process reads: its place among the processes, and its workers.

    Attributes:
      process, processes: this process and their number; each reads an equal part of every batch.
      workers: processes that decode; 0 decodes in threads of this one.
      threads: threads that read and decode, per worker.
      buffer: batches kept ready, per worker; at least one a thread.
      on_error: "raise" stops at a broken image; "skip" masks it out.

    Raises:
      UserError: a value out of range.
    """

    process: int = 0
    processes: int = 1
    workers: int = 0
    threads: int = 4
    buffer: int = 4
    on_error: str = "raise"

    def __post_init__(self):
        if not 0 <= self.process < self.processes:
            raise UserError(f"process is {self.process}; it must be in 0 ... {self.processes - 1}.")
        if self.on_error not in ON_ERROR:
            raise UserError(f"data.on_error is {self.on_error!r}; allowed: {', '.join(ON_ERROR)}.")


def train_batches(
    source: ImageSource,
    transform: Transform,
    batch_size: int,
    seed: int,
    steps: range,
    reading: Reading,
) -> Generator[Batch, None, None]:
    """Returns this process's part of each global batch of `steps`.

    Args:
      source: the training images.
      transform: an augmentation.
      batch_size: images in a global batch; a multiple of the number of processes.
      seed: of the order and the augmentation, in 0 ... 2**32 - 1.
      steps: global steps to read, `range(start, stop)`.
      reading: how this process reads.

    Raises:
      UserError: at once for a bad batch size; while reading for a broken image or a dead worker.
    """
    if isinstance(transform, InceptionCrop) and not decodes_parts():
        logger.warning(
            "JPEGs are decoded whole, which takes longer: this package was installed without a C compiler or without "
            "the headers of libjpeg-turbo (libjpeg-dev)."
        )
    epochs = max(-(-steps.stop * batch_size // len(source)), 1)  # endless, Grain's lengths would overflow
    order = grain.MapDataset.range(len(source)).seed(seed).shuffle().repeat(epochs)
    return _read(order.random_map(LoadImage(source, transform, reading.on_error)), batch_size, steps, reading)


def eval_batches(
    source: ImageSource, transform: Transform, batch_size: int, reading: Reading
) -> Generator[Batch, None, None]:
    """Returns this process's part of batches that hold every image of `source` once; the last ones are padded."""
    steps = range(-(-len(source) // batch_size))
    order = grain.MapDataset.range(len(steps) * batch_size)
    return _read(order.random_map(LoadImage(source, transform, reading.on_error), seed=0), batch_size, steps, reading)


def skipped(batch: Batch) -> list[int]:
    """Returns the records of a batch that were left out because their images are broken."""
    return batch["index"][(batch["mask"] == 0) & (batch["index"] != PADDING)].tolist()


@dataclasses.dataclass(frozen=True)
class LoadImage(grain.transforms.RandomMap):
    """Turns the index of a record into an example; behind the end of the source there is padding."""

    source: ImageSource
    transform: Transform
    on_error: str

    def random_map(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """Reads, decodes and transforms; a broken image raises `BrokenImage`, or becomes black with mask 0."""
        if index >= len(self.source):
            return self._example(None, 0, PADDING)
        record, pixels = self.source[index], None
        try:
            pixels = self._pixels(record["image"], rng)
        except BrokenImage as error:
            message = f"{self.source.describe(index)}: {error}"
            if self.on_error == "raise":
                raise BrokenImage(f'Broken image, {message}. data.on_error="skip" leaves such out.') from error
            logger.warning("skipped broken image, %s", message)
        return self._example(pixels, record["label"], index)

    def _pixels(self, encoded: bytes, rng: np.random.Generator) -> np.ndarray:
        if isinstance(self.transform, InceptionCrop):  # needs a part alone
            return self.transform(open_image(encoded), rng)
        return self.transform(decode(encoded), rng)

    def _example(self, pixels: np.ndarray | None, label: int, index: int) -> dict[str, Any]:
        mask = np.float32(pixels is not None)
        if pixels is None:
            pixels = np.zeros((self.transform.size, self.transform.size, 3), np.uint8)
        return {"image": pixels, "label": np.int32(label), "mask": mask, "index": np.int32(index)}


def _collate(examples: Sequence[dict[str, Any]]) -> Batch:
    return {key: np.stack([example[key] for example in examples]) for key in examples[0]}


def _read(stream: grain.MapDataset, batch_size: int, steps: range, reading: Reading) -> Generator[Batch, None, None]:
    if batch_size % reading.processes:
        raise UserError(f"batch_size is {batch_size}; it must be a multiple of the {reading.processes} processes.")
    # Local batches of all processes in turn; a worker reads whole ones, so that their number changes nothing.
    first, last = steps.start * reading.processes + reading.process, steps.stop * reading.processes
    batches = stream.batch(batch_size // reading.processes, batch_fn=_collate)[first : last : reading.processes]
    batches = batches.to_iter_dataset(grain.ReadOptions(reading.threads, max(reading.threads, reading.buffer)))
    if reading.workers:
        if not flags.FLAGS.is_parsed():  # Grain reads its own flags before it starts workers
            flags.FLAGS.mark_as_parsed()
        batches = batches.mp_prefetch(grain.MultiprocessingOptions(reading.workers), worker_init_fn=_follow_parent)
    return _iterate(batches)


def _iterate(batches: grain.IterDataset) -> Generator[Batch, None, None]:
    """Yields, names a dead worker, and stops the workers when the caller stops."""
    iterator = iter(batches)
    try:
        yield from iterator
    except RuntimeError as error:
        if "Worker process was terminated" not in str(error):
            raise
        raise UserError(
            f"A data worker died ({error}) If memory ran out, lower data.workers, data.threads or data.buffer."
        ) from error
    finally:
        iterator.close()


def _follow_parent(worker: int, workers: int) -> None:
    """Makes a worker end with its parent, even a killed one, and leave signals to it.

    A scheduler sends SIGTERM to every process of a job; the parent still wants batches while it saves and stops.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def exit_after_parent():
        parent.join()
        os._exit(1)

    threading.Thread(target=exit_after_parent, name=f"worker-{worker}-of-{workers}-follows-parent", daemon=True).start()
