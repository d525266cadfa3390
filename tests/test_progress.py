"""Progress on stderr: lines in a log, a bar on a terminal."""

import re
import time

import pytest
import rich.console

from inception_jax import progress


@pytest.fixture
def often(monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)


def test_images_in_a_log(often, capsys):
    with progress.progress(1200) as advance:
        for _ in range(2):
            advance()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert re.fullmatch(r"2/1,200 images, [\d,.]+ images/s, [\d,]+ s left", lines[-1])


def test_bytes_in_a_log(often, capsys):
    """What was there before counts as done, and not for the speed."""
    with progress.progress(50_000_000, progress.MEGABYTES, done=20_000_000) as advance:
        advance(5_000_000)
    (line,) = capsys.readouterr().err.splitlines()
    found = re.fullmatch(r"25\.0/50\.0 MB, ([\d,.]+) MB/s, ([\d,]+) s left", line)
    speed, left = (float(each.replace(",", "")) for each in found.groups())
    assert left == pytest.approx(25 / speed, abs=0.5)


def test_an_unknown_total(often, capsys):
    with progress.progress(None, progress.MEGABYTES) as advance:
        advance(5_000_000)
    assert re.fullmatch(r"5\.0/\? MB, [\d,.]+ MB/s\n", capsys.readouterr().err)


def test_a_terminal_shows_a_bar_with_the_time_left(monkeypatch):
    console = rich.console.Console(force_terminal=True, width=80, record=True, highlight=False)
    monkeypatch.setattr(progress.rich.console, "Console", lambda **_: console)
    with progress.progress(50_000_000, progress.MEGABYTES) as advance:
        for _ in range(5):
            advance(5_000_000)
            time.sleep(0.05)
    text = console.export_text()
    assert "25.0/50.0 MB" in text
    assert "50%" in text
    assert re.search(r"\d:\d\d", text)
