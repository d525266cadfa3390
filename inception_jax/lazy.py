"""Imports the modules of a package on first access: `ij.explain.cam` works after `import inception_jax as ij` alone."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from types import ModuleType

from inception_jax import moved


def submodule(package: str, name: str) -> ModuleType:
    """Returns a module of one of our packages, imported now; packages use it as their `__getattr__`.

    Raises:
      AttributeError: the package has no such module. If it had once, the message gives the new name.
    """
    if name in submodules(package):
        return importlib.import_module(f"{package}.{name}")
    if text := moved.message(f"{package}.{name}"):
        raise AttributeError(text)
    raise AttributeError(f"module {package!r} has no attribute {name!r}")


def submodules(package: str) -> list[str]:
    """Returns the names of the modules of one of our packages."""
    return [each.name for each in pkgutil.iter_modules(sys.modules[package].__path__) if not each.name.startswith("_")]
