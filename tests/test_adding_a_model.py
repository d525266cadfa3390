"""docs/ADDING_A_MODEL.md, followed to the letter in a copy of the repository.

The line before a block says what to do with it: create a file, insert what a diff adds, or run. A block without such a
line fails, and so does output that differs from what the page prints.
"""

import doctest
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GUIDE = ROOT / "docs" / "ADDING_A_MODEL.md"
COPIED = ("inception_jax", "tests", "configs", "docs", "README.md", "pyproject.toml", "train.py")
BLOCK = re.compile(r"(?P<text>[^\n]+)\n\n```(?P<language>\w+)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
CREATE = re.compile(r"Create `(?P<path>[^`]+)`:$")
INSERT = re.compile(r"In `(?P<path>[^`]+)`:$")
COMMAND = re.compile(r"^\$ (?P<command>.+)\n(?P<output>(?:(?!\$ ).*\n)*)", re.MULTILINE)


@pytest.mark.slow
def test_the_guide_works_as_it_stands(tmp_path):
    for name in COPIED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    blocks = list(BLOCK.finditer(GUIDE.read_text()))
    assert len(blocks) * 2 == GUIDE.read_text().count("```") > 0
    for block in blocks:
        follow(block["text"], block["language"], block["body"], tmp_path)


def follow(text, language, body, root):
    """Does what a block of the guide says, in the folder `root`."""
    if create := CREATE.search(text):
        path = root / create["path"]
        assert path.parent.is_dir()
        assert not path.exists()
        path.write_text(body)
    elif insert := INSERT.search(text):
        path = root / insert["path"]
        anchor, *added = body.splitlines(keepends=True)
        assert language == "diff"
        assert {line[0] for line in added} == {"+"}
        before, after = f"\n{path.read_text()}".split(f"\n{anchor[1:]}")  # stands there once
        path.write_text(f"{before}\n{anchor[1:]}{''.join(line[1:] for line in added)}{after}"[1:])
    elif language == "pycon":
        (root / "session.txt").write_text(body)
        check(f"{sys.executable} -m doctest session.txt", "", root)
    else:
        assert language == "console", text
        commands = list(COMMAND.finditer(body))
        assert "".join(command[0] for command in commands) == body != ""
        for command in commands:
            check(command["command"], command["output"], root)


def check(command, expected, root):
    """Runs a command and compares what it prints; a `...` stands for anything."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environ |= {"PATH": f"{Path(sys.executable).parent}:{environ['PATH']}", "COLUMNS": "80", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, shell=True, cwd=root, env=environ, capture_output=True, text=True, timeout=600)
    found = "".join(f"{line.rstrip()}\n" for line in done.stdout.splitlines())
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    assert doctest.OutputChecker().check_output(expected, found, doctest.ELLIPSIS), f"{command}:\n{found}"
