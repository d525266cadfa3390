"""Reads and writes boxes and masks of objects in the formats of ILSVRC, Pascal VOC and Kaggle.

In the files a box holds the pixels xmin ... xmax and ymin ... ymax, both ends included and counted from 0, as ILSVRC's
evaluation does it. In Python a box is (left, top, right, bottom), the edges of pixels: right = xmax + 1.
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
from inception_jax.data.sources import image_name
from inception_jax.errors import UserError, first_line, printable
from inception_jax.explain.heatmaps import Box
from inception_jax.inference.images import as_names
from inception_jax.paths import as_text, read_bytes, user_path, write_bytes

HEADER = ["ImageId", "PredictionString"]
SIDES = ("xmin", "ymin", "xmax", "ymax")
INTEGER = re.compile(r"-?[0-9]{1,9}")
MAX_TEXT = 256 << 20  # bytes of a .csv file
MAX_XML = 4 << 20  # bytes of an .xml file: of one image
MASK_FORMAT = "PNG"
VOID = 255  # Pascal VOC's label of pixels that do not count

Boxes = dict[str, list[tuple[int, Box]]]  # by the name of the image: (class, box) of its objects


def keys(class_names: str | Sequence[str]) -> tuple[str, ...]:
    """Returns the class keys that `write_boxes` writes: names with _ for spaces; for ImageNet's 1000, WordNet ids."""
    names = as_names(class_names)
    if names == imagenet.class_names():
        return tuple(imagenet.classes())
    return tuple("_".join(name.split()) for name in names)


def _indices(class_names: str | Sequence[str]) -> dict[str, int]:
    """Returns the class index by each key that a file may use: its name, its key of `keys`, its WordNet id.

    WordNet ids count only if all classes are ImageNet's. Where keys clash, a name goes first.
    """
    names = as_names(class_names)
    indices = {name: i for i, name in enumerate(names)}
    wnids = {name: wnid for wnid, name in imagenet.classes().items()}
    others = [keys(names), [wnids[name] for name in names] if all(name in wnids for name in names) else []]
    for each in others:
        for i, key in enumerate(each):
            indices.setdefault(key, i)
    return indices


def read_boxes(path: Path, class_names: str | Sequence[str]) -> Boxes:
    """Returns the (class index, box) of all objects, by the name of the image without suffix.

    Args:
      path: a folder with a file NAME.xml for each image (Pascal VOC, ILSVRC), at any depth, or a .csv file with the
        columns ImageId and PredictionString, whose rows hold `class xmin ymin xmax ymax` for each object.
      class_names: of the data. Files may use names, with spaces or _ between words; or WordNet ids, if all classes are
        ImageNet's.

    Raises:
      UserError: no such file, an object that cannot be parsed, or a class that the data do not have.
    """
    path = user_path(path)
    if os.path.isdir(path):
        files = [Path(each) for each in find_files(path, {".xml"}).files]
        found = {printable(file): (file.stem, _read_xml(file)) for file in files}
    elif path.suffix.lower() == ".csv":
        found = _read_csv(path)
    else:
        raise UserError(f"Boxes are in a folder of .xml files or in a .csv file; {printable(path)} is neither.")
    if not found:
        raise UserError(f"{printable(path)} holds no boxes.")
    indices = _indices(class_names)
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


def write_boxes(
    path: str | os.PathLike[str],
    boxes: Mapping[str, Sequence[tuple[int, Box | None]]],
    class_names: str | Sequence[str],
    overwrite: bool = False,
) -> None:
    """Writes the (class index, box) of images by name, as the .csv that `read_boxes` reads; a box of None is left out.

    Raises:
      UserError: the file exists, or cannot be written.
    """
    names, text = keys(class_names), io.StringIO(newline="")
    rows = csv.writer(text)
    rows.writerow(HEADER)
    for image, objects in boxes.items():
        words = [f"{names[i]} {box[0]} {box[1]} {box[2] - 1} {box[3] - 1}" for i, box in objects if box is not None]
        rows.writerow([image, " ".join(words)])
    write_bytes(path, text.getvalue().encode("utf-8", "surrogateescape"), overwrite)


def read_mask(folder: Path, name: str, size: tuple[int, int]) -> np.ndarray | None:
    """Returns the labels [H, W], int32, in `folder`/NAME.png: 0 is background, i + 1 class i. None: no such file.

    Raises:
      UserError: the file is no image of labels, or its size is not `size` (width, height).
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
    """Returns whether the path exists, also as a broken link; a folder that may not be searched is an error."""
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
        objects = _objects(row[1]) if len(row) == 2 else None
        if objects is None:
            raise UserError(f"{shown}, line {line}: not a name and `class xmin ymin xmax ymax` for each object.")
        found[f"{shown}, line {line}"] = (image_name(row[0]), objects)
    return found


def _objects(text: str) -> list[tuple[str, tuple[int, ...]]] | None:
    """Returns the class and the four sides of each object, or None if the text is malformed.

    A name may have several words; it ends before the first four words that are all integers.
    """
    words, found, start = text.split(), [], 0
    numbers = [INTEGER.fullmatch(word) is not None for word in words]
    while start < len(words):
        sides = next((i for i in range(start + 1, len(words) - 3) if all(numbers[i : i + 4])), None)
        if sides is None:
            return None
        found.append((" ".join(words[start:sides]), tuple(int(word) for word in words[sides : sides + 4])))
        start = sides + 4
    return found
