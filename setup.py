"""Builds the two extensions: JPEG regions in C, and native ops in C++.

Both are optional: if a compiler, a header or a library is missing, the package is installed without that extension and
runs slower. With INCEPTION_JAX_REQUIRE_NATIVE=1, as in CI, the build fails instead.
"""

import importlib.metadata
import importlib.util
import os
from pathlib import Path

from setuptools import Extension, setup

REQUIRED = os.environ.get("INCEPTION_JAX_REQUIRE_NATIVE", "") not in ("", "0")


def _sources(folder: str, pattern: str) -> list[str]:
    return sorted(str(path) for path in Path(folder).glob(pattern))


def _jaxlib() -> tuple[list[str], str]:
    """Returns the folders of XLA's headers, and the version of the jaxlib they belong to."""
    found = importlib.util.find_spec("jaxlib")
    headers = Path(found.origin).parent / "include" if found and found.origin else None
    if headers is not None and (headers / "xla" / "ffi" / "api" / "ffi.h").is_file():
        return [str(headers)], importlib.metadata.version("jaxlib")
    if REQUIRED:
        raise SystemExit("INCEPTION_JAX_REQUIRE_NATIVE is set, but jaxlib and its headers are not installed.")
    return [], "none"  # then the compiler names the missing header, and the extension is left out


HEADERS, VERSION = _jaxlib()
JPEG_REGIONS = Extension(
    "inception_jax.data._jpeg",
    _sources("inception_jax/data/native", "*.c"),
    depends=_sources("inception_jax/data/native", "*.h"),
    libraries=["jpeg"],
    extra_compile_args=["-O3"],
    optional=not REQUIRED,
)
NATIVE_OPS = Extension(
    "inception_jax.ops._native",
    ["inception_jax/ops/csrc/module.cc"],
    depends=[*_sources("inception_jax/ops/csrc", "*.h"), *(f"{each}/xla/ffi/api/c_api.h" for each in HEADERS)],
    include_dirs=HEADERS,
    define_macros=[("JAXLIB_VERSION", f'"{VERSION}"')],
    extra_compile_args=["-O3", "-std=c++17", "-Wno-psabi"],
    optional=not REQUIRED,
)

setup(ext_modules=[JPEG_REGIONS, NATIVE_OPS])
