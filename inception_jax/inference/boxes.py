"""Boxes and masks of objects in files: ILSVRC's and Pascal VOC's.

In the files a box holds the pixels xmin ... xmax and ymin ... ymax, both ends included and counted from 0, as ILSVRC's
evaluation takes them; here it is (left, top, right, bottom), the edges of pixels.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from inception_jax import imagenet
from inception_jax.data.folders import find_files
from inception_jax.data.pixels import FORMATS, MAX_FILE, BrokenImage, open_untrusted, reading
from inception_jax.errors import UserError, first_line, printable
from inception_jax.inference.heat import Box
from inception_jax.paths import as_text, read_bytes

HEADER = ["ImageId", "PredictionString"]
SIDES = ("xmin", "ymin", "xmax", "ymax")
CSV_OBJECT = re.compile(r"(\S+)" + r"\s+(-?\d+)" * 4 + r"(?:\s+|$)")
MAX_TEXT = 256 << 20  # bytes of a .csv file
MAX_XML = 4 << 20  # bytes of an .xml file: of one image
MASK_FORMAT = "PNG"
VOID = 255  # Pascal VOC's label of pixels that do not count

Boxes = dict[str, list[tuple[int, Box]]]  # by the name of the image: (class, box) of its objects


def keys(class_names: Sequence[str]) -> tuple[str, ...]:
    """Returns what files call the classes: WordNet's ids for those of ImageNet, else the names with _ for spaces."""
    wnids = {name: wnid for wnid, name in imagenet.classes().items()}
    return tuple(wnids.get(name, name.replace(" ", "_")) for name in class_names)


def read_boxes(path: Path, class_names: Sequence[str]) -> Boxes:
    """Returns the objects of images by the image's name without suffix.

    Args:
      path: a folder with a file NAME.xml for each image (Pascal VOC, ILSVRC), at any depth, or a .csv file with the
        columns ImageId and PredictionString, whose rows hold `class xmin ymin xmax ymax` for each object.
      class_names: of the data. Files call them as `keys` says.

    Raises:
      UserError: no such file, an object without meaning, or a class that is none of the data.
    """
    if os.path.isdir(path):
        files = [Path(each) for each in find_files(path, {".xml"}).files]
        found = {printable(file): (file.stem, _read_xml(file)) for file in files}
    elif path.suffix.lower() == ".csv":
        found = _read_csv(path)
    else:
        raise UserError(f"Boxes are in a folder of .xml files or in a .csv file; {printable(path)} is neither.")
    if not found:
        raise UserError(f"{printable(path)} holds no boxes.")
    indices = {key: i for i, key in enumerate(keys(class_names))}
    boxes: Boxes = {}
    for where, (name, objects) in found.items():
        if name in boxes:
            raise UserError(f"{where}: the boxes of {printable(name)} are given twice.")
        for key, sides in objects:
            if key not in indices:
                raise UserError(f"{where}: {key!r} is no class of the data, whose first is {next(iter(indices))!r}.")
            if not (0 <= sides[0] <= sides[2] and 0 <= sides[1] <= sides[3]):
                raise UserError(f"{where}: {sides} is no box (xmin, ymin, xmax, ymax).")
        boxes[name] = [(indices[key], (x0, y0, x1 + 1, y1 + 1)) for key, (x0, y0, x1, y1) in objects]
    return boxes


def write_boxes(path: Path, boxes: Mapping[str, Sequence[tuple[int, Box | None]]], class_names: Sequence[str]) -> None:
    """Writes the (class, box) of images by name as `read_boxes` reads a .csv; what has no box is left out."""
    names = keys(class_names)
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(HEADER)
        for image, objects in boxes.items():
            words = [f"{names[i]} {box[0]} {box[1]} {box[2] - 1} {box[3] - 1}" for i, box in objects if box is not None]
            rows.writerow([image, " ".join(words)])


def read_mask(folder: Path, name: str, size: tuple[int, int]) -> np.ndarray | None:
    """Returns the labels [H, W] of an image from `folder`/NAME.png: 0 is background, i + 1 class i. None: no such file.

    Raises:
      UserError: it is no image of labels, or its size (width, height) is another.
    """
    path = folder / f"{name}{FORMATS[MASK_FORMAT][0]}"
    if not _exists(path):
        return None
    encoded = read_bytes(path, MAX_FILE)
    try:
        with reading(encoded):
            labels = np.asarray(open_untrusted(encoded, [MASK_FORMAT]))
    except BrokenImage as error:
        raise UserError(f"{printable(path)} is no PNG of labels: {error}.") from error
    if labels.ndim != 2 or not np.issubdtype(labels.dtype, np.integer):
        raise UserError(f"{printable(path)} holds colours, not labels: one channel of integers or a palette is needed.")
    if labels.shape[::-1] != size:
        raise UserError(
            f"{printable(path)} has {labels.shape[1]}x{labels.shape[0]} pixels; its image has {size[0]}x{size[1]}."
        )
    return labels.astype(np.int32)


def _exists(path: Path) -> bool:
    """Returns whether there is anything of that name, be it a link to nothing; a folder that hides it is an error."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise UserError(f"{printable(path)}: {error.strerror}.") from error
    return True


def _read_xml(path: Path) -> list[tuple[str, tuple[int, ...]]]:
    content = read_bytes(path, MAX_XML)
    try:
        root = ElementTree.fromstring(content)
        return [
            (_text(each, "name"), tuple(round(float(_text(each, f"bndbox/{side}"))) for side in SIDES))
            for each in root.iter("object")
        ]
    except (ElementTree.ParseError, ValueError, OverflowError) as error:
        raise UserError(f"{printable(path)} is no annotation of Pascal VOC: {first_line(error)}.") from error


def _text(element: ElementTree.Element, tag: str) -> str:
    text = element.findtext(tag)
    if text is None:
        raise ValueError(f"an object has no {tag}")
    return text.strip()


def _read_csv(path: Path) -> dict[str, tuple[str, list[tuple[str, tuple[int, ...]]]]]:
    try:
        text = as_text(read_bytes(path, MAX_TEXT), str(path))
        header, *rows = list(csv.reader(io.StringIO(text, newline=""))) or [[]]
    except csv.Error as error:
        raise UserError(f"Cannot read {printable(path)}: {first_line(error)}.") from error
    if header != HEADER:
        raise UserError(
            f"{printable(path)} starts with {','.join(header)!r}; its first line must be {','.join(HEADER)!r}."
        )
    found, shown = {}, printable(path)
    for line, row in enumerate(rows, 2):
        objects = CSV_OBJECT.findall(row[1]) if len(row) == 2 else []
        if len(row) != 2 or " ".join(word for each in objects for word in each) != " ".join(row[1].split()):
            raise UserError(f"{shown}, line {line}: not a name and `class xmin ymin xmax ymax` for each object.")
        found[f"{shown}, line {line}"] = (
            Path(row[0]).stem,
            [(key, tuple(int(side) for side in sides)) for key, *sides in objects],
        )
    return found
