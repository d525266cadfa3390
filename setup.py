"""The two extensions in C and C++; what an extension needs and the machine lacks leaves it out."""

import importlib.util
from pathlib import Path

from setuptools import Extension, setup


def _sources(folder: str, pattern: str) -> list[str]:
    return sorted(str(path) for path in Path(folder).glob(pattern))


JAXLIB = importlib.util.find_spec("jaxlib")
JPEG = Extension(
    "inception_jax.data._jpeg",
    _sources("inception_jax/data/native", "*.c"),
    depends=_sources("inception_jax/data/native", "*.h"),
    libraries=["jpeg"],
    extra_compile_args=["-O3"],
    optional=True,
)
KERNELS = Extension(
    "inception_jax.models._kernels",
    ["inception_jax/models/kernels/module.cc"],
    depends=_sources("inception_jax/models/kernels", "*.h"),
    include_dirs=[str(Path(JAXLIB.origin).parent / "include")] if JAXLIB and JAXLIB.origin else [],
    extra_compile_args=["-O3", "-std=c++17", "-Wno-psabi"],
    optional=True,
)

setup(ext_modules=[JPEG, KERNELS])
