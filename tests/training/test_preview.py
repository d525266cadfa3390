"""What a run prints before it starts, and the warnings about settings that give misleading figures."""

import logging

import pytest
from PIL import Image

from inception_jax.errors import UserError
from inception_jax.training import prepare_together
from inception_jax.training.preview import describe


@pytest.fixture
def folder(tmp_path):
    """Returns a function that writes images of `side` pixels, {class: how many}, and gives the data of a config."""

    def write(counts, side=16):
        for split in ("train", "test"):
            for name, count in counts.items():
                (tmp_path / "images" / split / name).mkdir(parents=True)
                for i in range(count):
                    Image.new("RGB", (side + 8, side)).save(tmp_path / "images" / split / name / f"{i}.png")
        return {"name": f"folder:{tmp_path / 'images'}", "data_dir": None, "eval_split": "test"}

    return write


@pytest.fixture
def warned(short, tmp_path, caplog):
    """Returns a function that prepares a run, and gives what was warned of."""

    def prepared(**changes):
        with caplog.at_level(logging.WARNING):
            prepare_together(short(**changes), tmp_path / "run")
        return caplog.text

    return prepared


def test_the_first_lines_say_classes_images_and_size(short, folder, tmp_path):
    data = folder({"ant": 24, "bee": 40})
    experiment = prepare_together(short(data=data), tmp_path / "run")
    first, second = describe(experiment, 0).splitlines()
    assert first == (
        f"short on folder:{tmp_path / 'images'}: 2 classes, 64 images, 12 x 12 pixels; "
        "64 evaluation images, 62.5% of them 'bee'"
    )
    assert second == "starts of 8 steps of 32 images (4 epochs); 8 x cpu (cpu), mesh data 8, fsdp 1"
    assert describe(experiment, 1234).splitlines()[1].startswith("resumes after step 1,234 of 8 steps")


def test_a_good_run_gives_no_warning(warned, folder):
    assert warned(data=folder({"ant": 24, "bee": 24})) == ""


def test_photographs_in_a_network_for_small_images(warned, folder):
    text = warned(data=folder({"ant": 16, "bee": 16}, side=400))
    assert "photographs of 400 pixels are trained at 12 x 12: set config.data.image_size" in text


def test_images_that_no_sample_can_be_taken_of(warned, folder, tmp_path):
    data = folder({"ant": 16, "bee": 16})
    for path in (tmp_path / "images" / "train").rglob("*.png"):
        path.write_bytes(b"not a picture")
    assert warned(data=data) == "", "the loader names them, or skips them"


def test_a_crop_that_hardly_moves(warned, folder):
    text = warned(data=folder({"ant": 16, "bee": 16}) | {"image_size": 224, "crop_pad": 4})
    assert "'crop_flip' moves images by at most 4 of 224 pixels (config.data.crop_pad): 'inception' is made" in text


def test_a_batch_larger_than_the_data(warned, folder):
    text = warned(data=folder({"ant": 4, "bee": 4}))
    assert "config.batch_size is 32 and there are 8 training images: each step holds an image 4.0 times" in text


def test_statistics_that_cannot_settle(warned, folder):
    data = folder({"ant": 16, "bee": 16}) | {"image_size": 75}
    model = {"name": "inception_v3_tf", "width": 0.05, "aux": False}
    assert "evaluation is wrong by that: set config.model.bn_decay=0.9" in warned(data=data, model=model)


def test_statistics_that_settle(short, folder, tmp_path, caplog):
    data = folder({"ant": 16, "bee": 16}) | {"image_size": 75}
    model = {"name": "inception_v3_tf", "width": 0.05, "aux": False, "bn_decay": 0.8}
    experiment = prepare_together(short(data=data, model=model), tmp_path / "run")
    assert caplog.text == ""
    assert experiment.model.numerics.norm.decay == 0.8


def test_fine_tuning_at_the_rate_of_a_start_from_scratch(warned, source):
    finetune = {"weights": str(source), "reset_head": True}
    text = warned(finetune=finetune, optimizer={"learning_rate": 0.1})
    assert "config.optimizer.learning_rate is 0.1: what was loaded is soon forgotten" in text
    assert "configs/finetune.py" in text


def test_one_class_is_no_classification(warned, folder):
    with pytest.raises(UserError, match="has one class, 'ant': a classifier needs two"):
        warned(data=folder({"ant": 16}))


def test_a_class_without_images_in_a_split(warned, folder, tmp_path):
    data = folder({"ant": 24, "bee": 24})
    for path in (tmp_path / "images" / "test" / "bee").iterdir():
        path.unlink()
    (tmp_path / "images" / "test" / "bee").rmdir()
    assert "images/test has no image of 1 of 2 classes: bee" in warned(data=data)
