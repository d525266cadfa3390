"""Times the input pipeline on one core: our loader, and those of other packages.

Every engine turns the same JPEGs, held in memory, into batches of flipped random crops (area 0.08 ... 1, aspect ratio
3/4 ... 4/3, bilinear, uint8). With worker processes, our loader reads the JPEGs from the data set.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from inception_jax.bench.pipelines import AREA, ASPECT, OTHERS, Engine
from inception_jax.bench.records import Check, Row, find_flags, find_hardware, find_versions
from inception_jax.bench.timing import ratio, spread, take_turns, timed
from inception_jax.data.jpeg_regions import decodes_huffman, decodes_regions, open_for_crop
from inception_jax.data.loader import Batch, LoaderOptions, train_batches
from inception_jax.data.pixels import decode, open_untrusted
from inception_jax.data.sources import ImageSource
from inception_jax.data.transforms import InceptionCrop, crop_resize, sample_box
from inception_jax.errors import UserError, first_line

OURS, DECODE = "inception-jax", "decode only"
EPOCH = 1_281_167
PACKAGES = (
    "pillow",
    "numpy",
    "grain",
    "torch",
    "torchvision",
    "opencv-python-headless",
    "tensorflow",
    "tensorflow-cpu",
)


@dataclasses.dataclass(frozen=True)
class _Cycle(Sequence):
    """The first records of a source, repeated to an epoch of ImageNet's length.

    A short epoch would take longer: to shuffle a few hundred records, Grain's shuffle draws from 2**16 indices.
    """

    records: Sequence[Any]
    length: int

    def __len__(self) -> int:
        return EPOCH

    def __getitem__(self, index):
        return self.records[index % self.length]


def measure(
    source: ImageSource, size: int, count: int, rounds: int, workers: Sequence[int], seconds: float, command: str
) -> tuple[Row, dict[str, str]]:
    """Times each engine on one core.

    Args:
      source: the data set.
      size: height and width of the crops in pixels.
      count: images per turn, drawn from the first `count` of the data set; every engine reads the same.
      rounds: turns of each engine.
      workers: numbers of worker processes with which our loader is also timed, on all cores.
      seconds: for each number of workers.
      command: that repeats the measurement, for the row.

    Returns:
      The row, and {engine: reason} for the engines that are not installed.

    Raises:
      UserError: the crops of an engine differ from ours.
    """
    first = min(count, len(source))
    source = dataclasses.replace(source, records=_Cycle(source.records, first))
    held = dataclasses.replace(source, records=_Cycle([source.records[index] for index in range(first)], first))
    images = [held[index]["image"] for batch in _read(held, count, size) for index in batch["index"]]
    engines, missing = _engines(held, images, size)
    checks = [_check(name, each, engines[OURS], images) for name, each in engines.items() if name != OURS]
    with _one_core() as core:
        for engine in engines.values():
            engine.read()
        laps = take_turns({name: _lap(each) for name, each in engines.items()}, rounds)
    figures = {}
    for name, found in laps.items():
        figures[name] = spread(found) | {"of_ours": ratio(found, laps[OURS])}
        figures[name]["images_per_second"] = count / figures[name]["median"]
    row = Row(
        command=command,
        hardware=find_hardware([]),
        date=datetime.date.today(),
        versions=find_versions(*PACKAGES),
        flags=find_flags() | {"core": core, "decodes_parts": decodes_regions(), "decodes_huffman": decodes_huffman()},
        figures={
            "case": {"data": source.name, "images": count, "size": size},
            "engines": figures,
            "workers": {str(each): _images_per_second(source, size, each, seconds) for each in workers},
        },
        outputs_compared=tuple(checks),
    )
    return row, missing


def _lap(engine: Engine) -> Callable[[], list[float]]:
    return lambda: [timed(engine.read)[1]]


def _engines(source: ImageSource, images: list[bytes], size: int) -> tuple[dict[str, Engine], dict[str, str]]:
    engines, missing = {OURS: _ours(source, len(images), size)}, {}
    for name, build in OTHERS.items():
        try:
            engines[name] = build(images, size)
        except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision built for another torch
            missing[name] = first_line(error)

    def crop(encoded, box):
        return crop_resize(decode(encoded), box, size, "bilinear")

    return engines | {DECODE: Engine(lambda: [decode(each) for each in images], crop, 0.0)}, missing


def _transform(size: int) -> InceptionCrop:
    return InceptionCrop(size, AREA, ASPECT, interpolations=("bilinear",), photometric=False)


def _read(source: ImageSource, count: int, size: int) -> Generator[Batch, None, None]:
    batch = _batch(count)
    return train_batches(source, _transform(size), batch, 0, range(count // batch), LoaderOptions(threads=1, buffer=1))


def _batch(count: int) -> int:
    return next(each for each in range(min(64, count), 0, -1) if count % each == 0)


def _ours(source: ImageSource, count: int, size: int) -> Engine:
    def crop(encoded, box):
        image = open_for_crop(encoded)
        if isinstance(image, Image.Image):
            return crop_resize(image, box, size, "bilinear")
        return image.crop_resize(box, size, "bilinear")

    def read():
        batches = _read(source, count, size)
        for _ in range(count // _batch(count)):
            next(batches)
        return batches  # closed after the timing: a run does so once

    return Engine(read, crop)


def _check(name: str, engine: Engine, ours: Engine, images: list[bytes]) -> Check:
    rng = np.random.default_rng(0)
    differences, largest = [0.0], 0.0
    for encoded in images[:: max(len(images) // 8, 1)]:
        box = sample_box(*open_untrusted(encoded).size, rng, AREA, ASPECT)
        expected: Any = np.asarray(ours.crop(encoded, box), np.float32)
        theirs: Any = np.asarray(engine.crop(encoded, box))
        if theirs.shape != expected.shape:
            raise UserError(f"The crop of {name} has the shape {theirs.shape}, ours {expected.shape}.")
        differences.append(float(np.abs(expected - theirs).mean()))
        largest = max(largest, float(expected.max()))
    if max(differences) > engine.tolerance:
        raise UserError(f"A crop of {name} differs from ours by {max(differences):.1f} of 255 levels on average.")
    return Check(
        engine=name, reference=OURS, what="mean difference of a crop", max_abs_difference=max(differences),
        tolerance=engine.tolerance, largest_value=largest,
    )  # fmt: skip


def _images_per_second(source: ImageSource, size: int, workers: int, seconds: float) -> float:
    """Returns the speed of our loader on all cores, once its buffers are full."""
    batch = 64
    reading = LoaderOptions(workers=workers, threads=1, buffer=1)
    with contextlib.closing(train_batches(source, _transform(size), batch, 0, range(10**6), reading)) as batches:
        for _ in range(2 * workers + 2):
            next(batches)
        count, spent = 0, 0.0
        while spent < seconds:
            spent += timed(lambda: next(batches))[1]
            count += batch
    return count / spent


@contextlib.contextmanager
def _one_core() -> Iterator[int | None]:
    """Binds this process to one core, and yields its number; None where the system cannot."""
    if not hasattr(os, "sched_setaffinity"):
        yield None
        return
    cores = os.sched_getaffinity(0)
    core = max(cores)
    _move({core})
    try:
        yield core
    finally:
        _move(cores)


def _move(cores: set[int]) -> None:
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(int(thread), cores)
