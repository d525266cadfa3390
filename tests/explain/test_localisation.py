"""Boxes, masks and errors, on maps and boxes made by hand; and the way from a map back to its image."""

import numpy as np
import pytest
from PIL import Image

from inception_jax.data.transforms import Evaluate, EvaluateBox
from inception_jax.errors import UserError
from inception_jax.explain import localisation
from inception_jax.explain.heatmaps import heat, on_image

MAP = np.array(
    [
        [0.0, 0.3, 0.3, 0.0, 0.0],
        [0.0, 0.3, 1.0, 0.0, 0.9],
        [0.0, 0.0, 0.0, 0.19, 0.0],
        [0.5, 0.0, 0.0, 0.0, 0.0],
    ]
)


def test_the_box_is_that_of_the_largest_part_above_a_fifth_of_the_maximum():
    assert localisation.largest_box(MAP) == (1, 0, 3, 2)
    assert localisation.largest_box(5 * MAP) == (1, 0, 3, 2)
    assert localisation.largest_box(MAP, 0.4) == (2, 1, 3, 2)  # of three pixels the first
    assert localisation.largest_box(MAP, 0.1) == (1, 0, 3, 2)  # corners do not connect
    assert localisation.largest_box(np.zeros((3, 4))) is None
    assert localisation.largest_box(-MAP - 1) is None
    assert localisation.largest_box(np.ones((3, 4))) == (0, 0, 4, 3)
    with pytest.raises(UserError, match="threshold is 1; it must be at least 0 and below 1"):
        localisation.largest_box(MAP, 1)


def test_iou():
    assert localisation.iou((0, 0, 4, 2), (0, 0, 4, 2)) == 1
    assert localisation.iou((0, 0, 4, 2), (2, 0, 6, 2)) == pytest.approx(4 / 12)
    assert localisation.iou((0, 0, 4, 2), (4, 0, 6, 2)) == 0
    assert localisation.iou((0, 0, 4, 4), (1, 1, 3, 3)) == 4 / 16
    assert localisation.iou((1, 1, 1, 1), (1, 1, 1, 1)) == 0


def test_localisation_error_of_ilsvrc():
    whole, half, off = (0, 0, 4, 4), (0, 0, 4, 2), (4, 4, 8, 8)
    guesses = [
        [(3, whole), (1, off)],  # right at once
        [(1, whole), (3, half)],  # right class second, at exactly one half
        [(3, off), (2, whole)],  # right class elsewhere
        [(2, whole), (1, whole)],  # right place, wrong class
        [(3, None), (3, off)],  # fits the second object
    ]
    boxes = [[whole], [whole], [whole], [whole], [whole, off]]
    assert localisation.localisation_error(guesses, [3] * 5, boxes, k=1) == pytest.approx(4 / 5)
    assert localisation.localisation_error(guesses, [3] * 5, boxes, k=2) == pytest.approx(2 / 5)
    assert localisation.localisation_error(guesses, [3] * 5, boxes, k=2, at_least=0.51) == pytest.approx(3 / 5)
    with pytest.raises(UserError, match="for 1, 1 and 0 images"):
        localisation.localisation_error([[]], [3], [], k=1)


def test_masks_name_the_class_whose_heat_is_largest():
    one = np.array([[1.0, 0.6, 0.1], [0.0, 0.15, 0.0]])
    other = np.array([[0.0, 0.8, 0.8], [0.3, 0.1, 0.0]])
    mask = localisation.pseudo_mask(np.stack([one, other]), [7, 2])
    assert mask.tolist() == [[8, 3, 3], [3, 0, 0]]
    assert localisation.pseudo_mask(0 * one[None], [7]).tolist() == [[0, 0, 0], [0, 0, 0]]


def test_mean_iou_counts_pixels_of_all_images():
    truths = [np.array([[0, 0, 1, 1]]), np.array([[0, 0, 0, 5]])]
    masks = [np.array([[0, 1, 1, 1]]), np.array([[0, 0, 0, 0]])]
    counts = sum(localisation.overlaps(*pair, labels=6) for pair in zip(masks, truths, strict=True))
    assert localisation.mean_iou(counts) == pytest.approx((4 / 6 + 2 / 3 + 0) / 3)
    assert localisation.mean_iou(localisation.overlaps(truths[0], truths[0], 6)) == 1
    without = localisation.overlaps(masks[1], truths[1], 6, void=5)
    assert without.tolist() == [[3, 0, 0, 0, 0, 0]] * 2
    with pytest.raises(UserError, match=r"A mask of \[1, 4\] pixels does not go with a truth of \[4, 1\]"):
        localisation.overlaps(masks[0], truths[0].T, 6)
    with pytest.raises(UserError, match=r"the label 5; labels are 0 \.\.\. 4"):
        localisation.overlaps(masks[1], truths[1], 5)


def test_heat_is_what_speaks_for_a_class_from_0_to_1():
    maps = np.stack([np.array([[-3.0, 2.0], [4.0, 0.0]]), -np.ones((2, 2))])
    assert heat(maps).tolist() == [[[0, 0.5], [1, 0]], [[0, 0], [0, 0]]]


def test_a_map_lies_on_the_box_that_the_network_read():
    found = on_image(np.array([[1.0, 3.0]]), (2, 1, 6, 3), width=8, height=4)
    row = [0, 0, 1, 1.5, 2.5, 3, 0, 0]  # centres of cells at x = 3 and 5, straight in between, level outside
    np.testing.assert_allclose(found, [[0] * 8, row, row, [0] * 8])
    np.testing.assert_allclose(on_image(MAP, (0, 0, 5, 4), 5, 4), MAP, rtol=1e-6)


@pytest.mark.parametrize("transform", [Evaluate(32, 40), EvaluateBox(32, 0.8), Evaluate(32, 32), EvaluateBox(32, 0.5)])
@pytest.mark.parametrize("size", [(90, 60), (57, 91), (40, 40)])
def test_a_mark_is_found_where_it_is_in_the_original(transform, size):
    """What the network reads of a bright square, laid back over the image, is that square."""
    width, height = size
    left, top = width // 2 - 6, height // 2 - 2
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[top : top + 8, left : left + 11] = 255
    read = transform(Image.fromarray(pixels)).astype(np.float32)[..., 0]
    box = transform.box(width, height)
    found = localisation.largest_box(on_image(read, box, width, height), 0.5)
    assert localisation.iou(found, (left, top, left + 11, top + 8)) > 0.75
    inside = on_image(np.ones((4, 4)), box, width, height)
    assert localisation.largest_box(inside) == tuple(round(edge) for edge in box)
