"""The embedded data set: scikit-learn's 1,797 handwritten digits, 8 x 8 pixels, as a TFDS builder."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from inception_jax.errors import UserError

TEST_SHARE = 0.2
SPLIT_SEED = 0


class Digits(tfds.core.GeneratorBasedBuilder):
    """Digits as 8 x 8 RGB PNGs, split 80 / 20 into "train" and "test", stratified by class."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(8, 8, 3), encoding_format="png"),
                "label": tfds.features.ClassLabel(names=[str(digit) for digit in range(10)]),
            }
        )
        return tfds.core.DatasetInfo(
            builder=self,
            description="Handwritten digits of the UCI repository, embedded in scikit-learn.",
            features=features,
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, dl_manager):
        from sklearn.model_selection import train_test_split

        labels = _load().target
        train, test = train_test_split(
            np.arange(len(labels)), test_size=TEST_SHARE, stratify=labels, random_state=SPLIT_SEED
        )
        return {"train": self._generate_examples(train), "test": self._generate_examples(test)}

    def _generate_examples(self, indices: np.ndarray) -> Iterator[tuple[int, dict]]:
        digits = _load()
        for index in indices.tolist():
            yield index, {"image": _png(digits.images[index]), "label": int(digits.target[index])}


def prepared(data_dir: str | None) -> Digits:
    """Returns the builder, after writing the data set to `data_dir` if it is not there.

    Several processes may do so at once, and may be killed: each writes its own folder and renames it when complete.

    Raises:
      UserError: `data_dir` cannot be written.
    """
    with contextlib.redirect_stdout(io.StringIO()):  # TFDS announces a download, although there is none
        try:
            _prepare(data_dir)
        except OSError as error:
            # Another process may have been first: then the rename fails because its folder exists.
            if not _builder(data_dir).info.splits:
                raise UserError(
                    f"Cannot write digits to {data_dir or 'the default data_dir of TFDS'} ({error}): "
                    "point data_dir at a folder that can be written."
                ) from error
    return _builder(data_dir)


def _prepare(data_dir: str | None) -> None:
    builder = _builder(data_dir)
    if builder.info.splits:
        return
    mode = tfds.GenerateMode.REUSE_DATASET_IF_EXISTS
    if builder.data_path.exists():  # without dataset_info.json it is unusable
        mode = tfds.GenerateMode.REUSE_CACHE_IF_EXISTS
    tfds.disable_progress_bar()
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(download_mode=mode))


def _builder(data_dir: str | None) -> Digits:
    return Digits(data_dir=data_dir, file_format="array_record")


def _load():
    from sklearn.datasets import load_digits

    return load_digits()


def _png(ink: np.ndarray) -> io.BytesIO:
    """Returns an RGB PNG of an [8, 8] image whose ink runs from 0 to 16."""
    grey = np.round(ink * (255 / 16)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(grey).convert("RGB").save(file, "PNG")
    file.seek(0)
    return file
