"""How long XLA compiled, and what the persistent cache saved."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

import jax

COMPILE = "/jax/core/compile/backend_compile_duration"
HIT, MISS = "/jax/compilation_cache/cache_hits", "/jax/compilation_cache/cache_misses"


def use_compilation_cache(folder: str) -> None:
    """Keeps compiled programs in `folder`, for later runs to load; call it before anything compiles."""
    jax.config.update("jax_compilation_cache_dir", str(Path(folder).expanduser().absolute()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


class CompilationLog:
    """Counts compilations, and their seconds, between entering and leaving."""

    def __init__(self):
        self.seconds, self.hits, self.misses = 0.0, 0, 0
        self.compilations: list[str] = []

    def __enter__(self) -> CompilationLog:
        jax.monitoring.register_event_duration_secs_listener(self._on_duration)
        jax.monitoring.register_event_listener(self._on_event)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        jax.monitoring.unregister_event_duration_listener(self._on_duration)
        jax.monitoring.unregister_event_listener(self._on_event)

    def __str__(self) -> str:
        return f"{self.seconds:.1f} s (cache: {self.hits} hits, {self.misses} misses)"

    def _on_duration(self, event: str, seconds: float, **details: Any) -> None:
        if event == COMPILE:
            self.seconds += seconds
            self.compilations.append(str(details.get("fun_name")))

    def _on_event(self, event: str, **_details: Any) -> None:
        self.hits += event == HIT
        self.misses += event == MISS
