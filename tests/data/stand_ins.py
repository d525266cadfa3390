"""Small data sets under the names of large ones: ImageNet and CIFAR-10 as TFDS prepares them, of generated JPEGs."""

import contextlib
import io
from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

COUNTS = {"imagenet2012": {"train": 40, "validation": 30}, "cifar10": {"train": 40, "test": 20}}
KINDS = (  # what the images of ImageNet are, most of them the first
    {"quality": 90},
    {"quality": 75, "subsampling": 0},
    {"quality": 80, "progressive": True},
    {"quality": 85, "restart_marker_blocks": 7},
    {"mode": "L"},
    {"mode": "CMYK"},
)


def jpeg(index: int, height: int, width: int, mode: str = "RGB", **options) -> bytes:
    """Returns a smooth picture, and another one for each index."""
    small = np.random.default_rng(index).integers(0, 256, (-(-height // 8), -(-width // 8), 3), np.uint8)
    image = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).convert(mode)
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


class StandIn(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Images, labels and names; the label of an image is its place among the classes."""

    VERSION = tfds.core.Version("1.0.0")
    extra = "id"  # a text that the original has beside image and label
    classes = 10

    def _info(self) -> tfds.core.DatasetInfo:
        image = tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg")
        label = tfds.features.ClassLabel(num_classes=self.classes)
        features = {"image": image, "label": label, self.extra: tfds.features.Text()}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(count) for split, count in COUNTS[self.name].items()}

    def _generate_examples(self, count: int) -> Iterator[tuple[int, dict]]:
        for index in range(count):
            image = io.BytesIO(self.picture(index))
            yield index, {"image": image, "label": index % self.classes, self.extra: f"{index}.jpeg"}


class ImageNet(StandIn, skip_registration=True):
    name = "imagenet2012"
    extra = "file_name"
    classes = 1000

    @staticmethod
    def picture(index: int) -> bytes:
        height, width = np.random.default_rng(index).integers(60, 260, 2).tolist()
        return jpeg(index, height, width, **KINDS[index % len(KINDS)])


class Cifar10(StandIn, skip_registration=True):
    name = "cifar10"

    @staticmethod
    def picture(index: int) -> bytes:
        return jpeg(index, 32, 32, quality=95)


def write(data_dir: str) -> None:
    """Writes both to a data_dir, as ArrayRecord."""
    tfds.disable_progress_bar()
    for builder in (ImageNet, Cifar10):
        builder.VERSION = tfds.builder_cls(builder.name).VERSION  # it is looked for in a folder of this name
        with contextlib.redirect_stdout(io.StringIO()):
            builder(data_dir=data_dir, file_format="array_record").download_and_prepare()
