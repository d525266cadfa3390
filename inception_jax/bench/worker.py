"""An engine in a process of its own, so that frameworks do not share thread pools or memory.

The process lives as long as its `Worker`. It handles one request after the other, and sleeps in between.
"""

from __future__ import annotations

import importlib
import multiprocessing
import multiprocessing.connection
import os
import resource
import traceback
from pathlib import Path
from typing import Any

from inception_jax.bench.timing import turn
from inception_jax.errors import UserError

# XLA reserves three quarters of a GPU's memory by default. Engines keep their memory while others have their turn.
SHARED_MEMORY = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.4"}
KIB = 1 if os.uname().sysname == "Darwin" else 1024  # the unit of ru_maxrss


class Worker:
    """A process that holds one engine; `stop`, or the end of its context, ends it.

    Args:
      name: of the engine.
      factory: "module:function" that creates the engine in the process.
      arguments: of that function.
      threads: CPU cores that the process may use; None: all.
      cache: folder for compiled programs.

    Raises:
      UserError: the engine is not installed, or refuses its arguments.
    """

    def __init__(self, name: str, factory: str, arguments: tuple[Any, ...], threads: int | None, cache: Path):
        self.name = name
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, name, threads, str(cache)), daemon=True)
        self._process.start()
        theirs.close()
        try:
            self.ask(factory, *arguments)
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def ask(self, method: str, *arguments: Any) -> Any:
        """Calls a method of the engine and returns its result.

        Two methods are not the engine's: "turn" is `timing.turn` of its calls, "peak" the peak memory of the process in
        bytes.

        Raises:
          UserError: the engine raised one, or its process ended.
          RuntimeError: any other error of the engine, with its traceback.
        """
        self._pipe.send((method, arguments))
        try:
            kind, value = self._pipe.recv()
        except (EOFError, ConnectionError) as error:
            self._process.join(10)
            code = self._process.exitcode
            raise UserError(f"The process of {self.name} ended with exit code {code}: out of memory?") from error
        if kind == "refused":
            raise UserError(f"{self.name}: {value}")
        if kind == "failed":
            raise RuntimeError(f"{self.name} failed:\n{value}")
        return value

    def stop(self) -> None:
        """Ends the process."""
        self._pipe.close()
        self._process.join(10)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _serve(pipe: multiprocessing.connection.Connection, name: str, threads: int | None, cache: str) -> None:
    """Answers requests until the pipe is closed; the first request creates the engine.

    `prepare_process` comes before the first unpickling, which may import a framework.
    """
    engine: Any = None
    answer: Any
    while True:
        try:
            if engine is None:
                prepare_process(name, threads, Path(cache))
            method, arguments = pipe.recv()
            if engine is None:
                module, _, function = method.partition(":")
                engine, answer = getattr(importlib.import_module(module), function)(*arguments), None
            elif method == "turn":
                answer = turn(engine.call, *arguments)
            elif method == "peak":
                answer = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB
            else:
                answer = getattr(engine, method)(*arguments)
            pipe.send(("done", answer))
        except EOFError:
            return
        except UserError as error:
            pipe.send(("refused", str(error)))
        except BaseException:
            pipe.send(("failed", traceback.format_exc()))


def prepare_process(name: str, threads: int | None, cache: Path) -> None:
    """Sets what a framework reads at its import: CPU affinity, memory fraction, compilation cache."""
    from inception_jax.bench.engines import framework

    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if threads and cores:
        if threads > len(cores):
            raise UserError(f"threads is {threads}; this machine has {len(cores)} cores.")
        os.sched_setaffinity(0, cores[:threads])
    for variable, value in SHARED_MEMORY.items():
        os.environ.setdefault(variable, value)
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache / "torch")
    if framework(name) == "torch":
        os.environ["JAX_PLATFORMS"] = "cpu"  # this package imports JAX, which must not use the GPU here
        return
    from inception_jax.training.compilation import use_compilation_cache

    use_compilation_cache(str(cache / "jax"))
