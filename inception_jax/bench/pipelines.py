"""Input pipelines of torchvision, OpenCV and tf.data, from JPEGs to training crops. Building one imports its package.

All take random crops (area 0.08 ... 1, aspect ratio 3/4 ... 4/3), resize bilinearly, flip, and make uint8 batches.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from inception_jax.bench.originals import without_missing_operators
from inception_jax.data.pixels import open_untrusted
from inception_jax.data.transforms import Box, sample_box

AREA, ASPECT = (0.08, 1.0), (3 / 4, 4 / 3)
# Tolerated mean differences, of 255 levels: Pillow may resize the axes in another order, which rounds differently; the
# others shrink without antialiasing.
ROUNDING, ALIASING = 1.0, 20.0


@dataclasses.dataclass(frozen=True)
class Engine:
    """`read` turns all images into batches, once; `crop` crops and resizes one image, for the comparison."""

    read: Callable[[], Any]
    crop: Callable[[bytes, Box], Any]
    tolerance: float = ALIASING


def torchvision(images: list[bytes], size: int) -> Engine:
    import torch

    with without_missing_operators():
        from torchvision import transforms

    torch.set_num_threads(1)
    steps = [transforms.RandomResizedCrop(size), transforms.RandomHorizontalFlip(), transforms.PILToTensor()]
    transform = transforms.Compose(steps)

    def crop(encoded, box):
        left, top, right, bottom = box
        image = open_untrusted(encoded).convert("RGB")
        return np.asarray(transforms.functional.resized_crop(image, top, left, bottom - top, right - left, [size] * 2))

    def read():
        torch.stack([transform(open_untrusted(encoded).convert("RGB")) for encoded in images])

    return Engine(read, crop, ROUNDING)


def opencv(images: list[bytes], size: int) -> Engine:
    import cv2

    cv2.setNumThreads(1)
    rng = np.random.default_rng(0)
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION

    def resized(image, box):
        left, top, right, bottom = box
        return cv2.resize(image[top:bottom, left:right], (size, size), interpolation=cv2.INTER_LINEAR)

    def crop(encoded, box):
        return resized(cv2.imdecode(np.frombuffer(encoded, np.uint8), flags), box)[..., ::-1]

    def read():
        batch = []
        for encoded in images:
            image: Any = cv2.imdecode(np.frombuffer(encoded, np.uint8), flags)
            pixels = resized(image, sample_box(image.shape[1], image.shape[0], rng, AREA, ASPECT))
            batch.append(cv2.cvtColor(cv2.flip(pixels, 1) if rng.random() < 0.5 else pixels, cv2.COLOR_BGR2RGB))
        return np.stack(batch)

    return Engine(read, crop)


def tf_data(images: list[bytes], size: int, our_boxes: bool = False) -> Engine:
    """Returns tf.data; TensorFlow's own random boxes are smaller on average than those of the others."""
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")

    def decoded(encoded, window):
        return tf.image.resize(tf.image.decode_and_crop_jpeg(encoded, window, channels=3), (size, size))

    def draw(encoded):
        first, extent, _ = tf.image.sample_distorted_bounding_box(
            tf.image.extract_jpeg_shape(encoded), tf.zeros([1, 0, 4]), aspect_ratio_range=ASPECT, area_range=AREA,
            max_attempts=10, use_image_if_no_bounding_boxes=True,
        )  # fmt: skip
        return tf.concat([first[:2], extent[:2]], 0)

    def load(encoded, window):
        pixels = tf.image.random_flip_left_right(decoded(encoded, window if our_boxes else draw(encoded)))
        return tf.cast(tf.round(pixels), tf.uint8)

    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    options.threading.max_intra_op_parallelism = 1
    rng = np.random.default_rng(0)

    def window(box: Box) -> list[int]:
        left, top, right, bottom = box
        return [top, left, bottom - top, right - left]

    def batches() -> Any:
        windows = [window(sample_box(*open_untrusted(each).size, rng, AREA, ASPECT)) for each in images]
        examples = tf.data.Dataset.from_tensor_slices((images, np.array(windows, np.int32)))
        return examples.map(load, num_parallel_calls=1).batch(64).with_options(options)

    passes = itertools.cycle([batches() for _ in range(2)])

    def crop(encoded, box):
        return np.round(decoded(encoded, window(box)).numpy())

    def read():
        iterator = iter(next(passes))
        for _ in iterator:
            pass
        return iterator  # deleted after the timing, as ours is: the deletion waits for a timer of tf.data

    return Engine(read, crop)


OTHERS: dict[str, Callable[[list[bytes], int], Engine]] = {
    "torchvision": torchvision,
    "opencv": opencv,
    "tf.data": tf_data,
    "tf.data, our boxes": functools.partial(tf_data, our_boxes=True),
}
