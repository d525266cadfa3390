"""Sources of images: TFDS data sets in ArrayRecord files, folders of images, and the embedded digits.

A source is a random-access sequence of records {"image": encoded bytes, "label": int, "index": int, "name": str}. It
pickles, so that worker processes can open it again, and it never imports TensorFlow.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from inception_jax import imagenet
from inception_jax.data import folders
from inception_jax.data.pixels import IMAGE_SUFFIXES as IMAGE_SUFFIXES
from inception_jax.data.pixels import MAX_FILE, BrokenImage
from inception_jax.errors import UserError, first_line, printable
from inception_jax.paths import read_bytes, user_path
from inception_jax.suggestions import hint

logger = logging.getLogger(__name__)

NAMED_CLASSES = 5  # in messages
IMAGENET_FILES = ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar")
NAME_KEYS = ("file_name", "id")  # of the features of TFDS
TFDS_NEEDS = "(which, unlike training, needs `pip install tensorflow mlcroissant apache-beam importlib_resources`)"


class UnreadableRecord(BrokenImage):
    """A record that cannot be read: a file has vanished, permission is missing, or a shard is damaged."""


class FolderRecords(Sequence):
    """The image files of class folders, read when asked for."""

    def __init__(self, paths: list[str], labels: list[int]):
        self.paths, self.labels = paths, labels

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index):
        path = self.paths[index]
        image = read_bytes(path, MAX_FILE)
        return {"image": image, "label": self.labels[index], "file_name": os.path.basename(path)}


@dataclasses.dataclass(frozen=True)
class ImageSource:
    """A labelled set of encoded images.

    Attributes:
      name: the data set and split, for messages.
      records: random-access mappings with an encoded image and a label.
      class_names: the name of each label; for ImageNet words, not WordNet ids.
      image_key, label_key: keys of the mappings.
      exif: whether the EXIF orientation is applied.
    """

    name: str
    records: Sequence[Any]
    class_names: tuple[str, ...]
    image_key: str = "image"
    label_key: str = "label"
    exif: bool = False

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Returns a record, with "name" the name of its file without the suffix.

        Raises:
          UnreadableRecord: it cannot be read; the message names it.
        """
        try:
            record = self.records[index]
            image, label = record[self.image_key], int(record[self.label_key])
        except UserError as error:  # it names the file
            raise UnreadableRecord(f"Cannot read record {index} of {printable(self.name)}: {error}") from error
        except Exception as error:  # each storage has its own
            raise UnreadableRecord(f"Cannot read {self.describe(index)}: {first_line(error)}.") from error
        name = next((record[key] for key in NAME_KEYS if key in record), "")
        name = os.fsdecode(name) if isinstance(name, bytes) else str(name)
        return {"image": image, "label": label, "index": int(index), "name": image_name(name)}

    def describe(self, index: int) -> str:
        """Returns the number of a record, its data set and its file, for messages."""
        path = f" ({self.records.paths[index]})" if isinstance(self.records, FolderRecords) else ""
        return printable(f"record {index} of {self.name}{path}")


def image_name(file: str) -> str:
    """Returns the name of an image, from its file name or its id; an id may contain dots and has no suffix."""
    name = Path(file).name
    return name[: -len(suffix)] if (suffix := Path(name).suffix).lower() in IMAGE_SUFFIXES else name


def open_source(
    name: str,
    split: str,
    data_dir: str | None = None,
    *,
    class_names: Sequence[str] | None = None,
    exif: bool = False,
) -> ImageSource:
    """Opens a split of a data set.

    Args:
      name: "digits", any TFDS name ("cifar10", "imagenet2012", ...), or "folder:PATH" for PATH/<split>/<class>/<image>.
      split: a split of the data set; TFDS names may slice it ("train[:10%]").
      data_dir: where TFDS keeps prepared data; None is TFDS's default.
      class_names: for a folder, the classes in the order of their labels, as the training split or a network has
        them. None: the folders of this split, sorted.
      exif: whether to apply the EXIF orientation; ImageNet's published accuracies are measured without.

    Raises:
      UserError: the data set, the split, or its files are missing or unusable; the message says what to run.
    """
    if name.startswith("folder:"):
        names = (
            [class_names] if isinstance(class_names, str) else class_names
        )  # a single name, not a sequence of letters
        source = _open_folder(user_path(name.removeprefix("folder:")), split, names)
    else:
        source = _open_tfds(name, split, data_dir)
    return dataclasses.replace(source, exif=exif)


def _open_folder(root: Path, split: str, class_names: Sequence[str] | None) -> ImageSource:
    folder = root / split
    if not os.path.isdir(folder):
        what = f"it holds {_listed(folders.subfolders(root)[0])}" if os.path.isdir(root) else _why_no_folder(root)
        place = printable(root)
        raise UserError(
            f"No folder {printable(folder)}: images belong in {place}/<split>/<class>/, and of {place}: {what}."
        )
    named, found = folders.subfolders(folder)
    if not named:
        place = printable(folder)
        raise UserError(f"{place} holds no class folders: move its images to {place}/<class>/.")
    # Other folders of the root are not read: they may hold runs or archives.
    files: dict[str, list[str]] = {}
    for each in named:
        below = folders.find_files(folder / each)
        files[each], below.files = below.files, []
        found.add(below)
    found.warn(folder)
    if class_names is None:
        names, labels = imagenet.readable(named), {each: label for label, each in enumerate(named)}
        if empty := next((each for each in named if not files[each]), None):
            suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
            raise UserError(
                f"Class folder {printable(folder / empty)} holds no image ({suffixes}): add some or remove the folder."
            )
    else:
        names, labels = tuple(class_names), _labels(folder, files, class_names)
    pairs = sorted((label, path) for each, label in labels.items() for path in files[each])
    records = FolderRecords([path for _, path in pairs], [label for label, _ in pairs])
    return ImageSource(f"folder:{folder}", records, names)


def _labels(folder: Path, files: Mapping[str, Sequence[str]], class_names: Sequence[str]) -> dict[str, int]:
    """Returns the label of each class folder; folders may be named by WordNet ids, too.

    Raises:
      UserError: a folder with images is not one of the classes, or no folder has images.
    """
    known = {unicodedata.normalize("NFC", name): label for label, name in enumerate(class_names)}
    words = imagenet.classes()

    def label(name: str) -> int | None:
        composed = unicodedata.normalize("NFC", name)  # macOS may have decomposed the names of one split
        return known.get(composed, known.get(words.get(composed, "")))

    found = {each: label(each) for each in files if files[each]}
    if unknown := [each for each, place in found.items() if place is None]:
        raise UserError(
            f"{printable(folder)} has class folders that the training data, or the network, do not know: "
            f"{_listed(unknown)}; the {len(class_names)} known classes are {_listed(class_names)}."
        )
    labels = {each: place for each, place in found.items() if place is not None}
    if not labels:
        raise UserError(f"{printable(folder)} holds no image of any class ({', '.join(sorted(IMAGE_SUFFIXES))}).")
    missing = [name for place, name in enumerate(class_names) if place not in labels.values()]
    if missing:
        counts = f"{len(missing):,} of {len(class_names):,}"
        logger.warning("folder:%s has no images of %s classes: %s.", printable(folder), counts, _listed(missing))
    return labels


def _why_no_folder(path: Path) -> str:
    try:
        path.stat()
    except FileNotFoundError:
        return "it does not exist"
    except OSError as error:
        return str(error.strerror).lower()
    return "it is no folder"


def _listed(names: Sequence[str]) -> str:
    """Returns the first few names, and the total number if there are more."""
    more = f", ... ({len(names):,})" if len(names) > NAMED_CLASSES else ""
    return ", ".join(printable(name) for name in names[:NAMED_CLASSES]) + more or "no folders"


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
        raise UserError(f"{name!r} has no split {split!r}; its splits: {splits} ({first_line(error)}).") from error
    if not len(records):
        raise UserError(f"Split {split!r} of {name!r} is empty.")
    class_names = imagenet.readable(features[label_key].names)
    source = ImageSource(f"{name}[{split}]", records, class_names, image_key, label_key)
    if source[0]["label"] < 0:  # this also detects missing files before the run starts
        raise UserError(f"Split {split!r} of {name!r} has no labels; its splits: {', '.join(builder.info.splits)}.")
    return source


def _builder(name: str, data_dir: str | None):
    """Returns the TFDS builder of a data set that is prepared as ArrayRecord."""
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
        # Community data sets are left out: TensorFlow would list them from the network.
        known = ["digits", *tfds.list_builders(with_community_datasets=False)]
        near = hint(name, known, limit=5, cutoff=0.6)
        raise UserError(f"No data set {name!r}: expected digits, a TFDS name or folder:PATH.{near}") from error
    except (AssertionError, ImportError, ValueError) as error:
        raise UserError(f"TFDS cannot open {name!r}: {first_line(error)}") from error
