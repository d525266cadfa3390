"""Data that several tests read: the prepared digits, a folder of images, and the real data sets where they are."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inception_jax.data.sources import open_source

REAL_DATA = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture(scope="session")
def digits_dir(tmp_path_factory) -> str:
    """A data_dir with the digits in it."""
    data_dir = str(tmp_path_factory.mktemp("tfds"))
    open_source("digits", "train", data_dir)
    return data_dir


@pytest.fixture(scope="session")
def real_data() -> str:
    """The data_dir of cifar10 and of 256 images of imagenet2012."""
    if not (REAL_DATA / "imagenet2012").is_dir():
        pytest.skip(f"no real data at {REAL_DATA}")
    return str(REAL_DATA)


@pytest.fixture
def image_folder(tmp_path) -> Path:
    """Two splits of three classes of two images; each image has one grey level: 0 to 5 in train, 100 to 105 in val."""
    for split, level in (("train", 0), ("val", 100)):
        for class_name in ("ant", "bee", "cat"):
            folder = tmp_path / split / class_name
            folder.mkdir(parents=True)
            for name in ("a.png", "b.PNG"):
                Image.fromarray(np.full((8, 8, 3), level, np.uint8)).save(folder / name, "PNG")
                level += 1
    return tmp_path
