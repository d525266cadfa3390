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


Bounded = Callable[[Limits], contextlib.AbstractContextManager[Any]]


def main() -> None:
    """Reads the file that the arguments name."""
    kind, path, limits = formats.named(sys.argv[1]), Path(sys.argv[2]), Limits(*json.loads(sys.argv[3]))
    # Libraries print to standard output: what they say goes nowhere.
    with os.fdopen(os.dup(1), "wb") as answer:
        os.dup2(2, 1)
        _answer(read(kind, path, limits, bounded_cost), answer)
        answer.flush()


def read(kind: formats.Format, path: Path, limits: Limits, bounded: Bounded = contextlib.nullcontext) -> Iterator[Any]:
    """Yields the name of the format that the file turns out to be of, its tensors, and its statement, if it makes one.

    Args:
      kind: its format as far as its first bytes tell.
      path: of the file.
      limits: of what it may cost.
      bounded: a context that ends this process, or fails, where the limits of time and memory are passed.
    """
    budget = Budget(limits)
    if kind is formats.ZIP:
        with bounded(limits):
            kind = archives.inner_format(path, budget)
    yield kind.name
    module = importlib.import_module(f"inception_jax.weights.readers.{kind.module}")
    if hasattr(module, "prepare"):
        module.prepare()  # a large library takes time and memory, which is no fault of the file
    with bounded(limits):
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
def bounded_cost(limits: Limits) -> Iterator[None]:
    """Ends this process after `limits.seconds`, and lets it take `limits.memory` more bytes than it has now."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # which ends it also while a library is busy
    signal.alarm(limits.seconds)
    old = hard = None
    with contextlib.suppress(OSError, NameError, ValueError):  # other systems do not bound it
        with open("/proc/self/statm", "rb") as file:
            now = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        old, hard = resource.getrlimit(resource.RLIMIT_AS)
        limit = now + limits.memory
        resource.setrlimit(resource.RLIMIT_AS, (limit if old == resource.RLIM_INFINITY else min(limit, old), hard))
    try:
        yield
    finally:
        signal.alarm(0)
        if old is not None and hard is not None:
            resource.setrlimit(resource.RLIMIT_AS, (old, hard))


if __name__ == "__main__":
    main()
