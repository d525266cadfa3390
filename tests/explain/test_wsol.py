"""Localisation over a labelled set: the boxes of `cam`, compared with boxes and masks whose overlap is known."""

import copy
import json

import numpy as np
import pytest
from PIL import Image

from inception_jax.data.sources import open_source
from inception_jax.errors import UserError
from inception_jax.explain import cam, localisation
from inception_jax.explain.annotations import read_boxes, write_boxes
from inception_jax.explain.heatmaps import heat, on_image
from inception_jax.explain.plots import save_mask
from inception_jax.explain.wsol import Localiser
from inception_jax.inference.evaluation import evaluate

COUNT, SIZE = 11, (30, 24)
THRESHOLD = 0.9  # of maps that are positive everywhere
NAMES = tuple(f"class_{i}" for i in range(10))


@pytest.fixture(scope="module")
def named(small):
    """The small network with ten class names that differ, and a classifier that finds every class somewhere."""
    made = copy.copy(small)
    made.class_names = NAMES
    linear = {name: abs(leaf) for name, leaf in small.params["classifier"]["linear"].items()}
    made.programs = copy.copy(small.programs)
    made.programs.params = {**small.params, "classifier": {"linear": linear}}
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Eleven images 0 ... 10 of noise, of ten classes; image 10 is the second of class_0."""
    root = tmp_path_factory.mktemp("images")
    pixels = np.random.default_rng(0).integers(0, 256, (COUNT, SIZE[1], SIZE[0], 3), np.uint8)
    for i, each in enumerate(pixels):
        path = root / "val" / f"class_{i % 10}"
        path.mkdir(parents=True, exist_ok=True)
        Image.fromarray(each).save(path / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def source(folder):
    return open_source(f"folder:{folder}", "val")


@pytest.fixture(scope="module")
def found(named, source):
    """Heat [N, H, W] of the true classes, laid on the images by other means; in the order of the source."""
    records = [source[i] for i in range(COUNT)]
    maps = cam.cam(named, [each["image"] for each in records], [[each["label"]] for each in records]).maps[:, 0]
    return on_image(heat(maps), named.transform.box(*SIZE), *SIZE)


@pytest.fixture(scope="module")
def expected(found):
    """The boxes of the heat."""
    boxes = [localisation.largest_box(each, THRESHOLD) for each in found]
    assert None not in boxes
    assert len(set(boxes)) > 3
    return boxes


def _localise(named, source, threshold=THRESHOLD, **settings):
    localiser = Localiser(named, threshold=threshold, **settings)
    return localiser, evaluate([named], source, localiser=localiser)


def test_boxes_are_those_of_cam(named, source, expected):
    localiser, evaluation = _localise(named, source, boxes={})
    assert [each.box for each in localiser.located] == expected
    top = cam.cam(named, [source[i]["image"] for i in range(COUNT)], k=5)
    heats = on_image(heat(top.maps), named.transform.box(*SIZE), *SIZE)
    for i, each in enumerate(localiser.located):
        assert (each.index, each.name, each.label) == (i, source[i]["name"], source[i]["label"])
        assert [index for index, _ in each.guesses] == top.classes[i].tolist() == evaluation.top[i].tolist()
        assert [box for _, box in each.guesses] == [localisation.largest_box(heat, THRESHOLD) for heat in heats[i]]
    with pytest.raises(UserError, match="Of 11 images none has a box of its class; the first is 0"):
        localiser.metrics()


def test_errors_count_images_with_boxes_of_their_class(named, source, expected):
    """Three images whose boxes fit, one whose box does not, one of another class, the rest without."""
    off = (0, 0, 1, 1)
    names = [source[i]["name"] for i in range(COUNT)]
    truths = {names[i]: [(source[i]["label"], expected[i]), (9 - source[i]["label"], off)] for i in (0, 1, 2)}
    truths |= {names[5]: [(source[5]["label"], off)], names[6]: [((source[6]["label"] + 1) % 10, expected[6])]}
    localiser, evaluation = _localise(named, source, boxes=truths)
    metrics = localiser.metrics()
    assert metrics["images_with_boxes"] == 4
    assert metrics["known_class_error"] == 1 / 4
    ranks = [evaluation.top[i].tolist() for i in range(COUNT)]
    for k in (1, 5):
        right = sum(source[i]["label"] in ranks[i][:k] for i in (0, 1, 2))
        assert metrics[f"top{k}_error"] == 1 - right / 4
    assert metrics["top5_error"] < 1
    assert metrics["mean_iou_of_boxes"] == pytest.approx((3 + localisation.iou(off, expected[5])) / 4)


def test_masks_of_the_true_class(named, source, found, tmp_path):
    for i in (0, 3):
        mask = np.where(found[i] > THRESHOLD * found[i].max(), source[i]["label"] + 1, 0)
        save_mask(mask, tmp_path / f"{source[i]['name']}.png")
    exact, _ = _localise(named, source, masks=tmp_path)
    assert exact.metrics() == {"threshold": THRESHOLD, "images_with_masks": 2, "mean_iou_of_masks": 1}
    loose, _ = _localise(named, source, masks=tmp_path, threshold=0.7)
    assert 0.2 < loose.metrics()["mean_iou_of_masks"] < 1


def test_what_is_refused(named, source, tmp_path):
    with pytest.raises(UserError, match=r"There is no folder .*gone of masks"):
        Localiser(named, masks=tmp_path / "gone")
    with pytest.raises(UserError, match="has masks of none of the images"):
        _localise(named, source, masks=tmp_path)[0].metrics()
    with pytest.raises(UserError, match=r"threshold is 1\.5"):
        Localiser(named, threshold=1.5)
    with pytest.raises(UserError, match="one network and one crop, not 1 and 10"):
        evaluate([named], source, crops=10, localiser=Localiser(named))
    with pytest.raises(UserError, match="one network and one crop, not 2 and 1"):
        evaluate([named, named], source, localiser=Localiser(named))


def test_images_of_one_name_are_refused(named, folder):
    twice = open_source(f"folder:{folder}", "val")
    twice.records.paths[1] = twice.records.paths[0]
    localiser, _ = _localise(named, twice, boxes={"0": [(0, (0, 0, 2, 2))]})
    with pytest.raises(UserError, match="Several images are called 0"):
        localiser.metrics()


def test_the_command(run, named, folder, source, expected, tmp_path, monkeypatch):
    monkeypatch.setattr("inception_jax.cli.evaluate.load_predictor", lambda *_, **__: named)
    truths = {source[i]["name"]: [(source[i]["label"], expected[i])] for i in range(COUNT)}
    write_boxes(tmp_path / "boxes.csv", truths, NAMES)
    arguments = ("--data", f"folder:{folder}", "--split", "val", "--weights", "w", "-o", str(tmp_path / "out"))
    code, out, err = run("evaluate", *arguments, "--localization", str(tmp_path / "boxes.csv"), "--threshold", "0.9")
    assert (code, err) == (0, "")
    assert "class known 0.00%; mean IoU of boxes 1.000; 11 images with boxes, threshold 90%" in out
    record = json.loads((tmp_path / "out" / "evaluation.json").read_text())["localisation"]
    assert (record["images_with_boxes"], record["known_class_error"]) == (COUNT, 0)
    written = read_boxes(tmp_path / "out" / "boxes.csv", NAMES)
    assert written.keys() == truths.keys()
    assert all(len(each) <= 5 for each in written.values())
    with Image.open(tmp_path / "out" / "located.png") as picture:
        assert len(picture.convert("RGB").getcolors(1 << 20)) > 100
    code, _, err = run("evaluate", *arguments, "--localization", str(tmp_path / "gone"))
    assert (code, "is neither" in err) == (2, True)


def test_what_is_evaluated_is_not_lost_without_boxes(run, named, folder, tmp_path, monkeypatch):
    monkeypatch.setattr("inception_jax.cli.evaluate.load_predictor", lambda *_, **__: named)
    write_boxes(tmp_path / "boxes.csv", {"elsewhere": [(0, (0, 0, 2, 2))]}, NAMES)
    named_data = ("--data", f"folder:{folder}", "--split", "val", "--weights", "w")
    code, out, err = run("evaluate", *named_data, "--localization", str(tmp_path / "boxes.csv"))
    assert (code, "top-1" in out) == (2, True)
    assert err == "inception-jax: Of 11 images none has a box of its class; the first is 0.\n"


def test_places_lie_on_the_image_as_it_is_read(named, tmp_path):
    stored = np.random.default_rng(1).integers(0, 256, (SIZE[1], SIZE[0], 3), np.uint8)
    tags = Image.Exif()
    tags[0x0112] = 8
    images = (("photo", stored, {"exif": tags}), ("seen", np.rot90(stored), {}), ("flat", stored, {}))
    for name, pixels, options in images:
        folder = tmp_path / name / "val" / NAMES[0]
        folder.mkdir(parents=True)
        Image.fromarray(pixels).save(folder / "0.png", **options)

    def located(name, exif):
        source = open_source(f"folder:{tmp_path / name}", "val", class_names=NAMES, exif=exif)
        (found,) = _localise(named, source, boxes={})[0].located
        return found.read_box, found.box

    assert located("photo", True) == located("seen", False) != located("flat", False) == located("photo", False)
