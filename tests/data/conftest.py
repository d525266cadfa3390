"""A folder of images that several tests read."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


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
