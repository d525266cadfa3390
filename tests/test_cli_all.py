"""What holds for every command: all of them are found from the program, none is listed here."""

import inspect
import io
import os
import sys

import pytest
import typer.main

from inception_jax import cli
from inception_jax.cli.app import app as program

TOO_LONG = "x" * 300


def _leaves(command, path=()):
    """Yields (words, command) of every command."""
    for name, each in getattr(command, "commands", {}).items():
        yield from _leaves(each, (*path, name))
    if not hasattr(command, "commands"):
        yield path, command


ROOT = typer.main.get_command(program)
COMMANDS = dict(_leaves(ROOT))
every_command = pytest.mark.parametrize("words", COMMANDS, ids=" ".join)


def _name(param):
    return max(param.opts, key=len, default=param.name)


def _is_option(param):
    return _name(param).startswith("-")


def _annotations(command):
    """Returns {name: annotation} of a command, as text."""
    return {name: str(each) for name, each in inspect.get_annotations(command.callback, eval_str=True).items()}


def _params(kind):
    """Returns (words, parameter) of all commands whose type has a word in it."""
    return [
        pytest.param(words, param, id=f"{' '.join(words)} {_name(param)}")
        for words, command in COMMANDS.items()
        for param in command.params
        if kind in _annotations(command).get(param.name, "").split(", <")[0]
    ]


def _arguments(command, given, tmp_path):
    """Returns words that satisfy the parser of a command, with those of some parameters given."""
    words = []
    for param in command.params:
        annotation = _annotations(command).get(param.name, "")
        if param.name in given:
            value = given[param.name]
        elif not param.required:
            continue
        elif choices := getattr(param.type_descriptor, "choices", None):
            value = str(getattr(choices[0], "value", choices[0]))
        else:
            value = "1" if "int" in annotation else str(tmp_path / "none.png")
        words += [f"{_name(param)}={value}"] if _is_option(param) else [value]
    return words


def _is_one_line(err):
    assert err.startswith("inception-jax: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err


def test_all_commands_are_found():
    assert {("predict",), ("plan",), ("bench", "model"), ("bench", "data"), ("demo",)} <= COMMANDS.keys()
    assert {words[0] for words in COMMANDS} >= {
        each.name or each.callback.__name__ for each in program.registered_commands
    }


@every_command
def test_help_shows_every_bracket(run, words):
    command = COMMANDS[words]
    code, out, err = run(*words, "--help", columns=400)
    assert (code, err) == (0, "")
    texts = [command.help or "", *(getattr(param, "help", None) or "" for param in command.params)]
    shown = " ".join(out.replace("│", " ").split())
    for text in texts:
        assert " ".join(text.split()).split("\f")[0] in shown


def test_brackets_of_help_are_no_markup(run):
    assert "pip install inception_jax[tpu]" in run("plan", "--help", columns=200)[1]


@pytest.mark.parametrize(("words", "param"), _params("int"))
@pytest.mark.parametrize("value", [2**70, -(2**70), -1])
def test_absurd_numbers_are_refused_before_anything_is_built(run, tmp_path, words, param, value):
    given = {param.name: str(value)} | ({"name": "googlenet"} if words == ("summary",) else {})
    code, out, err = run(*words, *_arguments(COMMANDS[words], given, tmp_path))
    assert (code, out) == (2, "")
    _is_one_line(err)
    assert param.name in err.replace("-", "_") or _name(param) in err


@pytest.mark.parametrize(("words", "param"), _params("float"))
@pytest.mark.parametrize("value", ["nan", "inf", "-1"])
def test_numbers_that_are_none_are_refused(run, tmp_path, words, param, value):
    test_absurd_numbers_are_refused_before_anything_is_built(run, tmp_path, words, param, value)


@pytest.mark.parametrize(("words", "param"), _params("Path"))
def test_a_path_that_is_none_is_one_line(run, tmp_path, words, param):
    code, out, err = run(*words, *_arguments(COMMANDS[words], {param.name: "~nobody-of-that-name/x.png"}, tmp_path))
    assert (code, out) == (2, "")
    _is_one_line(err)
    assert "'~nobody-of-that-name' is no user of this machine" in err


PATHS = {
    ("predict",): (["{}", "--weights", "none.pth"], ["a.png", "--weights", "{}"], ["a.png", "--workdir", "{}"]),
    ("evaluate",): (["--data", "folder:{}", "--weights", "a"], ["--workdir", "{}"]),
    ("cam",): (["a.png", "--weights", "{}"], ["a.png", "--workdir", "{}"]),
    ("views",): (["filters", "--weights", "{}"],),
    ("export",): (
        ["--format", "onnx", "-o", "{}", "--weights", "a"],
        ["--format", "onnx", "-o", "a", "--workdir", "{}"],
    ),
    ("demo",): (["--port", "0", "--weights", "{}"], ["--port", "0", "--workdir", "{}"]),
    ("convert",): (["{}", "a.safetensors"], ["a", "{}.safetensors"]),
    ("push",): (["{}", "me/net"], ["a", "me/net", "--evaluation", "{}"]),
    ("diagram",): (["googlenet", "--block", "3a", "-o", "{}.svg"],),
    ("plan",): (["--topology", "v5e:1x1", "--config", "{}"],),
    ("bench", "report"): (["--results", "{}"],),
    ("bench", "data"): (["--data", "folder:{}"],),
}
SAVES = {("bench", "model"): [], ("bench", "compile"): [], ("bench", "ops"): ["--no-torch"], ("bench", "data"): []}
WITHOUT_PATHS = {("models",), ("summary",), ("weights",)}


def test_every_command_has_its_paths():
    assert PATHS.keys() | SAVES.keys() | WITHOUT_PATHS == COMMANDS.keys()
    assert SAVES.keys() == {words for words, each in COMMANDS.items() if any(_name(p) == "--save" for p in each.params)}


@pytest.mark.parametrize(
    ("words", "arguments"), [(words, each) for words, cases in PATHS.items() for each in cases], ids=str
)
@pytest.mark.parametrize("path", ["none/x", TOO_LONG, "closed/x", "~nobody-of-that-name/x", "new\nline/x", "a\udce9/x"])
def test_a_bad_path_is_one_line(run, monkeypatch, tmp_path, words, arguments, path):
    if path == "closed/x":  # root may search every folder, so what others get is raised
        monkeypatch.setattr(os, "open", _closed(os.open))
        monkeypatch.setattr(os, "stat", _closed(os.stat))
        monkeypatch.setattr(io, "open", _closed(io.open))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "none").touch()
    code, out, err = run(*words, *(each.format(path) for each in arguments))
    assert (code, out) == (2, "")
    _is_one_line(err)
    assert "\x1b" not in err


@pytest.mark.parametrize("words", SAVES, ids=" ".join)
@pytest.mark.parametrize("path", ["none/x/y.jsonl", TOO_LONG, "folder", "~nobody-of-that-name/x"])
def test_where_rows_are_saved_is_checked_before_they_are_measured(run, monkeypatch, tmp_path, words, path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "none").touch()
    (tmp_path / "folder").mkdir()
    code, out, err = run(*words, *SAVES[words], "--save", path)
    assert (code, out) == (2, "")
    _is_one_line(err)


@pytest.mark.parametrize("words", [("bench", "model"), ("bench", "compile"), ("bench", "ops")], ids=" ".join)
def test_a_missing_engine_is_told_before_anything_is_built(run, monkeypatch, words):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    option = {"model": ("--engine", "jax", "--engine", "torch"), "compile": ("--beside", "torch-compile"), "ops": ()}
    code, out, err = run(*words, *option[words[-1]])
    assert (code, out, err) == (2, "", "inception-jax: torch is not installed: pip install torch.\n")


def test_a_missing_compiler_is_told_before_anything_is_built(run, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    config = os.path.join(os.path.dirname(os.path.dirname(__file__)), "configs", "digits.py")
    monkeypatch.setattr("inception_jax.cli.config._load", lambda path: None)
    monkeypatch.setattr("inception_jax.training.TrainConfig.parse", lambda values: None)
    code, out, err = run("plan", "--config", config, "--topology", "v5e:1x1")
    assert (code, out) == (2, "")
    assert err.startswith("inception-jax: Compiling for TPUs needs libtpu")


def _closed(function):
    def closed(path, *args, **kwargs):
        if "closed" in os.fsdecode(path if isinstance(path, str | bytes | os.PathLike) else ""):
            raise PermissionError(13, "Permission denied", str(path))
        return function(path, *args, **kwargs)

    return closed


@every_command
def test_a_full_disk_behind_stdout_is_one_line(monkeypatch, capsys, words):
    """The help of a command stands for what it prints: nothing of theirs writes by another way than `sys.stdout`."""
    monkeypatch.setattr(sys, "argv", ["inception-jax", *words, "--help"])
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(SystemExit) as exit_info:
            cli.main()
    assert exit_info.value.code == 2
    assert capsys.readouterr().err == "inception-jax: stdout cannot be written: No space left on device.\n"
