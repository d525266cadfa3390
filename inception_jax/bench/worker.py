"""An engine in a process of its own: the thread pools of frameworks, and their memory, do not meet.

The process lives from `start` to `stop` and does what it is asked one thing after the other; meanwhile all others wait.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import resource
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inception_jax.errors import UserError

if TYPE_CHECKING:
    from inception_jax.bench.case import Case

# XLA takes three quarters of a GPU's memory by default; other engines keep their part while it is not their turn.
SHARED_MEMORY = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.4"}
KIB = 1 if os.uname().sysname == "Darwin" else 1024  # the unit of ru_maxrss


class Worker:
    """A process that holds one engine.

    Args:
      name: of the engine.
      case: that it runs.
      folder: with its weights.
      cache: folder where the engine keeps what it compiles.
    """

    def __init__(self, name: str, case: Case, folder: Path, cache: Path):
        self.name = name
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        arguments = (theirs, name, case, folder, cache)
        self._process = context.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        theirs.close()
        try:
            self._receive()
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def ask(self, method: str, *arguments: Any) -> Any:
        """Returns what a method of `_Session` gives.

        Raises:
          UserError: of the engine.
          RuntimeError: with the trace of any other error there, or the process ended.
        """
        self._pipe.send((method, arguments))
        return self._receive()

    def stop(self) -> None:
        """Ends the process."""
        self._pipe.close()
        self._process.join(10)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _receive(self) -> Any:
        try:
            kind, value = self._pipe.recv()
        except (EOFError, ConnectionError) as error:
            self._process.join(10)
            raise UserError(
                f"The process of {self.name} ended with exit code {self._process.exitcode}: out of memory?"
            ) from error
        if kind == "refused":
            raise UserError(f"{self.name}: {value}")
        if kind == "failed":
            raise RuntimeError(f"{self.name} failed:\n{value}")
        return value


class _Session:
    """What a worker can be asked."""

    def __init__(self, name: str, case: Case, folder: Path):
        from inception_jax.bench import engines

        self._engine = engines.create(name, case, folder)

    def build(self) -> dict[str, float]:
        return self._engine.build(_clock())

    def outputs(self) -> dict[str, Any]:
        return self._engine.outputs()

    def ceilings(self) -> dict[str, float]:
        return self._engine.ceilings(_clock())

    def turn(self, seconds: float) -> list[float]:
        from inception_jax.bench.timing import turn

        return turn(self._engine.call, seconds, _clock())

    def facts(self) -> dict[str, Any]:
        facts = self._engine.facts()
        memory = {"process_peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB}
        return facts | {"memory": memory | facts["memory"]}


def _clock() -> Any:
    import time

    return time.perf_counter


def _serve(pipe: multiprocessing.connection.Connection, name: str, case: Case, folder: Path, cache: Path) -> None:
    """Answers questions until the pipe is closed."""
    try:
        prepare_process(name, case.threads, cache)
        session = _Session(name, case, folder)
        pipe.send(("ready", None))
        while True:
            method, arguments = pipe.recv()
            pipe.send(("done", getattr(session, method)(*arguments)))
    except EOFError:
        pass
    except UserError as error:
        pipe.send(("refused", str(error)))
    except BaseException:
        pipe.send(("failed", traceback.format_exc()))


def prepare_process(name: str, threads: int | None, cache: Path) -> None:
    """Sets what a framework reads when it is imported: cores, memory, the folder of compiled programs."""
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
        os.environ["JAX_PLATFORMS"] = "cpu"  # our tables import JAX, which must leave the GPU alone
        return
    from inception_jax.training.compilation import use_compilation_cache

    use_compilation_cache(str(cache / "jax"))
