"""Downloads: one file over HTTP, files of the Hugging Face hub, and the configs of its repositories. No JAX."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from inception_jax.lazy import submodule, submodules

if not TYPE_CHECKING:  # a type checker finds modules by itself, and would take any name for one

    def __getattr__(name: str) -> Any:
        return submodule(__name__, name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *submodules(__name__)})
