"""The build of the two extensions: a missing compiler or header leaves one out, or ends a build that requires it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = ("inception_jax/data/native", "inception_jax/ops/csrc")


@pytest.fixture
def checkout(tmp_path) -> Path:
    """Returns a folder of setup.py and the sources, without pyproject.toml, which old setuptools cannot read."""
    shutil.copy(ROOT / "setup.py", tmp_path)
    for folder in SOURCES:
        shutil.copytree(ROOT / folder, tmp_path / folder)
    return tmp_path


def build(checkout: Path, **environment) -> subprocess.CompletedProcess:
    environment = {"CC": "/bin/false", "CXX": "/bin/false"} | environment
    inherited = {name: value for name, value in os.environ.items() if name != "INCEPTION_JAX_REQUIRE_NATIVE"}
    return subprocess.run(
        [sys.executable, "setup.py", "build_ext"],
        cwd=checkout, env=inherited | environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def test_without_a_compiler_the_extensions_are_left_out(checkout):
    done = build(checkout)
    assert done.returncode == 0, done.stderr
    assert not list(checkout.rglob("*.so"))


def test_without_a_compiler_required_extensions_end_the_build(checkout):
    done = build(checkout, INCEPTION_JAX_REQUIRE_NATIVE="1")
    assert done.returncode != 0
    assert "/bin/false" in done.stderr


def test_without_headers_required_extensions_end_the_build(checkout):
    (checkout / "jaxlib").mkdir()
    (checkout / "jaxlib" / "__init__.py").touch()
    environment = {"PYTHONPATH": str(checkout)}
    assert build(checkout, **environment).returncode == 0
    done = build(checkout, **environment, INCEPTION_JAX_REQUIRE_NATIVE="1")
    assert done.returncode != 0
    assert "INCEPTION_JAX_REQUIRE_NATIVE is set, but jaxlib and its headers are not installed." in done.stderr


@pytest.mark.parametrize(("required", "outcome"), [("", "skip"), ("0", "skip"), ("1", "fail")])
def test_a_test_of_a_missing_extension_fails_where_it_is_required(required, outcome, monkeypatch):
    from tests.conftest import need_native

    monkeypatch.setenv("INCEPTION_JAX_REQUIRE_NATIVE", required)
    expected = pytest.fail.Exception if outcome == "fail" else pytest.skip.Exception
    with pytest.raises(expected, match="_native was not built"):
        need_native(False, "_native")
    need_native(True, "_native")


def test_ci_requires_the_extensions_and_the_build_takes_the_jaxlib_that_is_installed():
    assert "export INCEPTION_JAX_REQUIRE_NATIVE=1" in (ROOT / ".ci" / "run").read_text()
    makefile = (ROOT / "Makefile").read_text()
    assert "--no-build-isolation --editable ." in makefile
    assert "\nsetuptools==" in (ROOT / "requirements.txt").read_text()
