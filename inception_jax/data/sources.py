"""Where images come from: TFDS data sets in ArrayRecord files, folders of images, and the embedded digits.

A source is a random-access sequence of records {"image": encoded bytes, "label": int, "index": int}. It pickles, so
that worker processes can open it again, and it never imports TensorFlow.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from inception_jax.errors import UserError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"})
IMAGENET_FILES = "ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar"


@dataclasses.dataclass(frozen=True)
class ImageSource:
    """A labelled set of encoded images.

    Attributes:
      name: the data set and split, for messages.
      records: random-access records, each a mapping or (path, label).
      class_names: the name of each label.
    """

    name: str
    records: Sequence[Any]
    class_names: tuple[str, ...]
    image_key: str = "image"
    label_key: str = "label"

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        record = self.records[index]
        return {"image": record[self.image_key], "label": int(record[self.label_key]), "index": int(index)}

    def describe(self, index: int) -> str:
        """Returns what a person needs to find record `index`."""
        return f"record {index} of {self.name}"


class FolderRecords(Sequence):
    """The image files of class sub-folders, read when asked for."""

    def __init__(self, paths: list[str], labels: list[int]):
        self.paths, self.labels = paths, labels

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index):
        return {"image": Path(self.paths[index]).read_bytes(), "label": self.labels[index]}


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
        found = ", ".join(_subfolders(root)) if root.is_dir() else ""
        state = f"it holds: {found or 'no folders'}" if root.is_dir() else "it does not exist"
        raise UserError(f"No folder {folder}: images belong in {root}/<split>/<class>/, and {root}: {state}.")
    class_names = sorted({name for each in _subfolders(root) for name in _subfolders(root / each)})
    if not class_names:
        raise UserError(f"{folder} holds no class folders: images belong in {folder}/<class>/.")
    paths, labels = [], []
    for label, class_name in enumerate(class_names):
        class_folder = folder / class_name
        files = _image_files(class_folder)
        if class_folder.is_dir() and not files:
            raise UserError(
                f"Class folder {class_folder} holds no image ({', '.join(sorted(IMAGE_SUFFIXES))}): "
                "add images or remove the folder."
            )
        paths += files
        labels += [label] * len(files)
    return ImageSource(f"folder:{folder}", FolderRecords(paths, labels), tuple(class_names))


def _subfolders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))


def _image_files(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
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
            f"TFDS data set {name!r} has no (image, label) pair to classify; its features: {list(features)}."
        )
    image_key, label_key = keys
    try:
        records = builder.as_data_source(split, decoders={image_key: tfds.decode.SkipDecoding()})
    except (ValueError, KeyError) as error:
        splits = ", ".join(builder.info.splits)
        raise UserError(f"{name!r} has no split {split!r}; its splits: {splits} ({_first_line(error)}).") from error
    if not len(records):
        raise UserError(f"Split {split!r} of {name!r} is empty.")
    return ImageSource(f"{name}[{split}]", records, tuple(features[label_key].names), image_key, label_key)


def _builder(name: str, data_dir: str | None):
    """Returns the TFDS builder of data that is prepared as ArrayRecord."""
    import tensorflow_datasets as tfds

    from inception_jax.data.digits import Digits

    if name == "digits":
        builder = Digits(data_dir=data_dir, file_format="array_record")
        tfds.disable_progress_bar()
        with contextlib.redirect_stdout(io.StringIO()):  # TFDS announces a download, and there is none
            builder.download_and_prepare()
        return builder
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        nearest = difflib.get_close_matches(name, [*tfds.list_builders(), "digits"], n=3)
        hint = f" Nearest: {', '.join(nearest)}." if nearest else ""
        raise UserError(
            f"No data set {name!r}: expected digits, a TFDS name or folder:PATH (data_dir {data_dir!r}).{hint}"
        ) from error
    prepare = f"tfds build {name} --file_format=array_record --data_dir="
    needs = "(preparing, unlike training, needs `pip install tensorflow mlcroissant`)"
    if not builder.info.splits:
        manual = f" --manual_dir=... with {IMAGENET_FILES} in it" if name.startswith("imagenet2012") else ""
        raise UserError(
            f"{name!r} is not prepared at {builder.data_path}: point data_dir at a prepared copy, "
            f"or run `{prepare}{data_dir or '...'}`{manual} {needs}."
        )
    if builder.info.file_format.value != "array_record":
        raise UserError(
            f"{name!r} at {builder.data_path} is in {builder.info.file_format.value} format, without random access: "
            f"prepare it once more in another folder with `{prepare}OTHER_DIR` {needs}."
        )
    return builder


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
