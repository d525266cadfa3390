"""Checks the numbers of a config against the network, the devices and the data."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from inception_jax.errors import UserError
from inception_jax.models.network import InceptionNet
from inception_jax.training.config import DURATIONS, MAX_STEPS, TrainConfig, flatten, steps


@contextlib.contextmanager
def named(section: str) -> Iterator[None]:
    """Turns a ValueError about an argument of a model into a `UserError` that names the section of the config."""
    try:
        yield
    except ValueError as error:
        raise UserError(f"{section}: {error}") from error


def check_sizes(config: TrainConfig, model: InceptionNet, image_size: int, devices: int) -> None:
    """Raises a `UserError` if the image size does not fit the network, or the batch the devices."""
    minimum = model.minimum_input(train=True)
    if image_size < minimum:
        raise UserError(f"config.data.image_size is {image_size}; {config.model.name} trains on {minimum} or more.")
    with named("config.data.image_size"):
        model.check_size(image_size, image_size, heads=True)
    if config.data.crop_area[0] > config.data.crop_area[1] or not 0 < config.data.crop_area[1] <= 1:
        raise UserError(f"config.data.crop_area is {config.data.crop_area}; it must be (low, high) within 0 ... 1.")
    microbatches, group = config.grad_accum_steps, config.model.bn_group_size
    unit = devices * microbatches
    if config.batch_size % unit:
        nearest = max(round(config.batch_size / unit), 1) * unit
        raise UserError(
            f"config.batch_size is {config.batch_size}; it must be a multiple of {unit} ({devices} devices x "
            f"{microbatches} grad_accum_steps), such as {nearest}."
        )
    if isinstance(group, int) and config.batch_size // microbatches % group:
        raise UserError(
            f"config.model.bn_group_size is {group}; it must divide the {config.batch_size // microbatches} images "
            "that are normalised together (batch_size / grad_accum_steps)."
        )


def check_durations(config: TrainConfig, steps_per_epoch: float) -> None:
    """Raises a `UserError` if a duration is 0 but must not be, overflows, or contradicts another."""
    durations = {name: value for name, value in flatten(config.model_dump()) if name in DURATIONS}
    for name, value in durations.items():
        if steps(value, steps_per_epoch) > MAX_STEPS:
            raise UserError(f"config.{name} is {value!r}, over {MAX_STEPS:,} steps of {config.batch_size:,} images.")
    total = steps(config.duration, steps_per_epoch)
    warmup = steps(config.schedule.warmup, steps_per_epoch)
    if not total:
        raise UserError(f"config.duration is {config.duration!r}; it must be above 0.")
    if warmup >= total:
        raise UserError(
            f"config.schedule.warmup is {config.schedule.warmup!r}, {warmup} steps; "
            f"it must end before the run, after {total} steps ({config.duration!r})."
        )
    if config.schedule.name == "exponential" and not steps(config.schedule.decay_every, steps_per_epoch):
        raise UserError(f"config.schedule.decay_every is {config.schedule.decay_every!r}; it must be above 0.")
