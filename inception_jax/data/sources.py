"""Where images come from: TFDS data sets in ArrayRecord files, folders of images, and the embedded digits.

A source is a random-access sequence of records {"image": encoded bytes, "label": int, "index": int, "name": str}. It
pickles, so that worker processes can open it again, and it never imports TensorFlow.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from inception_jax import imagenet
from inception_jax.errors import UserError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"})
IMAGENET_FILES = ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar")
NAME_KEYS = ("file_name", "id")  # of the features of TFDS
TFDS_NEEDS = "(which, unlike training, needs `pip install tensorflow mlcroissant apache-beam importlib_resources`)"


class FolderRecords(Sequence):
    """The image files of class folders, read when asked for."""

    def __init__(self, paths: list[str], labels: list[int]):
        self.paths, self.labels = paths, labels

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index):
        path = Path(self.paths[index])
        return {"image": path.read_bytes(), "label": self.labels[index], "file_name": path.name}


@dataclasses.dataclass(frozen=True)
class ImageSource:
    """A labelled set of encoded images.

    Attributes:
      name: the data set and split, for messages.
      records: random-access mappings with an encoded image and a label.
      class_names: the name of each label; those of ImageNet in words, not by WordNet's ids.
      image_key, label_key: of the mappings.
    """

    name: str
    records: Sequence[Any]
    class_names: tuple[str, ...]
    image_key: str = "image"
    label_key: str = "label"

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Returns a record, with the name of its file, less the suffix; a UserError names one that cannot be read."""
        try:
            record = self.records[index]
        except Exception as error:  # each storage has its own
            raise UserError(f"Cannot read {self.describe(index)}: {_first_line(error)}.") from error
        name = next((record[key] for key in NAME_KEYS if key in record), "")
        return {
            "image": record[self.image_key],
            "label": int(record[self.label_key]),
            "index": int(index),
            "name": Path(name.decode() if isinstance(name, bytes) else str(name)).stem,
        }

    def describe(self, index: int) -> str:
        """Returns what a person needs to find a record."""
        path = f" ({self.records.paths[index]})" if isinstance(self.records, FolderRecords) else ""
        return f"record {index} of {self.name}{path}"


def open_source(name: str, split: str, data_dir: str | None = None) -> ImageSource:
    """Opens a split of a data set.

    Args:
      name: "digits", any TFDS name ("cifar10", "imagenet2012", ...), or "folder:PATH" for PATH/<split>/<class>/<image>.
      split: a split of the data set; TFDS names may slice it ("train[:10%]").
      data_dir: where TFDS keeps prepared data; None is TFDS's default.

    Raises:
      UserError: the data set, the split, or its files are missing or unusable; the message says what to run.
    """
    if name.startswith("folder:"):
        return _open_folder(Path(name.removeprefix("folder:")).expanduser(), split)
    return _open_tfds(name, split, data_dir)


def _open_folder(root: Path, split: str) -> ImageSource:
    folder = root / split
    if not folder.is_dir():
        found = f"it holds {', '.join(_subfolders(root)) or 'no folders'}" if root.is_dir() else "it does not exist"
        raise UserError(f"No folder {folder}: images belong in {root}/<split>/<class>/, and of {root}: {found}.")
    if not _subfolders(folder):
        raise UserError(f"{folder} holds no class folders: move its images to {folder}/<class>/.")
    # Over all splits, so that a class has the same label in each.
    class_names = sorted({name for each in _subfolders(root) for name in _subfolders(root / each)})
    paths, labels = [], []
    for label, class_name in enumerate(class_names):
        class_folder = folder / class_name
        if not class_folder.is_dir():
            continue
        files = _image_files(class_folder)
        if not files:
            suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
            raise UserError(f"Class folder {class_folder} holds no image ({suffixes}): add some or remove the folder.")
        paths += files
        labels += [label] * len(files)
    return ImageSource(f"folder:{folder}", FolderRecords(paths, labels), imagenet.readable(class_names))


def _subfolders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))


def _image_files(folder: Path) -> list[str]:
    return sorted(
        entry.path
        for entry in os.scandir(folder)
        if not entry.name.startswith(".") and Path(entry.name).suffix.lower() in IMAGE_SUFFIXES
    )


def _open_tfds(name: str, split: str, data_dir: str | None) -> ImageSource:
    import tensorflow_datasets as tfds

    builder = _builder(name, data_dir)
    keys = builder.info.supervised_keys
    features = builder.info.features
    if not keys or len(keys) != 2 or not isinstance(features[keys[1]], tfds.features.ClassLabel):
        raise UserError(
            f"TFDS data set {name!r} has no (image, label) pair to classify; its features: {sorted(features)}."
        )
    image_key, label_key = keys
    try:
        records = builder.as_data_source(split, decoders={image_key: tfds.decode.SkipDecoding()})
    except (ValueError, KeyError) as error:
        splits = ", ".join(builder.info.splits)
        raise UserError(f"{name!r} has no split {split!r}; its splits: {splits} ({_first_line(error)}).") from error
    if not len(records):
        raise UserError(f"Split {split!r} of {name!r} is empty.")
    class_names = imagenet.readable(features[label_key].names)
    source = ImageSource(f"{name}[{split}]", records, class_names, image_key, label_key)
    if source[0]["label"] < 0:  # reading it also finds missing files now, not in the middle of a start
        raise UserError(f"Split {split!r} of {name!r} has no labels; its splits: {', '.join(builder.info.splits)}.")
    return source


def _builder(name: str, data_dir: str | None):
    """Returns the TFDS builder of data that is prepared as ArrayRecord."""
    if data_dir and "://" in data_dir:
        raise UserError(
            f"data_dir is {data_dir!r}: images are read at random places, which needs a file system; "
            "copy the data to a disk, or mount the bucket (gcsfuse) and give the folder."
        )
    if name == "digits":
        from inception_jax.data import digits

        return digits.prepared(data_dir)
    builder = _find_builder(name, data_dir)
    info, path = builder.info, builder.data_path
    if not info.splits:
        manual = " --manual_dir=TARS" if name.startswith("imagenet2012") else ""
        tars = f", with {' and '.join(IMAGENET_FILES)} (or one of them) in TARS" if manual else ""
        raise UserError(
            f"{name!r} is not prepared at {path}: point data_dir at a prepared copy, or run `tfds build {name} "
            f"--file_format=array_record --data_dir={builder.data_dir_root}{manual}`{tars} {TFDS_NEEDS}."
        )
    formats = {each.value for each in (info.file_format, *info.alternative_file_formats)}
    if "array_record" not in formats:
        raise UserError(
            f"{name!r} at {path} is in {info.file_format.value} format, without random access: add ArrayRecord files "
            f"with `tfds convert_format --dataset_version_dir={path} --out_file_format=array_record` {TFDS_NEEDS}."
        )
    return builder


def _find_builder(name: str, data_dir: str | None):
    import tensorflow_datasets as tfds

    try:
        return tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        # The others are listed on the network, by TensorFlow.
        known = ["digits", *tfds.list_builders(with_community_datasets=False)]
        nearest = difflib.get_close_matches(name, known, n=5)
        hint = f" Nearest: {', '.join(nearest)}." if nearest else ""
        raise UserError(f"No data set {name!r}: expected digits, a TFDS name or folder:PATH.{hint}") from error
    except (AssertionError, ImportError, ValueError) as error:
        raise UserError(f"TFDS cannot open {name!r}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
