"""Batches as a pure function of (seed, step), evaluation of every image once, and broken images."""

import itertools
import os
import subprocess
import sys

import numpy as np
import pytest

from inception_jax.data import loader, pixels, sources, transforms
from inception_jax.data.loader import LoaderOptions
from inception_jax.errors import UserError
from tests.data.images import noise_source, truncated_jpeg

BATCH = 8
IMAGES = 37  # epochs end in the middle of batches
CROP = transforms.CropFlip(size=8)
STEPS = range(12)


@pytest.fixture(scope="module")
def source():
    return noise_source(IMAGES)


def join(batches) -> dict[str, np.ndarray]:
    return {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}


def train(source, steps=STEPS, processes=1, seed=3, **reading) -> dict[str, np.ndarray]:
    """Returns the images of `steps` in order, as `processes` read them together."""
    streams = [
        loader.train_batches(source, CROP, BATCH, seed, steps, LoaderOptions(process, processes, **reading))
        for process in range(processes)
    ]
    return join(list(itertools.chain.from_iterable(zip(*streams, strict=True))))


def evaluate(source, batch_size=BATCH, processes=1, transform=CROP, **reading) -> list[dict[str, np.ndarray]]:
    """Returns the global batches."""
    streams = [
        loader.eval_batches(source, transform, batch_size, LoaderOptions(process, processes, **reading))
        for process in range(processes)
    ]
    return [join(batches) for batches in zip(*streams, strict=True)]


def assert_same(actual, expected):
    assert actual.keys() == expected.keys()
    for key in expected:
        np.testing.assert_array_equal(actual[key], expected[key], err_msg=key)


@pytest.fixture(scope="module")
def straight(source):
    return train(source)


def test_batches_have_the_shapes_and_dtypes_of_the_interface(source):
    batch = next(loader.train_batches(source, CROP, BATCH, 0, STEPS, LoaderOptions()))
    assert {key: (array.shape, array.dtype.name) for key, array in batch.items()} == {
        "image": ((BATCH, 8, 8, 3), "uint8"),
        "label": ((BATCH,), "int32"),
        "mask": ((BATCH,), "float32"),
        "index": ((BATCH,), "int32"),
    }
    np.testing.assert_array_equal(batch["label"], batch["index"] % 3)
    np.testing.assert_array_equal(batch["mask"], 1)


@pytest.mark.parametrize("steps", [range(0), range(5, 5)])
def test_no_steps_give_no_batches(source, steps):
    assert list(loader.train_batches(source, CROP, BATCH, 0, steps, LoaderOptions())) == []


@pytest.mark.parametrize("processes", [2, 4, 8])
def test_any_number_of_processes_reads_the_same_images(source, straight, processes):
    assert_same(train(source, processes=processes), straight)


@pytest.mark.parametrize("reading", [{"threads": 1, "buffer": 1}, {"threads": 8}, {"workers": 1}, {"workers": 2}])
def test_any_number_of_threads_and_workers_reads_the_same_images(source, straight, reading):
    assert_same(train(source, **reading), straight)


@pytest.mark.parametrize("processes", [(1, 1, 1), (2, 8, 1)])
def test_resuming_changes_nothing_even_with_another_number_of_processes(source, straight, processes):
    ranges = (range(5), range(5, 9), range(9, 12))
    runs = [train(source, steps, count) for steps, count in zip(ranges, processes, strict=True)]
    assert_same(join(runs), straight)


def test_every_epoch_is_another_permutation(source):
    steps = range(4 * IMAGES // BATCH + 1)
    epochs = train(source, steps)["index"][: 4 * IMAGES].reshape(4, IMAGES)
    np.testing.assert_array_equal(np.sort(epochs), np.tile(np.arange(IMAGES), (4, 1)))
    assert len({tuple(epoch) for epoch in [*epochs, range(IMAGES)]}) == 5


def test_seeds_give_other_orders_that_are_not_each_others_later_epochs(source):
    steps = range(3 * IMAGES // BATCH + 1)
    epochs = [
        tuple(epoch)
        for seed in (0, 1, 2**32 - 1)
        for epoch in train(source, steps, seed=seed)["index"][: 3 * IMAGES].reshape(3, IMAGES)
    ]
    assert len(set(epochs)) == 9


def test_an_image_is_augmented_differently_in_every_epoch(source):
    stream = train(source, range(2 * IMAGES // BATCH + 1))
    changed = [len({image.tobytes() for image in stream["image"][stream["index"] == i]}) for i in range(IMAGES)]
    assert np.mean(np.array(changed) > 1) > 0.9


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_read_disjoint_images_of_a_step(source, processes):
    indices = [
        next(loader.train_batches(source, CROP, BATCH, 0, STEPS, LoaderOptions(process, processes)))["index"]
        for process in range(processes)
    ]
    assert [len(each) for each in indices] == [BATCH // processes] * processes
    assert len(set(np.concatenate(indices))) == BATCH


def test_a_split_never_gives_images_of_another(image_folder):
    folder = f"folder:{image_folder}"
    plain = transforms.CropFlip(size=8, pad=0)
    reading = LoaderOptions()
    batches = list(loader.train_batches(sources.open_source(folder, "train"), plain, 4, 0, range(9), reading))
    assert set(join(batches)["image"].flatten()) == set(range(6))
    batches = list(loader.eval_batches(sources.open_source(folder, "val"), plain, 3, reading))
    assert set(join(batches)["image"].flatten()) == set(range(100, 106))


@pytest.mark.parametrize("processes", [1, 2, 8])
def test_evaluation_reads_every_image_once_and_masks_the_padding(processes):
    source = noise_source(1003)
    batches = evaluate(source, 128, processes)
    assert [len(batch["mask"]) for batch in batches] == [128] * 8
    images = join(batches)
    np.testing.assert_array_equal(images["index"], [*range(1003), *[loader.PADDING] * 21])
    np.testing.assert_array_equal(images["mask"], images["index"] >= 0)
    assert not images["image"][1003:].any()
    assert not any(loader.skipped(batch) for batch in batches)


def test_padding_is_not_decoded(source, monkeypatch):
    calls = []
    monkeypatch.setattr(loader, "decoded", lambda *image: calls.append(0) or pixels.decoded(*image))
    evaluate(source, 32)
    assert len(calls) == IMAGES


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("broken", [b"\xff\xd8 no image", truncated_jpeg()])
def test_a_broken_image_stops_the_run_and_is_named(workers, broken):
    source = noise_source(5)
    source.records[3]["image"] = broken
    with pytest.raises(transforms.BrokenImage, match=r"record 3 of noise\[all\].*data\.on_error=\"skip\""):
        evaluate(source, workers=workers)


def test_skipped_images_are_masked_and_counted_and_padding_is_not(caplog):
    source = noise_source(5)
    source.records[1]["image"] = b"no image"
    source.records[3]["image"] = truncated_jpeg()
    (batch,) = evaluate(source, on_error="skip")
    np.testing.assert_array_equal(batch["mask"], [1, 0, 1, 0, 1, 0, 0, 0])
    np.testing.assert_array_equal(batch["index"], [0, 1, 2, 3, 4, -1, -1, -1])
    assert not batch["image"][batch["mask"] == 0].any()
    assert loader.skipped(batch) == [1, 3]
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        f"skipped broken image, record {index} of noise[all]" for index in (1, 3)
    ]


class Unreadable(list):
    def __getitem__(self, index):
        if index == 3:
            raise OSError("disk on fire")
        return super().__getitem__(index)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_record_that_cannot_be_read_is_named(workers):
    source = sources.ImageSource("disk[all]", Unreadable(noise_source(5).records), ("a",))
    with pytest.raises(
        UserError, match=r"^Cannot read record 3 of disk\[all\]: disk on fire\. data\.on_error=\"skip\""
    ):
        evaluate(source, workers=workers)


def test_a_record_that_cannot_be_read_is_skipped_like_a_broken_one(caplog):
    source = sources.ImageSource("disk[all]", Unreadable(noise_source(5).records), ("a",))
    (batch,) = evaluate(source, on_error="skip")
    assert loader.skipped(batch) == [3]
    assert [each.getMessage() for each in caplog.records] == ["skipped Cannot read record 3 of disk[all]: disk on fire"]


@pytest.mark.parametrize("fault", ["gone", "folder", "fifo", "dangling"])
def test_a_file_that_changed_after_the_start_is_skipped_or_named(image_folder, fault):
    source = sources.open_source(f"folder:{image_folder}", "train")
    path = image_folder / "train" / "bee" / "a.png"
    path.unlink()
    make = {"folder": path.mkdir, "fifo": lambda: os.mkfifo(path), "dangling": lambda: path.symlink_to("nowhere")}
    make.get(fault, lambda: None)()
    assert loader.skipped(join(evaluate(source, on_error="skip"))) == [2]
    with pytest.raises(UserError, match=r"^Cannot read record 2 of folder:\S+: \S+/bee/a\.png") as caught:
        evaluate(source)
    assert "\n" not in str(caught.value)


def test_bad_arguments_are_named(source):
    with pytest.raises(UserError, match=r"batch_size is 10; it must be a multiple of the 4 processes"):
        loader.train_batches(source, CROP, 10, 0, STEPS, LoaderOptions(0, 4))
    with pytest.raises(UserError, match=r"process is 2; it must be in 0 \.\.\. 1"):
        LoaderOptions(2, 2)
    with pytest.raises(UserError, match=r"on_error is 'ignore'; allowed: raise, skip"):
        LoaderOptions(on_error="ignore")


NO_TENSORFLOW = """
import sys
from inception_jax.data import loader, pixels, sources, transforms
source = sources.open_source("digits", "train", {data_dir!r})
next(loader.train_batches(source, transforms.InceptionCrop(8), 8, 0, range(1), loader.LoaderOptions()))
for name in ("imagenet2012", "no_such_data"):
    try:
        sources.open_source(name, "train", {data_dir!r})
    except ValueError:
        pass
assert not [name for name in sys.modules if name.split(".")[0] in ("tensorflow", "torch")]
"""


def test_the_repr_of_a_batch_loader_does_not_hold_the_records(source):
    load = loader.LoadBatch(source, CROP, "raise", range(IMAGES), BATCH, seed=0)
    assert len(repr(load)) < 200 < len(repr(source))


def test_tensorflow_is_never_imported(digits_dir):
    subprocess.run([sys.executable, "-c", NO_TENSORFLOW.format(data_dir=digits_dir)], check=True, timeout=120)


def test_photographs_are_the_same_for_threads_and_workers(image_data):
    source = sources.open_source("imagenet2012", "validation", image_data)
    crop = transforms.Evaluate(size=32, resize=36)
    expected = [record["index"] for record in map(source.__getitem__, range(len(source)))]
    threads = join(evaluate(source, 24, transform=crop))
    np.testing.assert_array_equal(threads["index"][: len(source)], expected)
    assert_same(join(evaluate(source, 24, 2, transform=crop, workers=1)), threads)
