"""The preprocessing for third-party weights: stated by the user, by layers in the file, or by card or origin."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

from inception_jax.errors import UserError
from inception_jax.models.inputs import CAFFE, IMAGENET, MAX_CHANNELS, SYMMETRIC_299, Preprocess
from inception_jax.weights.readers.statement import Statement

CONSTANTS = {"inception": SYMMETRIC_299, "imagenet": IMAGENET, "caffe": CAFFE}
"""Named sets of mean and std."""
CHOICES = {"interpolation": ("bilinear", "bicubic"), "geometry": ("short_side", "central_box")}
KEYS = ("mean", "std", "range", "size", "crop", *CHOICES)
MAX_SIZE = 4096  # pixels of a side
ALLOWED = f"{', '.join(CONSTANTS)}, or KEY=VALUE with the keys {', '.join(KEYS)}, separated by semicolons"


def parse(text: str, usual: Preprocess | None) -> Preprocess:
    """Returns the preprocessing that a text states; fields that it does not name are those of `usual`.

    "imagenet"                                       mean and std of ImageNet
    "mean=0.5,0.5,0.5;std=0.5,0.5,0.5;size=299"      R, G, B, or as many channels as `usual` has; one number: of all
    "mean=123,117,104;std=1;range=255"               for pixels in 0 ... 255; without `range` in 0 ... 1, as in timm
    "imagenet;size=224;crop=0.875;interpolation=bicubic;geometry=short_side"    see `Preprocess`; crop is crop_fraction

    Without `usual` the text is only checked, whatever its number of channels.

    Raises:
      UserError: a key or a value is unknown, out of range, or stated twice.
    """
    channels = len(usual.mean) if usual else None
    found = usual = usual or IMAGENET
    fields: dict[str, str] = {}
    for part in filter(None, re.split(r"[;\s]+", text)):
        key, equals, value = part.partition("=")
        key = {"crop_pct": "crop", "crop_fraction": "crop"}.get(key, key)
        if not equals and key in CONSTANTS and not fields and found == usual:
            constants = CONSTANTS[key].with_channels(channels or 3)
            found = dataclasses.replace(usual, mean=constants.mean, std=constants.std)
        elif not equals or key not in KEYS:
            raise _wrong(part, ALLOWED)
        elif key in fields:
            raise UserError(f"The preprocessing {text!r} states {key} twice.")
        else:
            fields[key] = value
    if not text.strip(" ;"):
        raise _wrong(text, ALLOWED)
    return dataclasses.replace(found, **_values(fields, channels))


def _values(fields: Mapping[str, str], channels: int | None) -> dict[str, Any]:
    """Returns the fields of `Preprocess` that the text states."""
    found: dict[str, Any] = {}
    for key, choices in CHOICES.items():
        if key in fields and fields[key] not in choices:
            raise _wrong(f"{key}={fields[key]}", f"{key}={' or '.join(choices)}")
        found |= {key: fields[key]} if key in fields else {}
    if "range" in fields and not {"mean", "std"} & fields.keys():
        raise _wrong(f"range={fields['range']}", "range with mean or std")
    if fields.get("range", "1") not in ("1", "255"):
        raise _wrong(f"range={fields['range']}", "range=1 or range=255")
    scale = 255.0 if fields.get("range", "1") == "1" else 1.0
    for key, low in (("mean", None), ("std", 0.0)):
        if key in fields:
            numbers = _numbers(key, fields[key], low, channels)
            if scale == 255 and max(map(abs, numbers)) > 1:
                raise _wrong(f"{key}={fields[key]}", "numbers for pixels in 0 ... 1; add range=255 for 0 ... 255")
            found[key] = tuple(float(f"{value * scale:.12g}") for value in numbers)
    if "size" in fields:
        if not fields["size"].isdecimal() or not 1 <= int(fields["size"][:9]) <= MAX_SIZE:
            raise _wrong(f"size={fields['size']}", f"size=1 ... {MAX_SIZE}")
        found["size"] = int(fields["size"])
    if "crop" in fields:
        numbers = _numbers("crop", fields["crop"], 0.0, None)
        if numbers[0] > 1 or len(set(numbers)) > 1:
            raise _wrong(f"crop={fields['crop']}", "crop in 0 ... 1")
        found["crop_fraction"] = numbers[0]
    return found


def _numbers(key: str, value: str, above: float | None, channels: int | None) -> tuple[float, ...]:
    """Returns a number for each channel; None: as many as are stated."""
    try:
        numbers = tuple(float(each) for each in value.split(","))
    except ValueError:
        numbers = ()
    valid = all(math.isfinite(each) and (above is None or each > above) for each in numbers)
    if not 1 <= len(numbers) <= MAX_CHANNELS or len(numbers) not in (1, channels or len(numbers)) or not valid:
        count = {1: "one number", 3: "one or three numbers"}.get(channels or 3, f"one or {channels} numbers")
        raise _wrong(f"{key}={value}", f"{count}{' above 0' if above is not None else ''}")
    return numbers * (channels or 1) if len(numbers) == 1 else numbers


def _wrong(part: str, allowed: str) -> UserError:
    return UserError(f"The preprocessing states {part!r}; allowed: {allowed}.")


def stated_input(
    asked: Preprocess | str | None, statement: Statement, usual: Preprocess, shown: str
) -> tuple[Preprocess | None, tuple[str, ...]]:
    """Returns the preprocessing and notes for the report; None: neither user nor file state one.

    Args:
      asked: the user's statement, which takes precedence.
      statement: the statement of layers in the file.
      usual: the preprocessing of the card or of the origin.
      shown: the name of the file, for messages.

    Raises:
      UserError: layers in the file change the input in a way that cannot be converted, and the user states nothing.
    """
    usual, of_size = _sized(usual, statement)
    if asked is not None:
        ignored = (*statement.layers, *([statement.obstacle] if statement.obstacle else []))
        note = f"the stated preprocessing replaces layers of the file ({', '.join(ignored)})"
        preprocess = parse(asked, usual) if isinstance(asked, str) else asked
        return preprocess, (*statement.notes, *([note] if ignored else []))
    obstacle, constants = statement.obstacle, None
    if statement.layers and not obstacle:
        try:
            constants = statement.pixel_constants()
        except ValueError as error:
            obstacle = f"its layers {', '.join(map(repr, statement.layers))}: {error}"
    if obstacle:
        raise UserError(
            f"{shown} cannot be converted: {obstacle}. State its preprocessing with preprocess=... (--preprocess) "
            "instead of these layers."
        )
    if constants is None:
        return (usual if of_size else None), (*statement.notes, *of_size)
    mean, std = constants
    names = ", ".join(map(repr, statement.layers))
    note = f"its layers {names} become preprocessing: mean {mean}, std {std} of pixels in 0 ... 255"
    constants_of_input = dataclasses.replace(usual, mean=mean, std=std).with_channels(len(usual.mean))
    return constants_of_input, (*statement.notes, *of_size, note)


def _sized(usual: Preprocess, statement: Statement) -> tuple[Preprocess, tuple[str, ...]]:
    """Returns a preprocessing with the size of images that a file states, and a note if it is another."""
    if statement.operators or statement.input_size in ((), (usual.size, usual.size)):
        return usual, ()
    height, width = statement.input_size
    if height != width or height > MAX_SIZE:
        return usual, (
            f"its input layer states {height} x {width} pixels; images of {usual.size} x {usual.size} are read",
        )
    note = f"its input layer states {height} x {width} pixels; for the rest the usual preprocessing is assumed"
    return dataclasses.replace(usual, size=height), (note,)
