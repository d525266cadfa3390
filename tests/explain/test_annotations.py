"""Files of boxes and masks: what ILSVRC and Pascal VOC write, and what is refused."""

import codecs
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from inception_jax import imagenet
from inception_jax.errors import UserError
from inception_jax.explain.annotations import keys, read_boxes, read_mask, write_boxes

NAMES = ("goldfish", "tench")  # of ImageNet: n01443537 and n01440764
XML = """<annotation><folder>val</folder><filename>ILSVRC2012_val_00000007</filename>
<size><width>500</width><height>375</height><depth>3</depth></size>
<object><name>n01443537</name><pose>Unspecified</pose>
<bndbox><xmin>0</xmin><ymin>12</ymin><xmax>499</xmax><ymax>80</ymax></bndbox></object>
<object><name>n01440764</name><bndbox><xmin>3.0</xmin><ymin>4</ymin><xmax>3</xmax><ymax>6</ymax></bndbox></object>
</annotation>"""
EXPECTED = [(0, (0, 12, 500, 81)), (1, (3, 4, 4, 7))]


def test_annotations_of_ilsvrc(tmp_path):
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "ILSVRC2012_val_00000007.xml").write_text(XML)
    assert read_boxes(tmp_path, NAMES) == {"ILSVRC2012_val_00000007": EXPECTED}


def test_a_csv_of_ilsvrc_and_back(tmp_path):
    path = tmp_path / "LOC_val_solution.csv"
    path.write_text(
        "ImageId,PredictionString\nILSVRC2012_val_00000007,n01443537 0 12 499 80 n01440764 3 4 3 6 \nempty,\n"
    )
    found = read_boxes(path, NAMES)
    assert found == {"ILSVRC2012_val_00000007": EXPECTED, "empty": []}
    write_boxes(tmp_path / "again.csv", {**found, "none": [(1, None)]}, NAMES)
    assert read_boxes(tmp_path / "again.csv", NAMES) == {**found, "none": []}
    other = ("black cat", "7")
    assert keys(other) == ("black_cat", "7")
    assert (tmp_path / "again.csv").read_text().splitlines()[1].startswith(f"{next(iter(found))},goldfish 0 12 499 80 ")
    write_boxes(tmp_path / "other.csv", {"a": EXPECTED}, other)
    assert (tmp_path / "other.csv").read_text().splitlines()[1] == "a,black_cat 0 12 499 80 7 3 4 3 6"
    assert read_boxes(tmp_path / "other.csv", other) == {"a": EXPECTED}


OWN = [  # classes, what a file calls them, which one is meant
    (("apple", "banana", "pear"), "banana", 1),
    (("zebra", "banana"), "zebra", 0),  # both of ImageNet
    (("zebra", "banana"), "n07753592", 1),  # as in folders that are called by ids
    (("bottle", "stop sign"), "stop sign", 1),
    (("bottle", "stop sign"), "stop_sign", 1),
    (("a_b", "a b"), "a b", 1),
    (("a_b", "a b"), "a_b", 0),
]


@pytest.mark.parametrize(("classes", "word", "index"), OWN)
def test_own_classes_are_called_by_their_names(tmp_path, classes, word, index):
    (tmp_path / "b.csv").write_text(f"ImageId,PredictionString\na,{word} 1 2 3 4 {word} 5 6 7 8\n")
    text = XML.replace("n01443537", word).replace("n01440764", word)
    (tmp_path / "a.xml").write_text(text)
    assert read_boxes(tmp_path / "b.csv", classes) == {"a": [(index, (1, 2, 4, 5)), (index, (5, 6, 8, 9))]}
    assert read_boxes(tmp_path, classes) == {"a": [(index, box) for _, box in EXPECTED]}


def test_own_classes_have_no_ids_and_those_of_imagenet_have(tmp_path):
    (tmp_path / "b.csv").write_text("ImageId,PredictionString\na,n07753592 1 2 3 4\n")
    with pytest.raises(UserError, match="'n07753592' is no class of the data, whose first is 'apple car'"):
        read_boxes(tmp_path / "b.csv", ("apple car", "banana"))
    assert keys(("apple", "banana")) == ("apple", "banana")
    assert keys("banana") == ("banana",)
    assert keys(imagenet.class_names()) == tuple(imagenet.classes())


def test_names_of_images_keep_their_dots(tmp_path):
    text = "ImageId,PredictionString\na.b,cat 1 2 3 4\na.c.JPEG,cat 1 2 3 4\nv1.5,\n"
    (tmp_path / "b.csv").write_text(text)
    assert list(read_boxes(tmp_path / "b.csv", ["cat"])) == ["a.b", "a.c", "v1.5"]


def test_a_long_line_is_read_in_no_time(tmp_path):
    words = " ".join(["word"] * 20_000)
    (tmp_path / "b.csv").write_text(f"ImageId,PredictionString\na,{words}\n")
    with pytest.raises(UserError, match="line 2: not a name and"):
        read_boxes(tmp_path / "b.csv", NAMES)


def test_boxes_are_written_whole_and_replaced_if_that_is_asked_for(tmp_path):
    write_boxes(tmp_path / "b.csv", {"a": EXPECTED}, NAMES)
    with pytest.raises(UserError, match=r"b\.csv exists; --overwrite replaces it"):
        write_boxes(tmp_path / "b.csv", {"b": EXPECTED}, NAMES)
    write_boxes(tmp_path / "b.csv", {"b": EXPECTED}, NAMES, overwrite=True)
    assert list(read_boxes(tmp_path / "b.csv", NAMES)) == ["b"]
    assert [path.name for path in tmp_path.iterdir()] == ["b.csv"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,box\n", "its first line must be 'ImageId,PredictionString'"),
        ("", "its first line must be"),
        ("ImageId,PredictionString\n", "holds no boxes"),
        ("ImageId,PredictionString\na,n01443537 0 12 499\n", "line 2: not a name and `class xmin ymin xmax ymax`"),
        ("ImageId,PredictionString\na,n01443537 0 12 499 80 5\n", "line 2: not a name and"),
        ("ImageId,PredictionString\na,n01443537 0 1 2 3,b\n", "line 2: not a name and"),
        ("ImageId,PredictionString\na,dog 0 12 499 80\n", "line 2: 'dog' is no class of the data"),
        ("ImageId,PredictionString\na,n01443537 9 12 8 80\n", r"line 2: \(9, 12, 8, 80\) is no box"),
        ("ImageId,PredictionString\na,n01443537 -1 12 8 80\n", "is no box"),
        ("ImageId,PredictionString\na,\na.JPEG,\n", "line 3: the boxes of a are given twice"),
    ],
)
def test_a_csv_that_is_none(tmp_path, text, message):
    (tmp_path / "boxes.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        read_boxes(tmp_path / "boxes.csv", NAMES)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotation><object>", "is no annotation of Pascal VOC"),
        (XML.replace("<ymax>80</ymax>", ""), "an object has no bndbox/ymax"),
        (XML.replace("499", "wide"), "is no annotation of Pascal VOC"),
        (XML.replace("n01440764", "n00000000"), "'n00000000' is no class"),
    ],
)
def test_annotations_that_are_none(tmp_path, text, message):
    (tmp_path / "a.xml").write_text(text)
    with pytest.raises(UserError, match=message):
        read_boxes(tmp_path, NAMES)


def test_no_boxes(tmp_path):
    with pytest.raises(UserError, match="holds no boxes"):
        read_boxes(tmp_path, NAMES)
    with pytest.raises(UserError, match="gone is neither"):
        read_boxes(tmp_path / "gone", NAMES)
    with pytest.raises(UserError, match="No such file"):
        read_boxes(tmp_path / "gone.csv", NAMES)


@pytest.mark.parametrize("kind", ["labels", "palette", "wide"])
def test_masks(tmp_path, kind):
    labels = np.array([[0, 1, 255], [2, 2, 0]], np.uint16 if kind == "wide" else np.uint8)
    image = Image.fromarray(labels)
    if kind == "palette":
        image = Image.fromarray(labels, "L").convert("P")
        image.putdata(labels.ravel().tolist())
    image.save(tmp_path / "a.png")
    assert read_mask(tmp_path, "a", (3, 2)).tolist() == labels.tolist()
    assert read_mask(tmp_path, "b", (3, 2)) is None
    with pytest.raises(UserError, match="has 3x2 pixels; its image has 2x3"):
        read_mask(tmp_path, "a", (2, 3))


def test_masks_that_are_none(tmp_path):
    Image.new("RGB", (3, 2)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="holds colours, not labels"):
        read_mask(tmp_path, "a", (3, 2))
    (tmp_path / "b.png").write_bytes(b"\x89PNG")
    with pytest.raises(UserError, match="is no PNG"):
        read_mask(tmp_path, "b", (3, 2))


def test_a_mask_of_another_format_is_not_opened(tmp_path):
    """PostScript makes Pillow start Ghostscript; here a program of that name leaves a mark."""
    (tmp_path / "a.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 2 2\n%%EndComments\nshowpage\n%%EOF\n"
    )
    program = tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    program.chmod(0o755)
    code = (
        "import pathlib, sys; from inception_jax.explain.annotations import read_mask;"
        "read_mask(pathlib.Path(sys.argv[1]), 'a', (2, 2))"
    )
    path = f"{program.parent}:{os.environ['PATH']}"
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path], capture_output=True, text=True, env={**os.environ, "PATH": path}
    )
    assert done.stderr.splitlines()[-1].endswith("a.png is no PNG of labels: not an image (76 bytes).")
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize("kind", ["fifo", "folder", "zero", "dangling"])
def test_masks_boxes_and_lists_are_regular_files(tmp_path, kind):
    make = {
        "fifo": os.mkfifo,
        "folder": os.mkdir,
        "zero": lambda path: os.symlink("/dev/zero", path),
        "dangling": lambda path: os.symlink("nowhere", path),
    }[kind]
    message = "No such file" if kind == "dangling" else "is no regular file"
    for name in ("a.png", "a.csv"):
        make(tmp_path / name)
    with pytest.raises(UserError, match=message):
        read_mask(tmp_path, "a", (2, 2))
    if kind != "folder":  # a folder holds .xml files
        with pytest.raises(UserError, match=message):
            read_boxes(tmp_path / "a.csv", NAMES)
    make(tmp_path / "a.xml")  # left out, as images of that kind are
    with pytest.raises(UserError, match="holds no boxes"):
        read_boxes(tmp_path, NAMES)


def test_a_mask_that_is_vast_or_in_a_file_is_one_line(tmp_path):
    (tmp_path / "masks").write_text("")
    assert read_mask(tmp_path / "masks", "a", (2, 2)) is None
    with pytest.raises(UserError, match="File name too long"):
        read_mask(tmp_path, "a" * 300, (2, 2))


@pytest.mark.parametrize(
    ("encode", "message"),
    [
        (lambda text: codecs.BOM_UTF8 + text.replace("\n", "\r\n").encode(), None),
        (lambda text: text.encode("utf-16"), "is UTF-16 text; save it as UTF-8"),
        (lambda text: text.replace("small", "gr\xfc").encode("latin-1"), "boxes.CSV, line 2: it is no UTF-8 text"),
    ],
)
def test_a_csv_of_a_spreadsheet(tmp_path, encode, message):
    path = tmp_path / "boxes.CSV"
    path.write_bytes(encode("ImageId,PredictionString\nsmall,n01443537 0 12 499 80\n"))
    if message is None:
        assert read_boxes(path, NAMES) == {"small": EXPECTED[:1]}
        return
    with pytest.raises(UserError, match=message):
        read_boxes(path, NAMES)


def test_annotations_are_found_through_links_and_numbers_have_an_end(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.XML").write_text(XML)
    (tmp_path / "boxes").mkdir()
    (tmp_path / "boxes" / "linked").symlink_to(tmp_path / "elsewhere")
    assert read_boxes(tmp_path / "boxes", NAMES) == {"a": EXPECTED}
    (tmp_path / "elsewhere" / "a.XML").write_text(XML.replace("499", "1e999"))
    with pytest.raises(UserError, match="is no annotation of Pascal VOC: cannot convert float infinity"):
        read_boxes(tmp_path / "boxes", NAMES)
