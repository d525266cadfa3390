"""The views of an image that an evaluation averages over: its centre, the ten of Krizhevsky et al., GoogLeNet's 144."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from PIL import Image

from inception_jax.data.transforms import RESAMPLING, eval_transform, resize_short_side
from inception_jax.errors import UserError
from inception_jax.models.inputs import Preprocess

Kind = Literal[1, 10, 144]
SCALES = (256, 288, 320, 352)  # short sides for views of 224 pixels (1409.4842, section 7)


def check_crops(kind: int) -> None:
    """Raises a `UserError` if there is no such set of crops."""
    if kind not in get_args(Kind):
        raise UserError(f"crops is {kind}; it must be {', '.join(map(str, get_args(Kind)))}.")


def crops(image: Image.Image, kind: int, preprocess: Preprocess) -> np.ndarray:
    """Returns views of an RGB image as uint8 [kind, S, S, 3], S being `preprocess.size`.

    1: what evaluation reads. 10: the corners and the centre of the resized image. 144: of the image at four scales, of
    three squares along it, the corners, the centre, and the whole square (1409.4842, section 7). Each of the ten and of
    the 144 is followed by its mirror image.

    Raises:
      UserError: another kind.
    """
    check_crops(kind)
    if kind == 1:
        return eval_transform(preprocess)(image)[None]
    if kind == 10:
        views = _corners_and_centre(_resized(image, preprocess), preprocess.size)
    else:
        views = _paper(image, preprocess)
    pixels = [np.asarray(view) for view in views]
    return np.stack([each for view in pixels for each in (view, view[:, ::-1])])


def _resized(image: Image.Image, preprocess: Preprocess) -> Image.Image:
    """Returns the image that evaluation cuts its centre from; where it cuts before it resizes, all of it resized."""
    if preprocess.geometry == "short_side":
        return resize_short_side(image, preprocess.resize, preprocess.interpolation)
    return image.resize((preprocess.resize, preprocess.resize), RESAMPLING[preprocess.interpolation])


def _paper(image: Image.Image, preprocess: Preprocess) -> list[Image.Image]:
    """Returns 72 views; scales for other sizes than 224 are in proportion."""
    size, views = preprocess.size, []
    for scale in SCALES:
        short = round(scale * size / 224)
        resized = resize_short_side(image, short, preprocess.interpolation)
        width, height = resized.size
        for part in (0, 0.5, 1):  # left, centre, right; of a portrait top, centre, bottom
            left, top = round(part * (width - short)), round(part * (height - short))
            square = resized.crop((left, top, left + short, top + short))
            views += _corners_and_centre(square, size)
            views.append(square.resize((size, size), RESAMPLING[preprocess.interpolation]))
    return views


def _corners_and_centre(image: Image.Image, size: int) -> list[Image.Image]:
    """Returns the views of `size` pixels at the top left, top right, bottom left, bottom right and in the centre."""
    right, bottom = image.width - size, image.height - size
    places = ((0, 0), (right, 0), (0, bottom), (right, bottom), (round(right / 2), round(bottom / 2)))
    return [image.crop((left, top, left + size, top + size)) for left, top in places]
