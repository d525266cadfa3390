"""Reads a third-party file in a separate process (`child`), which may crash, hang or run out of memory."""

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
from typing import IO

import numpy as np

from inception_jax.errors import UserError
from inception_jax.weights.readers.budget import Limits
from inception_jax.weights.readers.formats import Format
from inception_jax.weights.readers.refusal import MissingPackage, Refused
from inception_jax.weights.readers.statement import Statement

CHILD = "inception_jax.weights.readers.child"
RAISES = {"missing": MissingPackage, "refused": Refused, "user": UserError, "failed": RuntimeError}


def read_apart(kind: Format, path: Path, limits: Limits) -> Iterator[str | tuple[str, np.ndarray] | Statement]:
    """Yields the name of the actual format of the file, its tensors, and its statement.

    Raises:
      MissingPackage, Refused, UserError, RuntimeError: the exception in that process, or the way it ended.
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
                    yield Statement.of_json(found["end"])
            else:
                yield found["name"], _array(process.stdout, found["shape"], np.dtype(found["dtype"]))
        if not ended:
            raise Refused(_last_words(process.wait(), limits))


@contextlib.contextmanager
def _running(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a command for the duration of the block, then kills it."""
    # It searches modules where this process does, except in the current folder, which is not trusted.
    root = str(Path(__file__).parents[3])
    folders = os.pathsep.join([root, *(folder for folder in sys.path if folder)])
    quiet = {"OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": folders}
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
    missing = values.view(np.uint8).data
    while missing:
        count = file.readinto(missing)  # type: ignore[attr-defined]  # of a pipe
        if not count:
            raise Refused("it cannot be read: its reader ended in the middle of a tensor")
        missing = missing[count:]
    return values.reshape(shape)


def _last_words(code: int, limits: Limits) -> str:
    if code == -signal.SIGALRM:
        return f"reading it takes over {limits.seconds} seconds"
    how = f"signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"exit code {code}"
    return f"it cannot be read: the library that reads it ended with {how}"
