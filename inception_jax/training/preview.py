"""Describes a run in two lines before it starts, and warns of settings that would give poor or misleading figures.

Such a run would end with exit code 0. The warnings need only the config, a few image headers and the labels of folders.
"""

from __future__ import annotations

import collections
import logging
import statistics
from collections.abc import Iterator

import jax

from inception_jax.data.jpeg_regions import open_for_crop
from inception_jax.data.sources import ImageSource
from inception_jax.errors import UserError, printable
from inception_jax.training.experiment import Experiment

logger = logging.getLogger(__name__)

SAMPLE = 8  # number of images whose sizes are read
SMALL = 128  # pixels; networks for photographs take larger images
MUCH_LARGER = 4  # times the side of the image that the network takes
UNSETTLED = 0.05  # largest weight that the initial value may have in batch norm's running statistics at the end
FINETUNING_RATE = 0.05  # with a higher learning rate SGD soon forgets what was loaded


def describe(experiment: Experiment, first_step: int) -> str:
    """Returns two lines: network, data and size of the input; length, batch and devices."""
    config, size = experiment.config, experiment.preprocess.size
    classes, images = len(experiment.train_source.class_names), len(experiment.train_source)
    start = f"resumes after step {first_step:,}" if first_step else "starts"
    mesh = ", ".join(f"{axis} {length}" for axis, length in experiment.mesh.shape.items())
    epochs = experiment.total_steps / experiment.steps_per_epoch
    return (
        f"{config.model.name} on {printable(config.data.name)}: {classes:,} classes, {images:,} images, "
        f"{size} x {size} pixels; {_evaluation(experiment.eval_source)}\n"
        f"{start} of {experiment.total_steps:,} steps of {config.batch_size:,} images ({epochs:,.3g} epochs); "
        f"{devices()}, mesh {mesh}"
    )


def devices() -> str:
    """Returns the number and the kind of the devices, such as "8 x TPU v4 (tpu)"."""
    return f"{jax.device_count()} x {jax.devices()[0].device_kind} ({jax.default_backend()})"


def warn(experiment: Experiment) -> None:
    """Logs a warning for each setting that would give poor or misleading figures."""
    for text in (
        *_sizes(experiment),
        *_augmentation(experiment),
        *_counts(experiment),
        *_statistics(experiment),
        *_fine_tuning(experiment),
    ):
        logger.warning("%s", text)


def labels(source: ImageSource) -> collections.Counter[int]:
    """Returns the number of images of each label, of folders; empty for data whose images would have to be read."""
    return collections.Counter(getattr(source.records, "labels", ()))


def _evaluation(source: ImageSource) -> str:
    """Returns the number of evaluation images, and the accuracy of always guessing their most common class."""
    text = f"{len(source):,} evaluation images"
    if not (counts := labels(source)):
        return text
    label, count = counts.most_common(1)[0]
    return f"{text}, {count / len(source):.1%} of them {printable(source.class_names[label])!r}"


def _sizes(experiment: Experiment) -> Iterator[str]:
    size = experiment.preprocess.size
    if size >= SMALL:
        return
    typical = _typical_side(experiment.train_source)
    if typical >= MUCH_LARGER * size:
        yield (
            f"photographs of {typical} pixels are trained at {size} x {size}: set config.data.image_size, and a "
            f"config.model.name for large images; configs/folder.py has 224 pixels"
        )


def _typical_side(source: ImageSource) -> int:
    """Returns the median of the short sides of a few images, in pixels; 0 if none can be read."""
    sides = []
    for index in range(0, len(source), max(len(source) // SAMPLE, 1)):
        try:
            sides.append(min(open_for_crop(source[index]["image"]).size))
        except UserError:  # the loader reports or skips broken images
            continue
    return int(statistics.median(sides)) if sides else 0


def _augmentation(experiment: Experiment) -> Iterator[str]:
    data, size = experiment.config.data, experiment.preprocess.size
    if data.augmentation == "crop_flip" and size >= SMALL and data.crop_pad < size / 32:
        yield (
            f"config.data.augmentation 'crop_flip' moves images by at most {data.crop_pad} of {size} pixels "
            "(config.data.crop_pad): 'inception' is made for photographs"
        )


def _counts(experiment: Experiment) -> Iterator[str]:
    config, images = experiment.config, len(experiment.train_source)
    if config.batch_size > images:
        yield (
            f"config.batch_size is {config.batch_size:,} and there are {images:,} training images: each step holds "
            f"an image {config.batch_size / images:.1f} times"
        )
    for source in (experiment.train_source, experiment.eval_source):
        counts = labels(source)
        missing = [name for label, name in enumerate(source.class_names) if counts and not counts[label]]
        if missing:
            named = ", ".join(printable(name) for name in missing[:5])
            total = len(source.class_names)
            yield f"{printable(source.name)} has no image of {len(missing):,} of {total:,} classes: {named}"


def _statistics(experiment: Experiment) -> Iterator[str]:
    norm = experiment.model.numerics.norm
    if norm is None or norm.decay <= 0.9 or experiment.config.finetune.weights is not None:
        return
    left = norm.decay**experiment.total_steps
    if left > UNSETTLED:
        yield (
            f"batch norm of {experiment.config.model.name} keeps {norm.decay} of its running statistics a step, so "
            f"{left:.0%} of what they start from is left after {experiment.total_steps:,} steps, and evaluation is "
            "wrong by that: set config.model.bn_decay=0.9"
        )


def _fine_tuning(experiment: Experiment) -> Iterator[str]:
    config = experiment.config
    rate = config.optimizer.learning_rate
    if config.finetune.weights is None or config.finetune.freeze == "backbone" or config.optimizer.name != "sgd":
        return
    if rate > FINETUNING_RATE:
        yield (
            f"config.optimizer.learning_rate is {rate}: what was loaded is soon forgotten at such a rate; "
            "configs/finetune.py has one for fine-tuning"
        )
