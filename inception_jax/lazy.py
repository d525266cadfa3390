"""Modules of packages that are imported when they are asked for: `ij.inference.cam` needs no import of its own."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from types import ModuleType

from inception_jax import moved


def submodule(package: str, name: str) -> ModuleType:
    """Returns a module of a package of ours, imported now: what the `__getattr__` of the package does.

    Raises:
      AttributeError: it has no such module.
    """
    if name in submodules(package):
        return importlib.import_module(f"{package}.{name}")
    if said := moved.message(f"{package}.{name}"):
        raise AttributeError(said)
    raise AttributeError(f"module {package!r} has no attribute {name!r}")


def submodules(package: str) -> list[str]:
    """Returns the names of the modules of a package of ours."""
    return [each.name for each in pkgutil.iter_modules(sys.modules[package].__path__) if not each.name.startswith("_")]
