"""The process that reads one third-party file: `python -m ... FORMAT PATH LIMITS`. It answers on standard output.

A C library may loop for ever on a damaged file, crash, or take all memory. Here that ends only this process: an alarm
kills it at the deadline, and the operating system refuses memory beyond the limit.

The answer is a line of JSON for each tensor ({"name", "dtype", "shape"}), followed by the bytes of its values, and a
last line: {"end": the statement}, or {kind of failure: message}.
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
    # Libraries print to standard output; this goes to standard error instead, which nobody reads.
    with os.fdopen(os.dup(1), "wb") as answer:
        os.dup2(2, 1)
        _answer(read(kind, path, limits, bounded_cost), answer)
        answer.flush()


def read(kind: formats.Format, path: Path, limits: Limits, bounded: Bounded = contextlib.nullcontext) -> Iterator[Any]:
    """Yields the name of the actual format of the file, its tensors, and its statement, if it makes one.

    Args:
      kind: the format by the first bytes.
      path: of the file.
      limits: of time and memory.
      bounded: a context that ends this process, or raises, when a limit of time or memory is exceeded.
    """
    budget = Budget(limits)
    if kind is formats.ZIP:
        with bounded(limits):
            kind = archives.inner_format(path, budget)
    yield kind.name
    module = importlib.import_module(f"inception_jax.weights.readers.{kind.module}")
    if hasattr(module, "prepare"):
        module.prepare()  # importing a large library must not count against the limits of the file
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
    """Kills this process after `limits.seconds`, and lets it allocate at most `limits.memory` more bytes."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # the default action kills it, also inside a C library
    signal.alarm(limits.seconds)
    old = hard = None
    with contextlib.suppress(OSError, NameError, ValueError):  # not on Linux: memory is not bounded
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
