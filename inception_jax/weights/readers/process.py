"""Reads a file of others in a process of its own (`child`), which may crash, hang or run out of memory alone."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from inception_jax.errors import UserError
from inception_jax.weights.readers.budget import Limits
from inception_jax.weights.readers.formats import Format
from inception_jax.weights.readers.refusal import MissingPackage, Refused
from inception_jax.weights.readers.statement import Statement

CHILD = "inception_jax.weights.readers.child"
RAISES = {"missing": MissingPackage, "refused": Refused, "user": UserError, "failed": RuntimeError}


def read_apart(kind: Format, path: Path, limits: Limits) -> Iterator[str | tuple[str, np.ndarray] | Statement]:
    """Yields the name of the format that the file turned out to be of, its tensors, and its statement.

    Raises:
      MissingPackage, Refused, UserError, RuntimeError: what reading it raised there, or how that process ended.
    """
    command = [sys.executable, "-P", "-W", "ignore", "-m", CHILD, kind.name, str(path), json.dumps(limits)]
    with _running(command) as process:
        assert process.stdout is not None
        ended = False
        while not ended and (line := process.stdout.readline()):
            found = json.loads(line)
            failure = next((key for key in found if key in RAISES), None)
            if failure:
                raise RAISES[failure](found[failure])
            if "format" in found:
                yield found["format"]
            elif "end" in found:
                ended = True
                if found["end"]:
                    yield _statement(found["end"])
            else:
                yield found["name"], _array(process.stdout, found["shape"], np.dtype(found["dtype"]))
        if not ended:
            raise Refused(_last_words(process.wait(), limits))


@contextlib.contextmanager
def _running(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a command, and ends it in any case."""
    # It finds modules where this process does, but for the current folder, which may hold anything.
    root = str(Path(__file__).parents[3])
    places = os.pathsep.join([root, *(place for place in sys.path if place)])
    quiet = {"OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": places}
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | quiet,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def _array(file: IO[bytes], shape: list[int], dtype: np.dtype) -> np.ndarray:
    values = np.empty(math.prod(shape), dtype)
    place = values.view(np.uint8).data
    while place:
        count = file.readinto(place)  # type: ignore[attr-defined]  # of a pipe
        if not count:
            raise Refused("it cannot be read: its reader ended in the middle of a tensor")
        place = place[count:]
    return values.reshape(shape)


def _statement(fields: dict[str, Any]) -> Statement:
    """Returns the statement of these fields; JSON has lists where it has tuples."""
    given: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
    return Statement(**given)


def _last_words(code: int, limits: Limits) -> str:
    if code == -signal.SIGALRM:
        return f"reading it takes over {limits.seconds} seconds"
    how = f"signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"exit code {code}"
    return f"it cannot be read: the library that reads it ended with {how}"
