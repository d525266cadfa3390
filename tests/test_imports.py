"""Imports point one way, and importing does nothing: no device, no network, no TensorFlow."""

import ast
import importlib
import pathlib
import pkgutil
import re
import subprocess
import sys

import pytest

import inception_jax
from inception_jax import moved
from inception_jax.models import zoo

ROOT = pathlib.Path(inception_jax.__file__).parent.parent
PACKAGE = ROOT / "inception_jax"
LEAVES = {
    "classes",
    "errors",
    "imagenet",
    "labels",
    "lazy",
    "moved",
    "paths",
    "progress",
    "suggestions",
    "version",
}  # import next to nothing, and may be imported by all but the models, which may have `suggestions`
ROOMS = {  # what each package may import of ours: those below it, that it needs
    "ops": set(),
    "models": {"ops"},
    "parallel": set(),
    "data": set(),
    "weights": {"models"},
    "describe": {"weights", "models"},
    "training": {"weights", "models", "ops", "data", "parallel"},
    "inference": {"training", "weights", "models", "ops", "data"},
    "explain": {"inference", "models", "data"},
    "plan": {"inference", "training", "ops", "parallel"},
    "demo": {"explain", "inference", "data"},
    "bench": {"plan", "describe", "inference", "training", "weights", "models", "ops", "data", "parallel"},
    "cli": {"bench", "demo", "plan", "explain", "describe", "inference", "training", "weights", "models", "data"}
    | {"parallel"},
}
ALLOWED = {room: {room} | below | LEAVES for room, below in ROOMS.items()} | {
    "ops": {"ops", "lazy"},
    "models": {"models", "ops", "lazy", "suggestions"},
    "classes": {"errors"},
    "errors": set(),
    "imagenet": set(),
    "labels": {"errors"},
    "lazy": {"moved"},
    "moved": set(),
    "paths": {"errors"},
    "progress": {"errors"},
    "suggestions": set(),
    "version": set(),
}
FORBIDDEN = ("pmap", "jax.experimental.shard_map", "jax_utils.replicate", "jax_utils.unreplicate")


def _imports(path: pathlib.Path) -> set[str]:
    """Returns the dotted names that a file imports, also inside functions and for type checking."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _own(path: pathlib.Path) -> set[str]:
    """Returns the packages and modules of ours, one level deep, that a file imports."""
    names = (name.split(".") for name in _imports(path))
    return {parts[1] if len(parts) > 1 else "" for parts in names if parts[0] == "inception_jax"}


def _sources(*folders: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path for folder in folders for path in folder.rglob("*.py"))


def _modules() -> list[str]:
    found = pkgutil.walk_packages([str(PACKAGE)], prefix="inception_jax.")
    return [module.name for module in found if not module.name.endswith("__main__")]


@pytest.mark.parametrize(
    "package", [name for name in ALLOWED if (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").is_file()]
)
def test_imports_point_one_way(package):
    paths = _sources(PACKAGE / package) or [PACKAGE / f"{package}.py"]
    wrong = {str(path.relative_to(ROOT)): extra for path in paths if (extra := _own(path) - ALLOWED[package])}
    assert wrong == {}


def test_every_package_has_its_rule():
    packages = {path.name for path in PACKAGE.iterdir() if path.is_dir() and (path / "__init__.py").exists()}
    assert packages <= set(ALLOWED)


def test_bench_is_imported_by_the_command_line_only():
    users = {path.parent.name for path in _sources(PACKAGE) if "bench" not in path.parts and "bench" in _own(path)}
    assert users <= {"cli"}


def test_configs_import_ml_collections_only():
    for path in _sources(ROOT / "configs"):
        allowed = {"ml_collections", "configs", "__future__"}
        assert {name.split(".")[0] for name in _imports(path)} <= allowed, path.name


def _tables() -> dict[str, set[str]]:
    """Returns, by name of the zoo, the files that its table, its heads and its rows are written in."""
    files: dict[str, set[str]] = {}
    for path in (PACKAGE / "models").glob("*.py"):
        module = importlib.import_module(f"inception_jax.models.{path.stem}")
        assigned = {
            target.id
            for node in ast.parse(path.read_text()).body
            if isinstance(node, ast.Assign | ast.AnnAssign)
            for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
            if isinstance(target, ast.Name)
        }
        for name, card in zoo.MODELS.items():
            if any(getattr(module, each, None) is card.table for each in assigned):
                files.setdefault(name, set()).add(path.name)
    return files


def test_every_table_of_the_zoo_is_found():
    assert set(_tables()) == set(zoo.MODELS)


def test_a_table_is_plain_python():
    """So is all that a table imports, and what reads tables without running them."""
    standard = set(sys.stdlib_module_names)
    waiting, seen = {"endpoints.py", *(file for files in _tables().values() for file in files)}, set()
    while waiting:
        seen.add(file := waiting.pop())
        for name in _imports(PACKAGE / "models" / file):
            if name.startswith("inception_jax.models."):
                waiting |= {f"{name.split('.')[2]}.py"} - seen
            elif not name.startswith("inception_jax.suggestions."):  # standard library only, as its rule above says
                assert name.split(".")[0] in standard, f"{file} imports {name}"
    assert {"spec.py", "googlenet.py", "inception_v3.py", "xception.py"} <= seen


def test_no_retired_way_to_use_many_devices():
    found = {
        f"{path.relative_to(ROOT)}: {word}"
        for path in [*_sources(PACKAGE, ROOT / "configs"), *ROOT.glob("*.py")]
        for word in FORBIDDEN
        if word in path.read_text()
    }
    assert found == set()


def test_importing_everything_touches_no_device_and_no_tensorflow():
    code = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]: importlib.import_module(name)\n"
        "from jax._src import xla_bridge\n"
        "print(xla_bridge.backends_are_initialized(), 'tensorflow' in sys.modules, 'torch' in sys.modules)\n"
    )
    command = [sys.executable, "-c", code, "inception_jax", *_modules()]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1:] == ["False False False"], done.stderr


def test_the_check_for_a_touched_device_can_fail():
    code = "import jax; jax.devices(); from jax._src import xla_bridge; print(xla_bridge.backends_are_initialized())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


def test_importing_the_package_costs_no_jax():
    code = "import inception_jax, sys; print(sorted({'jax', 'flax', 'numpy', 'grain'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "[]\n"


def test_modules_are_there_without_an_import_of_them():
    """`ij.inference.cam` and every other module of a public package; and neither `dir` nor a wrong name imports one."""
    code = (
        "import functools, sys, inception_jax as ij\n"
        "assert 'cam' in dir(ij.explain) and not hasattr(ij.explain, 'cams')\n"
        "print('inception_jax.explain.cam' in sys.modules)\n"
        "for name in sys.argv[1:]:\n"
        "    assert functools.reduce(getattr, name.split('.')[1:], ij) is sys.modules[name], name\n"
    )
    public = set(inception_jax._SUBPACKAGES)
    functions = {f"inception_jax.weights.{name}" for name in inception_jax.weights.__all__}
    names = [name for name in set(_modules()) - functions if name.count(".") == 2 and name.split(".")[1] in public]
    names = [name for name in names if "._" not in name]
    done = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True, cwd=ROOT)
    assert (done.stdout, done.stderr) == ("False\n", "")


@pytest.mark.parametrize("name", inception_jax.__all__)
def test_public_names_exist(name):
    assert getattr(inception_jax, name) is not None


def test_public_names_come_from_where_they_live():
    pretrained = importlib.import_module("inception_jax.weights.pretrained")
    assert inception_jax.create_model is pretrained.create_model
    assert inception_jax.list_models() == list(inception_jax.MODELS)
    with pytest.raises(AttributeError, match="has no attribute 'creat_model'"):
        _ = inception_jax.creat_model


@pytest.mark.parametrize("old", [*moved.MOVED, *moved.NAMES])
def test_an_old_import_names_the_new_one(old):
    package, _, name = old.rpartition(".")
    new = f"inception_jax.{(moved.MOVED | moved.NAMES)[old]}"
    assert pkgutil.resolve_name(new)
    lines = [f"from inception_jax.{package} import {name}"]
    lines += [f"import inception_jax.{old}"] if old in moved.MOVED else []
    for line in lines:
        with pytest.raises(ImportError, match=f"inception_jax.{old} is now {new}"):
            exec(line, {})
    with pytest.raises((AttributeError, ImportError), match=f"is now {new}"):
        getattr(importlib.import_module(f"inception_jax.{package}"), name)


def test_a_name_that_never_was_is_none_of_these():
    from inception_jax.inference import predictor

    with pytest.raises(AttributeError, match=r"'inception_jax.inference.predictor' has no attribute 'Classes'"):
        _ = predictor.Classes


def test_downloads_need_no_jax():
    modules = [name for name in _modules() if name.startswith("inception_jax.weights.hub.")]
    code = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]: importlib.import_module(name)\n"
        "print(sorted({'jax', 'flax', 'huggingface_hub'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, *modules], capture_output=True, text=True, check=True, cwd=ROOT)
    assert (done.stdout, len(modules)) == ("[]\n", 4)


# Inside the rooms of models and ops.

TABLES = ("googlenet", "inception_v2", "inception_v3", "inception_v4", "inception_resnet", "xception")
HOW = re.compile(r"\b(cpus?|gpus?|tpus?|pallas|c\+\+|cuda|matplotlib)(?!\w)", re.IGNORECASE)


def test_tables_import_the_words_of_tables_and_other_tables_alone():
    allowed = {f"inception_jax.models.{name}" for name in ("spec", *TABLES)} | {"inception_jax.models"}
    for table in TABLES:
        names = _imports(PACKAGE / "models" / f"{table}.py")
        ours = {name for name in names if name.startswith("inception_jax")}
        assert {name for name in ours if name not in allowed and name.rpartition(".")[0] not in allowed} == set()


def test_models_use_the_public_functions_of_ops_and_its_deferred_norm_alone():
    hidden = {f"inception_jax.ops.{path.stem}" for path in (PACKAGE / "ops").glob("*.py")} - {
        "inception_jax.ops.__init__",
        "inception_jax.ops.deferred_norm",
    }
    assert "inception_jax.ops.xla" in hidden
    for path in _sources(PACKAGE / "models"):
        assert {name for name in _imports(path) if name in hidden or name.rpartition(".")[0] in hidden} == set(), path


def test_models_say_nothing_of_how_they_are_computed():
    found = {
        f"{path.name}: {match[0]}"
        for path in _sources(PACKAGE / "models")
        for match in HOW.finditer(path.read_text().replace('"pallas"', ""))
    }
    assert found == set()


@pytest.mark.parametrize("text", ["runs on TPUs", "import matplotlib", "by C++ code", "on the CPU"])
def test_the_check_for_how_can_fail(text):
    assert HOW.search(text)
