"""The process that reads one file of others: `python -m ... FORMAT PATH LIMITS`. Its answer goes to standard output.

A library in C may loop for ever on a damaged file, crash, or take all memory. Here that ends this process alone: an
alarm ends it at the deadline, whatever it is doing, and the system refuses memory beyond the limit.

The answer is a line of JSON for each tensor ({"name", "dtype", "shape"}) with the bytes of its values behind it, and a
last one: {"end": the statement}, or {kind of failure: words}.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from inception_jax.errors import UserError, first_line
from inception_jax.weights.readers import archives, formats
from inception_jax.weights.readers.budget import Budget, Limits
from inception_jax.weights.readers.collecting import numbers
from inception_jax.weights.readers.refusal import MissingPackage, Refused
from inception_jax.weights.readers.statement import Statement

with contextlib.suppress(ImportError):  # not on Windows
    import resource


Bounded = Callable[[int], contextlib.AbstractContextManager[Any]]


def main() -> None:
    """Reads the file that the arguments name."""
    kind, path, limits = formats.named(sys.argv[1]), Path(sys.argv[2]), Limits(*json.loads(sys.argv[3]))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(limits.seconds)
    # Libraries print to standard output: what they say goes nowhere.
    with os.fdopen(os.dup(1), "wb") as answer:
        os.dup2(2, 1)
        _answer(read(kind, path, limits, bounded_memory), answer)
        answer.flush()


def read(kind: formats.Format, path: Path, limits: Limits, bounded: Bounded = contextlib.nullcontext) -> Iterator[Any]:
    """Yields the name of the format that the file turns out to be of, its tensors, and its statement, if it makes one.

    Args:
      kind: its format as far as its first bytes tell.
      path: of the file.
      limits: of what it may cost.
      bounded: a context in which this process may take so many bytes more.
    """
    budget = Budget(limits)
    if kind is formats.ZIP:
        with bounded(limits.memory):
            kind = archives.inner_format(path, budget)
    yield kind.name
    module = importlib.import_module(f"inception_jax.weights.readers.{kind.module}")
    if hasattr(module, "prepare"):
        module.prepare()  # a large library maps much memory, which is no fault of the file
    with bounded(limits.memory):
        yield from numbers(module.read(path, budget))


def _answer(items: Iterator[Any], answer: IO[bytes]) -> None:
    end: dict[str, Any] = {}
    try:
        for item in items:
            if isinstance(item, str):
                _say(answer, {"format": item})
            elif isinstance(item, Statement):
                end = dataclasses.asdict(item)
            else:
                name, array = item
                values = np.ascontiguousarray(array)
                _say(answer, {"name": name, "dtype": values.dtype.str, "shape": array.shape})
                answer.write(values.reshape(-1).view(np.uint8).data)
        _say(answer, {"end": end})
    except MissingPackage as error:
        _say(answer, {"missing": str(error)})
    except Refused as error:
        _say(answer, {"refused": str(error)})
    except UserError as error:
        _say(answer, {"user": str(error)})
    except Exception as error:  # libraries raise whatever they like on damaged files
        _say(answer, {"failed": first_line(error)[:200]})


def _say(answer: IO[bytes], line: dict[str, Any]) -> None:
    answer.write(json.dumps(line).encode() + b"\n")


@contextlib.contextmanager
def bounded_memory(extra: int) -> Iterator[None]:
    """Lets this process take `extra` bytes more than it has now, where the system can bound it."""
    try:
        with open("/proc/self/statm", "rb") as file:
            now = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        old, hard = resource.getrlimit(resource.RLIMIT_AS)
    except (OSError, NameError):
        yield
        return
    limit = now + extra if old == resource.RLIM_INFINITY else min(now + extra, old)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (old, hard))


if __name__ == "__main__":
    main()
