"""Boxes and masks from heatmaps, and their errors: weakly supervised localisation and segmentation.

Boxes are (left, top, right, bottom), the edges of pixels.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import numpy as np
import scipy.ndimage

from inception_jax.errors import UserError
from inception_jax.explain.heatmaps import STRIP, Box, PlacedHeatmap

THRESHOLD = 0.2  # of the largest value (1512.04150, section 3.2)
HIT = 0.5  # the intersection over union at which ILSVRC counts a box as right


def largest_box(heat: np.ndarray | PlacedHeatmap, threshold: float = THRESHOLD) -> Box | None:
    """Returns the box of the largest connected region of heat [H, W] above a share of its maximum (1512.04150).

    Pixels that touch only at corners are not connected. None: no pixel is positive. A `PlacedHeatmap` is read in
    strips, so that it takes at most five bytes a pixel.

    Raises:
      UserError: the threshold is out of range.
    """
    hot = _above(heat, threshold)
    regions: np.ndarray = np.empty(hot.shape, np.int32)
    count = scipy.ndimage.label(hot, output=regions)
    if not count:
        return None
    step = max(STRIP // regions.shape[1], 1)  # bincount makes a copy, of eight bytes a pixel
    strips = (regions[start : start + step] for start in range(0, len(regions), step))
    sizes = np.sum([np.bincount(strip.ravel(), minlength=count + 1) for strip in strips], axis=0)[1:]
    rows, columns = scipy.ndimage.find_objects(regions)[int(sizes.argmax())]
    return columns.start, rows.start, columns.stop, rows.stop


def iou(one: Box, other: Box) -> float:
    """Returns the intersection over union of two boxes, 0 ... 1."""
    left, top = max(one[0], other[0]), max(one[1], other[1])
    right, bottom = min(one[2], other[2]), min(one[3], other[3])
    common = max(right - left, 0) * max(bottom - top, 0)
    union = _area(one) + _area(other) - common
    return common / union if union else 0.0


def is_localised(
    guesses: Sequence[tuple[int, Box | None]], label: int, boxes: Collection[Box], at_least: float = HIT
) -> bool:
    """Returns whether a guess (class, box) has the right class and an IoU of `at_least` with a true box (ILSVRC)."""
    return any(
        index == label and box is not None and any(iou(box, true) >= at_least for true in boxes)
        for index, box in guesses
    )


def localisation_error(
    guesses: Sequence[Sequence[tuple[int, Box | None]]],
    labels: Sequence[int],
    boxes: Sequence[Collection[Box]],
    k: int,
    at_least: float = HIT,
) -> float:
    """Returns the share of images for which none of the first k guesses is right, as `is_localised` defines it.

    Args:
      guesses: for each image its (class, box), the likeliest first; a box of None is never right.
      labels: the class of each image.
      boxes: for each image the boxes of the objects of its class.
      k: how many guesses count: 1 and 5 in ILSVRC.
      at_least: the least intersection over union of a hit.

    Raises:
      UserError: there are no images, or the lists differ in length.
    """
    if not guesses or not len(guesses) == len(labels) == len(boxes):
        raise UserError(
            f"There are guesses, labels and boxes for {len(guesses)}, {len(labels)} and {len(boxes)} images."
        )
    misses = [
        not is_localised(guess[:k], label, its_boxes, at_least)
        for guess, label, its_boxes in zip(guesses, labels, boxes, strict=True)
    ]
    return float(np.mean(misses))


def pseudo_mask(heats: np.ndarray | PlacedHeatmap, classes: Sequence[int], threshold: float = THRESHOLD) -> np.ndarray:
    """Returns labels [H, W]: 1 + the class with the largest heat above its threshold; 0, background, if there is none.

    Args:
      heats: heatmaps [K, H, W] in 0 ... 1.
      classes: the K class indices.
      threshold: share of the maximum of each heatmap.

    Raises:
      UserError: the threshold is out of range.
    """
    check_threshold(threshold)
    ours = np.asarray(classes) + 1
    limits = threshold * _largest(heats)[:, None, None]
    labels = np.zeros(heats.shape[1:], np.min_scalar_type(ours.max()))
    for rows, strip in _strips(heats):
        passed = np.where((strip > limits) & (strip > 0), strip, 0)
        labels[rows] = np.where(passed.max(0) > 0, ours[passed.argmax(0)], 0)
    return labels


def overlaps(mask: np.ndarray, truth: np.ndarray, labels: int, void: int | None = None) -> np.ndarray:
    """Returns the number of pixels in the intersection and in the union of each label of two masks [2, labels].

    Args:
      mask, truth: labels [H, W], 0 ... labels - 1.
      labels: the number of labels, background included.
      void: a value of `truth` whose pixels are ignored.

    Raises:
      UserError: the shapes differ, or a label is out of range.
    """
    if mask.shape != truth.shape:
        raise UserError(f"A mask of {list(mask.shape)} pixels does not go with a truth of {list(truth.shape)}.")
    counted = truth != void
    found, true = mask[counted], truth[counted]
    if found.size and max(found.max(), true.max()) >= labels:
        raise UserError(f"A mask holds the label {max(found.max(), true.max())}; labels are 0 ... {labels - 1}.")
    common, ours, theirs = (np.bincount(each, minlength=labels) for each in (found[found == true], found, true))
    return np.stack([common, ours + theirs - common])


def mean_iou(counts: np.ndarray) -> float:
    """Returns the mean intersection over union of the labels that occur, from `overlaps` [2, labels] or their sum."""
    common, union = counts
    return float((common[union > 0] / union[union > 0]).mean())


def check_threshold(threshold: float) -> None:
    """Raises a `UserError` unless the threshold is in 0 ... 1, 1 excluded."""
    if not 0 <= threshold < 1:
        raise UserError(f"threshold is {threshold}; it must be at least 0 and below 1.")


def _above(heat: np.ndarray | PlacedHeatmap, threshold: float) -> np.ndarray:
    check_threshold(threshold)
    limit = threshold * _largest(heat)
    hot = np.empty(heat.shape, bool)
    for rows, strip in _strips(heat):
        hot[rows] = (strip > limit) & (strip > 0)
    return hot


def _largest(heat: np.ndarray | PlacedHeatmap) -> np.ndarray:
    """Returns the largest value of each [H, W] of heat [..., H, W]."""
    return np.max([strip.max((-2, -1)) for _, strip in _strips(heat)], axis=0)


def _strips(heat: np.ndarray | PlacedHeatmap) -> Iterator[tuple[slice, np.ndarray]]:
    if isinstance(heat, PlacedHeatmap):
        yield from heat.strips()
    else:
        yield slice(None), heat


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
