"""Reads config.json of a model repository in timm's layout: which network it holds, and how its input is made.

The keys are those that timm 1.0 writes: `architecture`, `num_classes`, `label_names`, `label_descriptions`,
`model_args`, and under `pretrained_cfg` `input_size`, `mean`, `std`, `crop_pct`, `crop_mode`, `interpolation` and
`license`. Missing ones have timm's defaults.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from inception_jax.errors import UserError, printable
from inception_jax.models.inputs import Preprocess
from inception_jax.suggestions import hint
from inception_jax.weights.published.card import WeightCard

ARCHITECTURES = {  # timm's name -> ours
    "inception_v3": "inception_v3",
    "inception_v4": "inception_v4",
    "inception_resnet_v2": "inception_resnet_v2",
    "legacy_xception": "xception_timm",
    "xception": "xception_timm",  # in versions of timm before 0.9
}
GEOMETRIES: Mapping[str, Literal["short_side", "central_box"]] = {"center": "short_side", "squash": "central_box"}
INTERPOLATIONS = ("bilinear", "bicubic")
LARGEST = 8 << 20  # bytes of a config.json; that of 21,841 classes with descriptions has 3 MB
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class RepoConfig(NamedTuple):
    """What a config.json says: the card of the weights beside it, and the names of their classes; (): it has none."""

    card: WeightCard
    class_names: tuple[str, ...]


def parse(content: bytes, title: str, hashes: tuple[str, ...] = ()) -> RepoConfig:
    """Returns what a config.json says of the weights beside it.

    Args:
      content: of the file.
      title: of the repository or folder, for messages; it becomes the id of the card.
      hashes: "sha256:digits" of the weights, where the hub states them.

    Raises:
      UserError: the network is none of ours, or a value is missing or cannot be represented.
    """
    shown = printable(title)
    try:
        config = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{shown}: config.json is no JSON ({printable(error)}).") from error
    if not isinstance(config, dict) or not isinstance(config.get("architecture"), str):
        raise UserError(f"{shown}: config.json does not say what network it is of: it has no `architecture`.")
    architecture = config["architecture"]
    if architecture not in ARCHITECTURES:
        near = hint(architecture, ARCHITECTURES) or f" Of timm, these can: {', '.join(ARCHITECTURES)}."
        raise UserError(f"{shown}: the network {printable(architecture)!r} cannot be loaded.{near}")
    stated = config.get("pretrained_cfg", config)
    stated = stated if isinstance(stated, dict) else {}
    arguments = config.get("model_args")
    arguments = arguments if isinstance(arguments, dict) else {}
    num_classes = config.get("num_classes", stated.get("num_classes", 1000))
    if not isinstance(num_classes, int) or isinstance(num_classes, bool) or not 0 <= num_classes <= 10**6:
        raise _wrong(shown, "num_classes", num_classes, "0 ... 1,000,000")
    card = WeightCard(
        id=title,
        model=ARCHITECTURES[architecture],
        lineage="timm",
        url=f"{title}/model.safetensors",
        preprocess=_preprocess(shown, stated, arguments),
        outputs=num_classes or None,
        hashes=hashes,
        licence=_text(stated.get("license")),
    )
    return RepoConfig(card, _class_names(shown, {**stated, **config}, num_classes))


def _preprocess(shown: str, stated: Mapping[str, Any], arguments: Mapping[str, Any]) -> Preprocess:
    """Returns the preprocessing that `pretrained_cfg` states."""
    shape = stated.get("input_size") or (3, 224, 224)
    if not (isinstance(shape, Sequence) and len(shape) == 3 and all(isinstance(each, int) for each in shape)):
        raise _wrong(shown, "input_size", shape, "[channels, height, width]")
    channels, height, width = arguments.get("in_chans") or shape[0], shape[1], shape[2]
    if height != width or not 1 <= height <= 4096 or not isinstance(channels, int) or not 1 <= channels <= 256:
        raise _wrong(shown, "input_size", list(shape), "a square of 1 ... 4096 pixels, of 1 ... 256 channels")
    mode: Any = stated.get("crop_mode") or "center"
    interpolation: Any = stated.get("interpolation") or "bicubic"
    for key, value, allowed in (("crop_mode", mode, GEOMETRIES), ("interpolation", interpolation, INTERPOLATIONS)):
        if value not in allowed:
            raise _wrong(shown, key, value, " or ".join(allowed))
    fraction = stated.get("crop_pct") or 0.875
    if not isinstance(fraction, int | float) or not 0 < fraction <= 1:
        raise _wrong(shown, "crop_pct", fraction, "a number above 0 and at most 1")
    return Preprocess(
        size=height,
        mean=_pixels(shown, "mean", stated.get("mean") or _MEAN, channels),
        std=_pixels(shown, "std", stated.get("std") or _STD, channels),
        crop_fraction=_crop_fraction(height, fraction),
        interpolation=interpolation,
        geometry=GEOMETRIES[mode],
    )


def _crop_fraction(size: int, fraction: float) -> float:
    """Returns the crop fraction with which an image is resized to as many pixels as timm does, which rounds down."""
    resized = math.floor(size / fraction)
    return fraction if round(size / fraction) == resized else size / resized


def _pixels(shown: str, key: str, values: Any, channels: int) -> Any:
    """Returns constants for pixels in 0 ... 255, one for each channel; timm's are for 0 ... 1."""
    numbers = values if isinstance(values, Sequence) and not isinstance(values, str) else (values,)
    if not all(isinstance(each, int | float) and math.isfinite(each) for each in numbers):
        raise _wrong(shown, key, values, "numbers")
    numbers = tuple(numbers) * channels if len(numbers) == 1 else tuple(numbers)
    if len(numbers) != channels or (key == "std" and min(numbers) <= 0):
        raise _wrong(shown, key, values, f"{channels} numbers{' above 0' if key == 'std' else ''}")
    return tuple(float(f"{255 * each:.12g}") for each in numbers)


def _class_names(shown: str, config: Mapping[str, Any], num_classes: int) -> tuple[str, ...]:
    """Returns the names of the classes: their descriptions, where the config has them."""
    labels = config.get("label_names")
    if isinstance(labels, dict):  # by index as text
        labels = [labels.get(str(index)) for index in range(num_classes)]
    if not labels or not isinstance(labels, list) or not num_classes:
        return ()
    descriptions = config.get("label_descriptions")
    described = descriptions if isinstance(descriptions, dict) else {}
    names = tuple(described.get(each, each) for each in labels)
    if len(names) != num_classes or not all(isinstance(each, str) for each in names):
        raise _wrong(shown, "label_names", f"{len(names)} names", f"{num_classes} texts, one for each class")
    return names


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _wrong(shown: str, key: str, value: Any, allowed: str) -> UserError:
    return UserError(f"{shown}: config.json states {key} {printable(value)[:100]!r}; allowed: {allowed}.")
