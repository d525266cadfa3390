"""Multi-crop evaluation: the centre crop, the ten crops of Krizhevsky et al., and the 144 of GoogLeNet."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from PIL import Image

from inception_jax.data.transforms import RESAMPLING, eval_transform, resize_short_side
from inception_jax.errors import UserError
from inception_jax.models.inputs import Preprocess

Count = Literal[1, 10, 144]
SCALES = (256, 288, 320, 352)  # pixels of the short side for crops of 224 pixels (1409.4842, section 7)


def check_crops(count: int) -> None:
    """Raises a `UserError` if there is no set of `count` crops."""
    if count not in get_args(Count):
        raise UserError(f"crops is {count}; it must be {', '.join(map(str, get_args(Count)))}.")


def crops(image: Image.Image, count: int, preprocess: Preprocess) -> np.ndarray:
    """Returns crops of an image as uint8: of RGB [count, S, S, 3], of grey [count, S, S], S being `preprocess.size`.

    1: the centre crop of single-crop evaluation.
    10: the four corners and the centre of the resized image, each followed by its mirror image.
    144: 4 scales x 3 squares along the long side x 6 crops (four corners, the centre, and the square resized) x 2 for
    the mirror images (1409.4842, section 7).

    Raises:
      UserError: another count.
    """
    check_crops(count)
    if count == 1:
        return eval_transform(preprocess)(image)[None]
    if count == 10:
        found = _corners_and_centre(_resized(image, preprocess), preprocess.size)
    else:
        found = _paper(image, preprocess)
    pixels = [np.asarray(crop) for crop in found]
    return np.stack([each for crop in pixels for each in (crop, crop[:, ::-1])])


def _resized(image: Image.Image, preprocess: Preprocess) -> Image.Image:
    """Returns the image that the crops are cut from, resized; geometry "central_box": the whole image as a square."""
    if preprocess.geometry == "short_side":
        return resize_short_side(image, preprocess.resize, preprocess.interpolation)
    return image.resize((preprocess.resize, preprocess.resize), RESAMPLING[preprocess.interpolation])


def _paper(image: Image.Image, preprocess: Preprocess) -> list[Image.Image]:
    """Returns the 72 crops that are not mirrored; for a size other than 224 the scales are in proportion."""
    size, found = preprocess.size, []
    for scale in SCALES:
        short = round(scale * size / 224)
        resized = resize_short_side(image, short, preprocess.interpolation)
        width, height = resized.size
        for share in (0, 0.5, 1):  # left, centre, right; of a portrait top, centre, bottom
            left, top = round(share * (width - short)), round(share * (height - short))
            square = resized.crop((left, top, left + short, top + short))
            found += _corners_and_centre(square, size)
            found.append(square.resize((size, size), RESAMPLING[preprocess.interpolation]))
    return found


def _corners_and_centre(image: Image.Image, size: int) -> list[Image.Image]:
    """Returns the crops of `size` pixels at the top left, top right, bottom left, bottom right and in the centre."""
    right, bottom = image.width - size, image.height - size
    corners = ((0, 0), (right, 0), (0, bottom), (right, bottom), (round(right / 2), round(bottom / 2)))
    return [image.crop((left, top, left + size, top + size)) for left, top in corners]
