"""Sources of images, and one-line errors that say what to run instead."""

import json
import pickle
import shutil
from pathlib import Path

import pytest

from inception_jax.data.sources import ImageSource, open_source
from inception_jax.errors import UserError


def error_of(*arguments) -> str:
    with pytest.raises(UserError) as caught:
        open_source(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture
def scans(digits_dir, tmp_path):
    """A data set that TFDS knows from its files alone; the function changes its info and returns the data_dir."""
    folder = tmp_path / "scans" / "1.0.0"
    shutil.copytree(Path(digits_dir) / "digits" / "1.0.0", folder)
    for file in folder.glob("digits-*"):
        file.rename(folder / file.name.replace("digits", "scans"))

    def write(**changes) -> str:
        info_file = folder / "dataset_info.json"
        info = json.loads(info_file.read_text()) | {"name": "scans", "moduleName": "nowhere"} | changes
        info_file.write_text(json.dumps({key: value for key, value in info.items() if value is not None}))
        return str(tmp_path)

    return write


def test_a_tfds_source_gives_encoded_images_and_labels(scans):
    source = open_source("scans", "train", scans())
    record = source[5]
    assert (len(source), source.name, len(source.class_names)) == (1437, "scans[train]", 10)
    assert record.keys() == {"image", "label", "index", "name"}
    assert record["image"].startswith(b"\x89PNG")
    assert record["index"] == 5
    assert source.describe(5) == "record 5 of scans[train]"


def test_splits_can_be_sliced(scans):
    data_dir = scans()
    tenth = open_source("scans", "train[:10%]", data_dir)
    assert len(tenth) == 144
    assert tenth[0]["image"] == open_source("scans", "train", data_dir)[0]["image"]


def test_sources_pickle_and_read_the_same(scans, image_folder):
    for source in (open_source("scans", "test", scans()), open_source(f"folder:{image_folder}", "val")):
        copy = pickle.loads(pickle.dumps(source))
        assert copy[3] == source[3]
        assert copy.describe(3) == source.describe(3)


def test_the_tfrecord_format_names_the_conversion(scans):
    message = error_of("scans", "train", scans(fileFormat="tfrecord"))
    assert "tfrecord format, without random access" in message
    assert "/scans/1.0.0 --out_file_format=array_record`" in message
    assert "`tfds convert_format --dataset_version_dir=/" in message
    assert "pip install tensorflow mlcroissant apache-beam importlib_resources" in message


def test_a_converted_data_set_opens(scans):
    data_dir = scans(fileFormat="tfrecord", alternativeFileFormats=["array_record"])
    assert len(open_source("scans", "train", data_dir)) == 1437


@pytest.mark.parametrize("split", ["trian", "train[:1", "train[9999:]", ""])
def test_a_wrong_split_names_the_splits(scans, split):
    assert error_of("scans", split, scans()).startswith(f"'scans' has no split {split!r}; its splits: train, test (")


def test_missing_imagenet_names_the_command_and_the_archives(tmp_path):
    message = error_of("imagenet2012", "train", str(tmp_path))
    assert f"not prepared at {tmp_path}/imagenet2012/" in message
    assert f"`tfds build imagenet2012 --file_format=array_record --data_dir={tmp_path} --manual_dir=TARS`" in message
    assert "ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar (or one of them) in TARS" in message


def test_a_data_set_that_is_not_prepared_names_the_command(tmp_path):
    message = error_of("cifar10", "train", str(tmp_path))
    assert f"`tfds build cifar10 --file_format=array_record --data_dir={tmp_path}`" in message
    assert "manual_dir" not in message


@pytest.mark.parametrize(
    ("name", "nearest"), [("cifar1", "cifar10"), ("imagenet2021", "imagenet2012"), ("digit", "digits")]
)
def test_an_unknown_name_offers_the_nearest(tmp_path, capfd, name, nearest):
    message = error_of(name, "train", str(tmp_path))
    assert message.startswith(f"No data set {name!r}: expected digits, a TFDS name or folder:PATH. Nearest: ")
    assert nearest in message.split("Nearest: ")[1]
    assert "TensorFlow" not in "".join(capfd.readouterr())


def test_names_of_images_keep_their_dots():
    names = {"a.b": "a.b", "a.b.JPEG": "a.b", "c/v1.5": "v1.5", "x.tar.png": "x.tar", "plain": "plain"}
    for given, name in names.items():
        source = ImageSource("made", [{"image": b"", "label": 0, "file_name": given}], ("one",))
        assert source[0]["name"] == name


@pytest.mark.parametrize("name", ["", "../x", "cifar10:9.9.9", "cifar10/nope"])
def test_names_that_tfds_refuses_are_one_line_errors(tmp_path, name):
    assert error_of(name, "train", str(tmp_path)).startswith(f"TFDS cannot open {name!r}: ")


def test_a_data_set_without_classes_names_its_features(scans):
    message = error_of("scans", "train", scans(supervisedKeys=None))
    assert "no (image, label) pair to classify; its features: ['image', 'label']" in message


def test_missing_files_of_a_prepared_data_set_are_an_error(scans, tmp_path):
    data_dir = scans()
    next((tmp_path / "scans" / "1.0.0").glob("*train*")).unlink()
    assert error_of("scans", "train", data_dir).startswith("Cannot read record 0 of scans[train]: ")
    assert len(open_source("scans", "test", data_dir)) == 360


def test_a_split_without_labels_is_refused(scans, monkeypatch):
    monkeypatch.setattr(ImageSource, "__getitem__", lambda source, index: {"label": -1})
    assert error_of("scans", "test", scans()) == "Split 'test' of 'scans' has no labels; its splits: train, test."


def test_a_bucket_is_refused_with_the_two_ways_out():
    message = error_of("imagenet2012", "train", "gs://bucket/data")
    assert "copy the data to a disk, or mount the bucket" in message


def test_a_folder_gives_the_sorted_classes_and_files(image_folder):
    source = open_source(f"folder:{image_folder}", "val")
    assert source.class_names == ("ant", "bee", "cat")
    assert [source[index]["label"] for index in range(len(source))] == [0, 0, 1, 1, 2, 2]
    assert source[3]["image"] == (image_folder / "val" / "bee" / "b.PNG").read_bytes()
    assert source.describe(3) == f"record 3 of folder:{image_folder}/val ({image_folder}/val/bee/b.PNG)"


def test_labels_are_those_of_the_given_classes(image_folder, caplog):
    shutil.rmtree(image_folder / "val" / "ant")
    folder = f"folder:{image_folder}"
    source = open_source(folder, "val", class_names=open_source(folder, "train").class_names)
    assert source.class_names == ("ant", "bee", "cat")
    assert source[0]["label"] == 1
    message = f"folder:{image_folder}/val has no images of 1 of 3 classes: ant."
    assert [each.getMessage() for each in caplog.records] == [message]
    assert open_source(folder, "val").class_names == ("bee", "cat")
    turned = open_source(folder, "val", class_names=("cat", "ant", "bee"))
    assert [(turned[i]["label"], turned[i]["image"]) for i in (0, 2)] == [
        (0, source[2]["image"]),
        (2, source[0]["image"]),
    ]


def test_folders_beside_the_split_are_no_classes(image_folder):
    for path in ("__MACOSX/train", "runs/first", "test/unlabelled", "annotations/xmls"):
        (image_folder / path).mkdir(parents=True)
        (image_folder / path / "curves.png").write_bytes(b"")
    assert open_source(f"folder:{image_folder}", "train").class_names == ("ant", "bee", "cat")


def test_a_class_that_the_training_split_does_not_know_is_refused(image_folder):
    shutil.copytree(image_folder / "val" / "ant", image_folder / "val" / "d\x1bog")
    with pytest.raises(UserError) as caught:
        open_source(f"folder:{image_folder}", "val", class_names=("ant", "bee", "cat"))
    assert str(caught.value) == (
        f"{image_folder}/val has class folders that the training data, or the network, do not know: d\\x1bog; "
        "the 3 known classes are ant, bee, cat."
    )
    shutil.rmtree(image_folder / "val" / "d\x1bog")
    (image_folder / "val" / "empty").mkdir()  # cannot be taken for another class
    assert len(open_source(f"folder:{image_folder}", "val", class_names=("ant", "bee", "cat"))) == 6


def test_folders_may_be_called_by_wordnets_ids_or_composed_otherwise(image_folder):
    (image_folder / "val" / "ant").rename(image_folder / "val" / "n01440764")
    (image_folder / "val" / "bee").rename(image_folder / "val" / "cafe\u0301")
    source = open_source(f"folder:{image_folder}", "val", class_names=("cat", "caf\u00e9", "tench"))
    assert [source[i]["label"] for i in range(6)] == [0, 0, 1, 1, 2, 2]
    assert source[4]["image"] == (image_folder / "val" / "n01440764" / "a.png").read_bytes()


def test_class_folders_are_read_at_any_depth_and_in_every_format(image_folder, caplog):
    ant = image_folder / "train" / "ant"
    (ant / "more" / "still").mkdir(parents=True)
    for name in ("c.jfif", "d.JPE", "more/e.avif", "more/still/f.PPM", "more/g.heic", "h.txt"):
        (ant / name).write_bytes(name.encode())
    (image_folder / "train" / "list.csv").write_text("")
    source = open_source(f"folder:{image_folder}", "train")
    mine = [path.removeprefix(f"{ant}/") for path in source.records.paths if path.startswith(f"{ant}/")]
    assert mine == ["a.png", "b.PNG", "c.jfif", "d.JPE", "more/e.avif", "more/still/f.PPM"]
    assert [source[i]["label"] for i in range(10)] == [0] * 6 + [1] * 2 + [2] * 2
    (message,) = (each.getMessage() for each in caplog.records)
    assert message.startswith(
        f"{image_folder}/train: 3 files are left out: list.csv (in no class folder), ant/h.txt, ant/more/g.heic; "
        "regular files in .apng, .avif, "
    )


def test_other_files_and_hidden_folders_are_no_images_and_no_classes(image_folder, caplog):
    (image_folder / "val" / ".cache").mkdir()
    (image_folder / "val" / "__MACOSX").mkdir()
    for name in (".a.png", "Thumbs.db", "desktop.ini", ".DS_Store"):
        (image_folder / "val" / "ant" / name).write_text("")
    assert len(open_source(f"folder:{image_folder}", "val")) == 6
    assert not caplog.records


def test_a_missing_folder_says_where_images_belong(tmp_path):
    message = error_of(f"folder:{tmp_path}/none", "train")
    assert f"images belong in {tmp_path}/none/<split>/<class>/" in message
    assert "it does not exist" in message


def test_a_missing_split_folder_lists_what_is_there(image_folder):
    assert "it holds train, val" in error_of(f"folder:{image_folder}", "test")


def test_a_folder_without_class_folders_says_where_images_belong(image_folder):
    shutil.rmtree(image_folder / "val")
    (image_folder / "val").mkdir()
    (image_folder / "val" / "a.png").write_bytes(b"")
    message = error_of(f"folder:{image_folder}", "val")
    assert f"holds no class folders: move its images to {image_folder}/val/<class>/" in message


def test_an_empty_class_folder_is_named(image_folder):
    (image_folder / "val" / "dog").mkdir()
    message = error_of(f"folder:{image_folder}", "val")
    assert f"Class folder {image_folder}/val/dog holds no image (" in message
    assert ".jpeg" in message


def test_a_file_that_vanished_is_named(image_folder):
    source = open_source(f"folder:{image_folder}", "val")
    (image_folder / "val" / "bee" / "a.png").unlink()
    with pytest.raises(UserError, match=r"Cannot read record 2 of folder:.*bee/a\.png"):
        source[2]


def test_cifar10_and_imagenet_open(image_data):
    cifar = open_source("cifar10", "test", image_data)
    assert len(cifar) in (20, 10_000)
    assert len(cifar.class_names) == 10
    imagenet = open_source("imagenet2012", "validation", image_data)
    assert len(imagenet.class_names) == 1000
    assert imagenet[0]["image"].startswith(b"\xff\xd8")
