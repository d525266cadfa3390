"""Standard streams that are full, closed, left or cannot encode a name; names that would change a terminal."""

import csv
import io
import json
import logging
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from inception_jax import cli
from inception_jax.cli.app import table
from inception_jax.cli.streams import Guarded, standard_streams
from inception_jax.errors import PrintableFormatter, UserError
from inception_jax.progress import doing
from tests.inference.conftest import predictor, source

__all__ = ["predictor", "source"]  # fixtures
EVIL = "\x1b]0;title\x07\nforged [red]x[/red] [/] :smile:"
SHOWN = "\\x1b]0;title\\x07\\nforged [red]x[/red] [/] :smile:"


def shell(line, **environment):
    """Runs a line of a shell with `inception-jax` in it; returns (exit code, stdout, stderr)."""
    command = f'{sys.executable} -c "from inception_jax.cli import main; main()"'
    done = subprocess.run(
        ["bash", "-c", line.replace("inception-jax", command)],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | environment,
    )
    return done.returncode, done.stdout, done.stderr


def test_streams_of_a_process():
    """What only a process has: closed streams, pipes, and what Python writes when it ends."""
    full = "inception-jax: stdout cannot be written: No space left on device.\n"
    assert shell("inception-jax --version > /dev/full") == (2, "", full)
    assert shell("inception-jax --version >&-") == (
        2,
        "",
        full.replace("No space left on device", "Bad file descriptor"),
    )
    assert shell("inception-jax predict - --weights a <&-") == (
        2, "", "inception-jax: stdin cannot be read: Bad file descriptor.\n",
    )  # fmt: skip
    assert shell("inception-jax weights nothing 2>&-") == (2, "", "")
    code, out, err = shell("set -o pipefail; inception-jax --help | true")
    assert (code, out, err) == (141, "", "")


def test_completion_prints_a_script():
    code, out, err = shell("inception-jax --show-completion bash")
    assert (code, err) == (0, "")
    assert "_INCEPTION_JAX_COMPLETE=complete_bash" in out
    typed = {"_INCEPTION_JAX_COMPLETE": "complete_bash", "COMP_WORDS": "inception-jax pre", "COMP_CWORD": "1"}
    assert shell("inception-jax", **typed) == (0, "predict\n", "")


def run_into(monkeypatch, stream, *arguments):
    """Runs the command line with a stream as stdout; returns its exit code."""
    monkeypatch.setattr(sys, "argv", ["inception-jax", *arguments])
    monkeypatch.setattr(sys, "stdout", stream)
    with pytest.raises(SystemExit) as exit_info:
        cli.main()
    return exit_info.value.code or 0


@pytest.fixture
def predicting(monkeypatch, predictor):
    monkeypatch.setattr("inception_jax.cli.predict.load_predictor", lambda *_, **__: predictor)


@pytest.fixture
def named(tmp_path):
    """Two images whose names no terminal shows: bytes that are no UTF-8, and what would change it; then a usual one."""
    pixels = Image.fromarray(np.zeros((9, 9, 3), np.uint8))
    names = ["latin\udce9.png", "a\x1b[2J.png", "schön\N{CAMERA}.png"]
    for name in names:
        pixels.save(tmp_path / name)
    return [str(tmp_path / name) for name in names]


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_names_that_a_stream_cannot_encode(monkeypatch, capsys, predicting, named, encoding):
    found = {}
    for form in ("--json", "--csv", None):
        raw = io.BytesIO()
        stream = io.TextIOWrapper(raw, encoding=encoding, errors="strict", newline="")
        code = run_into(monkeypatch, stream, "predict", *named, "-k", "1", *([form] if form else []))
        assert (code, capsys.readouterr().err) == (0, "")
        found[form] = raw.getvalue().decode(encoding)
    assert [json.loads(line)["image"] for line in found["--json"].splitlines()] == named
    rows = [row["image"] for row in csv.DictReader(io.StringIO(found["--csv"], newline=""))]
    assert rows == [name.encode(encoding, "backslashreplace").decode(encoding) for name in named]
    lines = found[None].splitlines()
    assert len(lines) == 3
    assert "latin\\xe9.png  " in lines[0]
    assert "a\\x1b[2J.png  " in lines[1]
    assert ("schön\N{CAMERA}.png" in lines[2]) == (encoding == "utf-8")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (b"a.png\r\n\r\nb.png\r\n", ["a.png", "b.png"]),
        (b"\xef\xbb\xbfa.png\nb.png", ["a.png", "b.png"]),
        (b"a.png\0b\nc.png\0", ["a.png", "b\nc.png"]),
        (b"latin\xe9.png\n", ["latin\udce9.png"]),
        (b" a b.png\n", [" a b.png"]),
    ],
    ids=["windows", "mark", "nul", "bytes", "spaces"],
)
def test_lists_on_stdin(monkeypatch, predicting, capsys, given, expected):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(given), "ascii"))
    assert run_into(monkeypatch, io.StringIO(), "predict", "-") == 1
    err = capsys.readouterr().err.splitlines()
    assert err[-1] == f"inception-jax: {len(expected)} of {len(expected)} images cannot be read."
    shown = [name.replace("\n", "\\n").replace("\udce9", "\\xe9") for name in expected]
    assert err[:-1] == [f"inception-jax: {name}: No such file or directory" for name in shown]


def test_a_disk_that_fills_while_it_predicts(monkeypatch, predicting, capsys, named):
    with open("/dev/full", "w") as full:
        assert run_into(monkeypatch, full, "predict", *named, "--json") == 2
    assert capsys.readouterr().err == "inception-jax: stdout cannot be written: No space left on device.\n"


def test_errors_tables_and_logs_show_names_as_they_are(run, capsys, monkeypatch):
    code, _, err = run("weights", EVIL, columns=300)
    assert code == 2
    assert err.count("\n") == 1
    assert "\x1b" not in err
    with standard_streams():
        printed = table("name", EVIL, left=("name",))
        printed.add_row(EVIL, "1")
        monkeypatch.setenv("COLUMNS", "300")
        Console().print(printed)
        logging.getLogger("inception_jax.data").warning("%s is broken", EVIL)
        with doing(EVIL):
            pass
    out, err = capsys.readouterr()
    assert "\x1b" not in out + err
    assert "[red]x[/red] [/] :smile:" in out
    assert out.count("\\x1b]0;title\\x07") == 2
    assert err == f"inception-jax: {SHOWN} is broken\n{SHOWN}\n"


def test_a_log_keeps_the_lines_of_a_traceback():
    record = logging.LogRecord("a", logging.ERROR, "a.py", 1, "%s", (EVIL,), None)
    assert PrintableFormatter().format(record) == SHOWN
    try:
        raise ValueError("a\nb")
    except ValueError:
        record.exc_info = sys.exc_info()
    assert PrintableFormatter().format(record).startswith(f"{SHOWN}\nTraceback")


def test_a_guarded_stream_is_what_it_guards():
    stream = io.StringIO()
    guarded = Guarded(stream, "stdout")
    print("a", file=guarded)
    guarded.writelines(["b", "c"])
    assert stream.getvalue() == "a\nbc"
    assert guarded.isatty() is False


def test_train_shows_names_as_they_are(monkeypatch, capsys):
    """Its errors, and its log, which is absl's."""
    from inception_jax.training import program

    def fail():
        raise UserError(f"{EVIL} is broken.")

    monkeypatch.setattr(program, "_train", fail)
    monkeypatch.setattr(program, "parse_flags", lambda *_: True)
    monkeypatch.setattr(program, "_leave", lambda *_: None)
    with pytest.raises(SystemExit):
        program.run_program("")
    assert capsys.readouterr().err == f"error: {SHOWN} is broken.\n"
    record = logging.LogRecord("inception_jax", logging.WARNING, "a.py", 1, "%s", (EVIL,), None)
    assert program._PrintableLines().format(record).endswith(f"a.py:1] {SHOWN}")
