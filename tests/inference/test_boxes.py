"""Files of boxes and masks: what ILSVRC and Pascal VOC write, and what is refused."""

import numpy as np
import pytest
from PIL import Image

from inception_jax.errors import UserError
from inception_jax.inference.boxes import keys, read_boxes, read_mask, write_boxes

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
    write_boxes(tmp_path / "other.csv", {"a": EXPECTED}, other)
    assert (tmp_path / "other.csv").read_text().splitlines()[1] == "a,black_cat 0 12 499 80 7 3 4 3 6"
    assert read_boxes(tmp_path / "other.csv", other) == {"a": EXPECTED}


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
