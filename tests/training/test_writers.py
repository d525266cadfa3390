"""Metrics files survive kills and resumes; the console is a bar for people and plain lines for logs."""

import io
import json
import threading

import matplotlib.image
import pytest
import rich.console

from inception_jax.training.clock import Clock
from inception_jax.training.curves import accuracy, draw_curves
from inception_jax.training.writers import Console, MetricsFile, TensorBoard, duration, read_metrics

TRAIN = {"train/loss": 1.25, "train/top1": 0.5, "train/images_per_second": 1234.5, "train/data_wait": 0.031}
EVAL = {"eval/loss": 1.5, "eval/top1": 0.25, "eval/count": 96}


def write(path, first_step, steps):
    file = MetricsFile(path, first_step)
    for step in steps:
        file.write(step, {"train/loss": float(step)})
    file.close()


def test_resumed_file_drops_what_came_after_the_checkpoint(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write(path, 0, [1, 2, 3, 4])
    with path.open("a") as file:
        file.write('{"step": 5, "train/lo')  # a killed run
    write(path, 2, [3])
    assert read_metrics(path) == [{"step": step, "train/loss": float(step)} for step in (1, 2, 3)]


def test_every_line_is_json_and_on_disk_at_once(tmp_path):
    file = MetricsFile(tmp_path / "metrics.jsonl", 0)
    file.write(7, EVAL)
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 7, **EVAL}
    file.close()


def console(terminal: bool, total=100, first=0):
    output = io.StringIO()
    rich_console = rich.console.Console(file=output, force_terminal=terminal, width=140, highlight=False)
    return Console(total, first, batch_size=8, console=rich_console), output


def test_log_gets_plain_lines(monkeypatch):
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    progress, output = console(terminal=False)
    progress.step(1, 1.3, 0.5)
    progress.step(2, 1.2, 0.5)
    progress.write(2, TRAIN)
    progress.write(2, EVAL)
    progress.close()
    train, evaluation = output.getvalue().splitlines()
    assert train.startswith("step 2/100  train  loss 1.25  top1 50.0%  images_per_second 1,23")
    assert "data_wait 3.1%  left 0:" in train
    assert evaluation == "step 2/100  eval  loss 1.5  top1 25.0%  count 96"
    assert "\x1b" not in output.getvalue()


def test_terminal_gets_a_bar_with_time_left_speed_loss_and_wait():
    progress, output = console(terminal=True)
    for step in range(1, 60):
        progress.step(step, 1.234, 0.031)
    progress.write(50, TRAIN)
    progress.write(50, EVAL)
    progress.close()
    text = output.getvalue()
    for shown in ("step 59/100", "59%", "loss 1.234", "images/s", "data wait 3%", "0:0"):
        assert shown in text
    assert "eval  loss 1.5" in text
    assert "train  loss" not in text, "the bar shows it"


def test_durations():
    assert [duration(seconds) for seconds in (0, 61.4, 3600 * 27 + 59)] == ["0:00:00", "0:01:01", "27:00:59"]


def test_clock_leaves_pauses_out(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    clock = Clock()
    with clock.waiting():
        now[0] += 2
    now[0] += 6
    with clock.paused():
        now[0] += 100
    assert clock.wait_share == pytest.approx(2 / 8)
    assert clock.lap() == pytest.approx((8, 2 / 8))
    now[0] += 5
    assert clock.lap() == pytest.approx((5, 0))
    assert clock.seconds == 113


def test_curves_are_drawn_from_the_file(tmp_path):
    file = MetricsFile(tmp_path / "metrics.jsonl", 0)
    for step in range(1, 11):
        file.write(step, {"train/loss": 2.0 / step, "train/top1": step / 20, "train/learning_rate": 0.1})
        file.write(step, {"eval/loss": 3.0 / step, "eval/top1": step / 30})
    file.close()
    draw_curves(tmp_path / "metrics.jsonl", tmp_path / "curves.png", "a run")
    picture = matplotlib.image.imread(tmp_path / "curves.png")
    colours = {tuple(pixel) for pixel in (picture[::2, ::2, :3] * 255).astype(int).reshape(-1, 3)}
    assert picture.shape[:2] == (840, 1320)
    assert {(31, 119, 180), (255, 127, 14)} <= colours, "two curves at least"


STRAY = (
    "5",
    "{}",
    "[]",
    "null",
    '{"step": 5.5}',
    '{"step": true}',
    '{"stdp": 5}',
    '{"step": 5, "train/loss": "1"}',
    "\x00",
)


def test_stray_lines_of_a_metrics_file_are_left_out_with_one_line(tmp_path, caplog):
    path = tmp_path / "metrics.jsonl"
    write(path, 0, [1, 2])
    with path.open("a") as file:
        file.write("".join(f"{line}\n" for line in STRAY))
    assert [record["step"] for record in read_metrics(path)] == [1, 2]
    assert len(caplog.records) == 1
    assert "damaged lines are left out: 3, 4," in caplog.text
    write(path, 2, [3])
    assert [record["step"] for record in read_metrics(path)] == [1, 2, 3]


def test_a_metrics_file_that_was_removed_begins_again(tmp_path, caplog):
    path = tmp_path / "metrics.jsonl"
    file = MetricsFile(path, 0)
    file.write(1, TRAIN)
    path.unlink()
    file.write(2, TRAIN)
    assert [record["step"] for record in read_metrics(path)] == [2]
    assert "is gone; it begins again at step 2" in caplog.text


def test_a_full_disk_is_an_error_where_tensorboard_is_written(tmp_path):
    """There, and nowhere else: no thread, and nothing at the end of the program, has anything left to write."""
    before = threading.active_count()
    writer = TensorBoard(tmp_path / "tensorboard", 0)
    writer.write(1, TRAIN)
    next((tmp_path / "tensorboard").iterdir()).unlink()
    writer._path.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device"):
        writer.write(2, TRAIN)
    writer.close()
    assert threading.active_count() == before


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        (10, "top-1 80.00%, top-5 100.00%, loss 0.5000"),
        (2, "top-1 80.00%, (top-5 of 2 classes is always 100 %: left out), loss 0.5000"),
        (None, "top-1 80.00%, top-5 100.00%, loss 0.5000"),  # a summary of an earlier version
    ],
)
def test_top_5_is_told_where_it_can_be_missed(classes, words):
    assert accuracy({"top1": 0.8, "top5": 1.0, "loss": 0.5}, classes) == words
