"""The two extensions in C and C++; what an extension needs and the machine lacks leaves it out."""

import importlib.util
from pathlib import Path

from setuptools import Extension, setup

JAXLIB = importlib.util.find_spec("jaxlib")
JPEG = Extension(
    "inception_jax.data._jpeg",
    [str(path) for path in Path("inception_jax/data/native").glob("*.c")],
    depends=[str(path) for path in Path("inception_jax/data/native").glob("*.h")],
    libraries=["jpeg"],
    extra_compile_args=["-O3"],
    optional=True,
)
KERNELS = Extension(
    "inception_jax.models._kernels",
    ["inception_jax/models/kernels/module.cc"],
    depends=[str(path) for path in Path("inception_jax/models/kernels").glob("*.h")],
    include_dirs=[str(Path(JAXLIB.origin).parent / "include")] if JAXLIB and JAXLIB.origin else [],
    extra_compile_args=["-O3", "-std=c++17", "-Wno-psabi"],
    optional=True,
)

setup(ext_modules=[JPEG, KERNELS])
