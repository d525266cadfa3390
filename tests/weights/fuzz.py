"""Reads mutations of a file, each in a fork with little time and memory: python -m tests.weights.fuzz PATH COUNT KIND.

Prints {outcome: count} as JSON: "read", "refused" (one line), "hung" (ended by its deadline), "crashed" (by a signal),
"raised: ..." (anything else, which is a fault of ours). A fork has what was imported here, so that hundreds take
seconds; a user's file is read in a process of its own, for which hanging and crashing are errors of one line.
"""

import collections
import functools
import importlib
import json
import os
import resource
import signal
import sys
import tempfile
from pathlib import Path

import numpy as np

from inception_jax.errors import UserError
from inception_jax.weights import readers
from inception_jax.weights.readers import Limits, archives, child

PACKAGES = {"pytorch": ("torch",), "onnx": ("onnx", "onnx.helper", "onnx.numpy_helper")}
LIMITS = Limits(bytes=64 << 20, seconds=5, memory=512 << 20)
READ = {
    "npz": functools.partial(readers.read_dump, limits=LIMITS),
    "tar": lambda path: archives.unpack_checkpoint(path, Path(tempfile.mkdtemp(dir=path.parent)), LIMITS),
}


def mutations(data, count, seed=0):
    """Yields copies with a few bytes changed, runs zeroed, pieces cut, doubled or moved."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        new = bytearray(data)
        # Half of the changes are near the ends, where formats keep their headers and lists.
        places = [int(p) for p in rng.integers(len(new), size=rng.integers(1, 6))]
        places = [p if rng.random() < 0.5 else int(rng.choice([p % 512, len(new) - 1 - p % 512])) for p in places]
        how = rng.integers(5)
        for place in places:
            if how < 2:
                new[place] = rng.integers(256)
            elif how == 2:
                new[place] ^= 1 << int(rng.integers(8))
            elif how == 3:
                new[place : place + 8] = bytes([255 if rng.random() < 0.5 else 0]) * len(new[place : place + 8])
        if how == 4:
            a, b = sorted(places[:2] if len(places) > 1 else [0, places[0]])
            new = new[:b] if rng.random() < 0.3 else new[:a] + new[b:] if rng.random() < 0.5 else new[:b] + new[a:]
        yield bytes(new)


def outcome(read, path):
    """Returns what became of a file, read in a fork."""
    out, into = os.pipe()
    pid = os.fork()
    if not pid:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(2 * LIMITS.seconds)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
        try:
            read(path)
            said = "read"
        except UserError as error:
            said = "refused" if str(error).isprintable() else f"raised: {error!r}"
        except BaseException as error:
            said = f"raised: {type(error).__name__}"
        os.write(into, said.encode())
        os._exit(0)
    os.close(into)
    with os.fdopen(out) as answer:
        said = answer.read()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return said or ("hung" if code == -signal.SIGALRM else f"crashed by signal {-code}")


def main():
    path, count, kind = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    readers.read_apart = functools.partial(child.read, bounded=child.bounded_cost)
    for name in ("keras", "caffe", "npz", "safe", "frozen_graph", "torchscript"):
        importlib.import_module(f"inception_jax.weights.readers.{name}")
    for name in PACKAGES.get(kind, ()):
        importlib.import_module(name)
    read = READ.get(kind, functools.partial(readers.read_tensors, limits=LIMITS))
    assert outcome(read, path) == "read"
    counts = collections.Counter()
    mutated = path.with_name(f"mutated.{path.name}")
    for data in mutations(path.read_bytes(), count):
        mutated.write_bytes(data)
        found = outcome(read, mutated)
        counts[found] += 1
        if found.startswith(("raised", "crashed", "hung")) and os.environ.get("KEEP"):
            Path(os.environ["KEEP"], f"{sum(counts.values())}.{path.name}").write_bytes(data)
    print(json.dumps(counts))


if __name__ == "__main__":
    main()
