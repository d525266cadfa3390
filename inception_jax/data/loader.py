"""Batches for training and evaluation, from a source and a transform, with Grain.

The images of global training step s are the positions s B ... s B + B - 1 of one endless stream in which every epoch is
a new permutation. Position, permutation and augmentation depend on the seed alone, so a step holds the same images for
any number of processes and workers, and after any resume. Each process reads its own consecutive part of a step.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Iterator

import grain
import numpy as np
from absl import flags

from inception_jax.data.sources import ImageSource
from inception_jax.data.transforms import BrokenImage, Transform, decode
from inception_jax.errors import UserError

Batch = dict[str, np.ndarray]
"""image uint8 [b, H, W, 3], label int32 [b], mask float32 [b] (0: padding or skipped), index int32 [b] (-1: pad)."""

PADDING = -1


@dataclasses.dataclass(frozen=True)
class Reading:
    """How a process reads: its place among the processes, and its workers.

    Attributes:
      process, processes: this process and their number; each reads an equal part of every batch.
      workers: processes that decode; 0 decodes in threads of this one.
      threads: threads that read and decode, per worker.
      buffer: batches kept ready, per worker.
      on_error: "raise" stops at a broken image; "skip" masks it out.
    """

    process: int = 0
    processes: int = 1
    workers: int = 0
    threads: int = 4
    buffer: int = 4
    on_error: str = "raise"


@dataclasses.dataclass(frozen=True)
class LoadImage(grain.transforms.RandomMap):
    """Turns a record of a source into an example."""

    describe: str
    transform: Transform
    size: int
    on_error: str

    def random_map(self, record: dict, rng: np.random.Generator) -> Batch:
        """Decodes and transforms; a broken image raises `BrokenImage`, or becomes black with mask 0."""
        try:
            image, mask = self.transform(decode(record["image"]), rng), 1.0
        except BrokenImage as error:
            message = f"record {record['index']} of {self.describe}: {error}"
            if self.on_error == "raise":
                raise BrokenImage(f'{message}. data.on_error="skip" leaves such images out.') from error
            logging.warning("skipped %s", message)
            image, mask = np.zeros((self.size, self.size, 3), np.uint8), 0.0
        return {
            "image": image,
            "label": np.int32(record["label"]),
            "mask": np.float32(mask),
            "index": np.int32(record["index"]),
        }


def train_batches(
    source: ImageSource,
    transform: Transform,
    batch_size: int,
    seed: int,
    steps: range,
    reading: Reading,
) -> Iterator[Batch]:
    """Yields this process's part of each global batch of `steps`.

    Args:
      source: the training images.
      transform: an augmentation with a `size`.
      batch_size: images in a global batch; a multiple of the number of processes.
      seed: of the order and the augmentation.
      steps: global steps to read, `range(start, stop)`.
      reading: how this process reads.
    """
    records = grain.MapDataset.source(source).seed(seed).shuffle().repeat()
    records = records.random_map(_load_image(source, transform, reading.on_error))
    return iter(_batches(records, len(steps), steps.start, batch_size, reading))


def eval_batches(source: ImageSource, transform: Transform, batch_size: int, reading: Reading) -> Iterator[Batch]:
    """Yields this process's part of batches that hold every image of `source` once; the last is padded."""
    records = grain.MapDataset.source(source).random_map(_load_image(source, transform, reading.on_error), seed=0)
    steps = -(-len(source) // batch_size)
    return iter(_batches(records, steps, 0, batch_size, reading, end=len(source)))


def _load_image(source: ImageSource, transform: Transform, on_error: str) -> LoadImage:
    if on_error not in ("raise", "skip"):
        raise UserError(f"data.on_error is {on_error!r}; allowed: raise, skip.")
    return LoadImage(source.name, transform, transform.size, on_error)


def _batches(
    records: grain.MapDataset, steps: int, start: int, batch_size: int, reading: Reading, end: int | None = None
) -> grain.IterDataset:
    local_size = batch_size // reading.processes
    position = functools.partial(
        _position, start=start, batch_size=batch_size, local_size=local_size, process=reading.process
    )
    read = functools.partial(_read, records=records, end=end)
    batches = grain.MapDataset.range(steps * local_size).map(position).map(read).batch(local_size)
    batches = batches.to_iter_dataset(grain.ReadOptions(reading.threads, reading.buffer))
    if reading.workers:
        if not flags.FLAGS.is_parsed():  # Grain reads its own flags before it starts workers
            flags.FLAGS.mark_as_parsed()
        batches = batches.mp_prefetch(grain.MultiprocessingOptions(reading.workers, reading.buffer))
    return batches


def _position(i: int, start: int, batch_size: int, local_size: int, process: int) -> int:
    """Returns the stream position of the i-th image that a process reads."""
    step, offset = divmod(i, local_size)
    return (start + step) * batch_size + process * local_size + offset


def _read(position: int, records: grain.MapDataset, end: int | None) -> Batch:
    if end is None or position < end:
        return records[position]
    padding = {key: np.zeros_like(value) for key, value in records[0].items()}
    return padding | {"index": np.int32(PADDING)}
