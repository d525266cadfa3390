"""The configuration of a run: a frozen, typed tree, read from an `ml_collections.ConfigDict` and checked.

`configs/default.py` explains every field. No field has a default here: a config gives a value to each.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import pydantic

from inception_jax.errors import UserError
from inception_jax.suggestions import nearest

MAX_STEPS = 2**31 - 1  # the step is an int32
MAX_COUNT = 2**20  # images in a step, processes, threads: far more than can run, far below an overflow
MAX_PIXELS = 8192  # of one side of an image
MAX_FLOAT = 1e30  # float32 ends at 3e38
SHOWN = 200  # characters of a value that a message quotes

Count = Annotated[int, pydantic.Field(ge=0, le=MAX_COUNT)]
Positive = Annotated[int, pydantic.Field(ge=1, le=MAX_COUNT)]
Pixels = Annotated[int, pydantic.Field(ge=1, le=MAX_PIXELS)]
NonNegative = Annotated[float, pydantic.Field(ge=0, le=MAX_FLOAT)]
AboveZero = Annotated[float, pydantic.Field(gt=0, le=MAX_FLOAT)]
Share = Annotated[float, pydantic.Field(ge=0, lt=1)]
Text = Annotated[str, pydantic.AfterValidator(lambda text: _checked_text(text))]
Duration = Annotated[str, pydantic.AfterValidator(lambda text: _checked_duration(text))]


class _Config(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class ModelConfig(_Config):
    name: Text
    width: Annotated[float, pydantic.Field(gt=0, le=64)]
    aux: bool
    dropout: Share | None
    dtype: Literal["float32", "bfloat16"]
    bn_group_size: Positive | Literal["global"] | None
    bn_decay: Share | None
    implementation: Literal["auto", "xla", "native", "pallas"]


class FinetuneConfig(_Config):
    weights: Text | None
    freeze: Annotated[str, pydantic.Field(pattern="^(none|backbone|up_to:.+)$")]
    reset_head: bool
    unverified: bool
    key: Text | None


class DataConfig(_Config):
    name: Text
    data_dir: Text | None
    train_split: Text
    eval_split: Text
    image_size: Pixels | None
    exif: bool
    augmentation: Literal["inception", "crop_flip", "none"]
    crop_area: tuple[NonNegative, NonNegative]
    crop_pad: Annotated[int, pydantic.Field(ge=0, le=MAX_PIXELS)]
    flip: bool
    photometric: bool
    mixup: NonNegative
    cutmix: NonNegative
    on_error: Literal["raise", "skip"]
    max_skipped: Count
    workers: Count
    threads: Positive
    buffer: Positive


class LossConfig(_Config):
    label_smoothing: Share
    aux_weights: dict[str, NonNegative]


class OptimizerConfig(_Config):
    name: Literal["sgd", "rmsprop_tf", "adamw", "lars"]
    learning_rate: NonNegative
    momentum: Share
    nesterov: bool
    decay: Share
    epsilon: NonNegative | None
    beta1: Share
    beta2: Share
    weight_decay: NonNegative
    clip_norm: AboveZero | None


class ScheduleConfig(_Config):
    name: Literal["constant", "exponential", "poly", "cosine"]
    warmup: Duration
    decay_rate: AboveZero
    decay_every: Duration
    power: NonNegative
    end_factor: Share


class MeshConfig(_Config):
    data: Annotated[int, pydantic.Field(ge=-1, le=MAX_COUNT)]
    fsdp: Positive


class TrainConfig(_Config):
    seed: Annotated[int, pydantic.Field(ge=0, lt=2**32)]
    batch_size: Positive
    duration: Duration
    grad_accum_steps: Positive
    platform: Literal["cpu", "gpu", "tpu"] | None
    ema_decay: Share | None
    log_every: Duration
    eval_every: Duration
    checkpoint_every: Duration
    keep_checkpoints: Positive
    model: ModelConfig
    finetune: FinetuneConfig
    data: DataConfig
    loss: LossConfig
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    mesh: MeshConfig

    @classmethod
    def parse(cls, config: Mapping[str, Any]) -> TrainConfig:
        """Reads a ConfigDict or a plain dict.

        Raises:
          UserError: a field is unknown or missing, or a value has a wrong type or is out of range; lists all of these.
        """
        with _named_faults():
            return cls.model_validate(config.to_dict() if hasattr(config, "to_dict") else dict(config))

    @classmethod
    def parse_saved(cls, saved: Mapping[str, Any]) -> TrainConfig:
        """Reads the config of a checkpoint, as `model_dump(mode="json")` of this or an earlier version wrote it.

        Raises:
          UserError: as `parse`.
        """
        with _named_faults():
            return cls.model_validate_json(json.dumps(_completed(saved)))


# Fields that earlier versions did not have, with the value that gives their behaviour.
_ADDED: dict[str, dict[str, Any]] = {
    "data": {"exif": False},
    "model": {"bn_decay": None, "implementation": "auto"},
    "finetune": {"weights": None, "freeze": "none", "reset_head": False, "unverified": False, "key": None},
}


def _completed(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a saved config, completed with the fields that its version did not have."""
    added: dict[str, Any] = {}
    for section, fields in _ADDED.items():
        held = saved.get(section, {})
        added[section] = fields | dict(held) if isinstance(held, Mapping) else held
    return {**saved, **added}


# A run cannot resume with another value of these: the state would not fit, or the images would differ.
BOUND_TO_CHECKPOINT = (
    "seed",
    "batch_size",
    "model.name",
    "model.width",
    "model.aux",
    "model.bn_group_size",
    "finetune.weights",
    "finetune.freeze",
    "data.name",
    "data.train_split",
    "data.image_size",
    "optimizer.name",
    "ema_decay",
)


DURATIONS = ("duration", "log_every", "eval_every", "checkpoint_every", "schedule.warmup", "schedule.decay_every")
"""The fields that hold a duration."""


def steps(duration: str, steps_per_epoch: float) -> int:
    """Returns the number of steps in "500 steps" or "2.5 epochs": at least 1, unless the duration is 0."""
    number, unit = duration.split()
    count = float(number) if unit.startswith("step") else float(number) * steps_per_epoch
    return max(round(count), 1) if count else 0


def check_fields(names: Iterable[str]) -> None:
    """Raises a `UserError` with the nearest names if a dotted name, such as "model.width", is not a field."""
    for name in names:
        path = name.split(".")
        for depth, part in enumerate(path):
            if path[:depth] == ["loss", "aux_weights"]:
                break  # its keys are the heads of the network
            if part not in _section(path[:depth]):
                raise UserError(_unknown(path[: depth + 1]))


def field_type(name: str) -> Any:
    """Returns the annotation of a field by its dotted name, such as `bool` of "model.aux"; None if it is no field."""
    *section, field = name.split(".")
    found = _section(section).get(field)
    return None if found is None else found.annotation


def changes_that_forbid_resuming(saved: Mapping[str, Any], config: TrainConfig) -> dict[str, tuple[Any, Any]]:
    """Returns {field: (saved value, value now)} of the fields that differ and forbid resuming.

    Args:
      saved: the config of the checkpoint, `model_dump(mode="json")`.
      config: of the run that resumes.
    """
    before, now = dict(flatten(_completed(saved))), dict(flatten(config.model_dump(mode="json")))
    return {name: (before.get(name), now[name]) for name in BOUND_TO_CHECKPOINT if before.get(name) != now[name]}


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields each field by its dotted name, such as ("model.width", 1.0)."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _checked_duration(text: str) -> str:
    number, _, unit = text.partition(" ")
    try:
        valid = 0 <= float(number) <= MAX_STEPS and (
            unit in ("epoch", "epochs") or (unit in ("step", "steps") and number.isdigit())
        )
    except ValueError:
        valid = False
    if not valid:
        raise ValueError(f'must be "<number> steps" or "<number> epochs", a number from 0 to {MAX_STEPS:,}')
    return text


def _checked_text(text: str) -> str:
    if not text.strip() or "\0" in text:
        raise ValueError("must hold a name, and no NUL")
    return text


@contextlib.contextmanager
def _named_faults() -> Iterator[None]:
    try:
        yield
    except pydantic.ValidationError as invalid:
        raise UserError("; ".join(_fault(error) for error in invalid.errors())) from invalid


def _fault(error: Mapping[str, Any]) -> str:
    """Returns one validation error in one line."""
    path = "config." + ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return _unknown(error["loc"])
    if error["type"] == "missing" and isinstance(error["loc"][-1], int):
        return f"{path.rpartition('.')[0]} is {error['input']!r}: it must be two numbers"
    if error["type"] == "missing":
        return f"{path} is missing; start from configs/default.py"
    message = error["msg"].removeprefix("Value error, ")
    given = repr(error["input"])
    return f"{path} is {given if len(given) <= SHOWN else given[:SHOWN] + '...'}: {message[0].lower()}{message[1:]}"


def _unknown(path: Sequence[str | int]) -> str:
    """Returns the message about a path whose last name is not a field."""
    siblings = list(_section(path[:-1]))
    near = ", ".join(nearest(str(path[-1]), siblings) or siblings)
    hint = f"nearest: {near}" if near else f"config.{'.'.join(map(str, path[:-1]))} is no section"
    return f"config.{'.'.join(map(str, path))} is unknown; {hint}"


def _section(path: Sequence[str | int]) -> Mapping[str, Any]:
    """Returns the fields of a section of the config; {} if the path is a field, not a section."""
    model: Any = TrainConfig
    for name in path:
        model = model.model_fields[name].annotation
    return getattr(model, "model_fields", {})
