"""Batches for training and evaluation, from a source and a transform, with Grain.

The images of global training step s are at the positions s B ... s B + B - 1 of one endless stream in which every epoch
is a new permutation. Permutation and augmentation depend only on the seed and the position. So a step has the same
images for any number of processes and workers, and after any resume. Each process reads consecutive rows of a step.
"""

from __future__ import annotations

import dataclasses
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Sequence

import grain
import numpy as np
from absl import flags

from inception_jax.data import exif, jpeg, unguarded
from inception_jax.data.jpeg_regions import opened_for_crop, warn_of_whole_decoding
from inception_jax.data.pixels import BrokenImage, decoded
from inception_jax.data.sources import ImageSource, UnreadableRecord
from inception_jax.data.transforms import Transform
from inception_jax.errors import UserError, first_line

logger = logging.getLogger(__name__)

Batch = dict[str, np.ndarray]
"""image uint8 [b, H, W, 3], label int32 [b], mask float32 [b] (0: padding or skipped), index int32 [b] (-1: padding).

`index` is the index of the image in its source.
"""

PADDING = -1
_warned_of_exif = threading.Event()
ON_ERROR = ("raise", "skip")


@dataclasses.dataclass(frozen=True)
class LoaderOptions:
    """Which images this process reads, and with how many workers and threads.

    Attributes:
      process, processes: index of this process and their number; each reads equally many images of every batch.
      workers: number of processes that decode; 0 decodes in threads of this process.
      threads: number of threads that read and decode, per worker.
      buffer: number of batches kept ready, per worker; `threads` if that is more.
      on_error: "raise" stops at an image that is broken or cannot be read; "skip" masks it out.

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

    def images(self, batch_size: int) -> int:
        """Returns how many images of a global batch this process reads."""
        if batch_size % self.processes:
            raise UserError(f"batch_size is {batch_size}; it must be a multiple of the {self.processes} processes.")
        return batch_size // self.processes


def train_batches(
    source: ImageSource,
    transform: Transform,
    batch_size: int,
    seed: int,
    steps: range,
    options: LoaderOptions,
) -> Generator[Batch, None, None]:
    """Returns a generator of this process's images of each global batch.

    Args:
      source: the training images.
      transform: an augmentation.
      batch_size: images in a global batch; a multiple of the number of processes.
      seed: of the order and the augmentation, in 0 ... 2**32 - 1.
      steps: global steps to read, `range(start, stop)`.
      options: of this process.

    Raises:
      UserError: the batch size is not a multiple of the processes; while iterating, an image is broken, a worker died.
    """
    if transform.accepts_encoded:
        warn_of_whole_decoding()
    epochs = max(-(-steps.stop * batch_size // len(source)), 1)  # endless, Grain's lengths would overflow
    order = grain.MapDataset.range(len(source)).seed(seed).shuffle().repeat(epochs)
    load = LoadBatch(source, transform, options.on_error, order, options.images(batch_size), seed)
    return _read(load, steps, options)


def eval_batches(
    source: ImageSource, transform: Transform, batch_size: int, options: LoaderOptions
) -> Generator[Batch, None, None]:
    """Returns a generator of this process's images of batches that hold every image once; the last ones are padded."""
    steps = range(-(-len(source) // batch_size))
    order = range(len(steps) * batch_size)
    load = LoadBatch(source, transform, options.on_error, order, options.images(batch_size), seed=0)
    return _read(load, steps, options)


def skipped(batch: Batch) -> list[int]:
    """Returns the indices of the images that a batch leaves out because they are broken."""
    return batch["index"][(batch["mask"] == 0) & (batch["index"] != PADDING)].tolist()


@dataclasses.dataclass(frozen=True, repr=False)  # Grain calls repr, which would print all records
class LoadBatch(grain.transforms.Map):
    """Turns a number n into the images at the positions n b ... n b + b - 1 of a stream, b = `images`.

    Attributes:
      source, transform, on_error: the images, what is done to each, and what happens to broken ones.
      order: the index of the record at each position; an index past the end of the source is padding.
      images: number of images in a batch of this process.
      seed: with the position it seeds the random generator of an image.
    """

    source: ImageSource
    transform: Transform
    on_error: str
    order: Sequence[int]
    images: int
    seed: int

    def map(self, number: int) -> Batch:
        """Reads, decodes and transforms; a broken image raises `BrokenImage`, or becomes black with mask 0."""
        count, size = self.images, self.transform.size
        batch: Batch = {
            "image": np.empty((count, size, size, 3), np.uint8),
            "label": np.zeros(count, np.int32),
            "mask": np.zeros(count, np.float32),
            "index": np.full(count, PADDING, np.int32),
        }
        for row, position in enumerate(range(number * count, (number + 1) * count)):
            index, pixels = self.order[position], None
            if index < len(self.source):
                batch["index"][row] = index
                pixels, batch["label"][row] = self._read(index, position)
            batch["image"][row] = 0 if pixels is None else pixels
            batch["mask"][row] = pixels is not None
        return batch

    def _read(self, index: int, position: int) -> tuple[np.ndarray | None, int]:
        """Returns the transformed pixels of a record, None if it is skipped, and its label."""
        label = 0
        try:
            record = self.source[index]
            label = record["label"]
            return self._pixels(record["image"], position), label
        except UnreadableRecord as error:
            failure: BrokenImage = error
            message = first_line(error)
        except BrokenImage as error:
            failure, message = error, f"broken image, {self.source.describe(index)}: {error}"
        if self.on_error == "raise":
            raise BrokenImage(f'{message[0].upper()}{message[1:]}. data.on_error="skip" leaves such out.') from failure
        logger.warning("skipped %s", message)
        return None, label

    def _pixels(self, encoded: bytes, position: int) -> np.ndarray:
        rng = np.random.Generator(np.random.Philox(key=[self.seed, position]))
        if not self.source.exif:
            _warn_of_ignored_exif(encoded)
        open_it = opened_for_crop if self.transform.accepts_encoded else decoded
        with open_it(encoded, self.source.exif) as image:
            return self.transform(image, rng)  # type: ignore[arg-type]


def _warn_of_ignored_exif(encoded: bytes) -> None:
    """Warns once in a process if the EXIF orientation of an image is ignored."""
    if _warned_of_exif.is_set() or encoded.find(b"Exif\0\0", 0, 64) < 0:  # cameras write it there
        return
    if exif.orientation(jpeg.read_header(encoded).exif) != exif.UPRIGHT:
        _warned_of_exif.set()
        logger.warning("Images state an EXIF orientation, which is ignored; data.exif=True turns them.")


def _read(load: LoadBatch, steps: range, options: LoaderOptions) -> Generator[Batch, None, None]:
    # Local batches are numbered across processes. A worker reads whole batches, so the number of workers is irrelevant.
    first, last = steps.start * options.processes + options.process, steps.stop * options.processes
    batches = grain.MapDataset.range(first, last, options.processes).map(load)
    batches = batches.to_iter_dataset(grain.ReadOptions(options.threads, max(options.threads, options.buffer)))
    if options.workers:
        if not flags.FLAGS.is_parsed():  # Grain reads its own flags before it starts workers
            flags.FLAGS.mark_as_parsed()
        batches = batches.mp_prefetch(grain.MultiprocessingOptions(options.workers), worker_init_fn=_follow_parent)
    return _iterate(batches)


def _iterate(batches: grain.IterDataset) -> Generator[Batch, None, None]:
    """Yields the batches; raises a `UserError` for a dead worker, and stops the workers when the caller stops."""
    iterator = iter(batches)
    try:
        yield from iterator
    except RuntimeError as error:
        if "Worker process was terminated" not in str(error):
            raise
        unguarded.check(error)
        raise UserError(
            f"A data worker died ({error}) If memory ran out, lower data.workers, data.threads or data.buffer."
        ) from error
    finally:
        iterator.close()


def _follow_parent(worker: int, workers: int) -> None:
    """Makes a worker ignore signals, and end when its parent ends or is killed.

    A scheduler sends SIGTERM to every process of a job; the parent still needs batches until it has saved.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def exit_after_parent():
        parent.join()
        os._exit(1)

    threading.Thread(target=exit_after_parent, name=f"worker-{worker}-of-{workers}-follows-parent", daemon=True).start()
