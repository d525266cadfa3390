"""Checks, before anything compiles, that all processes of a run have the same devices, code, config and data."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import jax

from inception_jax.errors import UserError
from inception_jax.parallel.processes import check_devices, check_same, describe_process, exchange, is_main, together
from inception_jax.training.config import TrainConfig, flatten
from inception_jax.training.experiment import Experiment, check_platform, prepare
from inception_jax.training.preview import warn
from inception_jax.training.workdir import LOCK, Folder, locked, saved_steps
from inception_jax.version import __version__

SEEN_WITHIN = 10  # seconds that a shared file system may take to show a new file


def prepare_together(config: TrainConfig, workdir: Folder) -> Experiment:
    """Returns `prepare(config, workdir)`, after checking that every process got the same result.

    Raises:
      UserError: as `prepare`, naming the process where it happened; or the processes differ in devices, versions,
        code, config, data or saved steps. A process on the wrong platform raises it alone, because the others may still
        wait for its devices; `faults.leave` ends them.
    """
    check_platform(config.platform)
    if jax.process_count() == 1:
        experiment = prepare(config, workdir)
        warn(experiment)
        return experiment
    versions = {"inception_jax": __version__} | {name: version(name) for name in ("jax", "jaxlib", "flax")}
    print(f"{describe_process()}; {', '.join(f'{name} {number}' for name, number in versions.items())}", flush=True)
    check_devices()
    experiment = together(lambda: prepare(config, workdir))
    source = experiment.train_source
    names = hashlib.sha256("\n".join(source.class_names).encode("utf-8", "surrogateescape")).hexdigest()[:12]
    data = {
        "training images": len(source),
        "evaluation images": len(experiment.eval_source),
        "classes": f"{len(source.class_names)}, names {names}",
    }
    settings = {f"config.{name}": value for name, value in flatten(config.model_dump(mode="json"))}
    check_same({**versions, "code": _code(), **data, "saved steps": saved_steps(workdir), **settings})
    if is_main():
        warn(experiment)
    return experiment


def _code() -> str:
    """Returns a digest of the source of this package."""
    folder = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


@contextlib.contextmanager
def claimed(workdir: Folder) -> Iterator[None]:
    """Keeps other runs out of `workdir`, by a lock of process 0, and checks that every process sees that folder.

    Raises:
      UserError: another run holds the lock, or a process sees a different folder under this name.
    """
    with contextlib.ExitStack() as stack:
        together(lambda: stack.enter_context(locked(workdir)) if is_main() else None)
        owner = exchange((workdir / LOCK).read_text() if is_main() else "")[0]
        together(lambda: _check_shared(workdir / LOCK, owner))
        yield


def _check_shared(lock: Folder, owner: str) -> None:
    deadline = time.monotonic() + SEEN_WITHIN
    while not lock.exists() or lock.read_text() != owner:
        if time.monotonic() > deadline:
            raise UserError(
                f"workdir {lock.parent} is another folder here than for process 0 ({owner}): all processes write "
                "checkpoints into one folder, on a file system that they share."
            )
        time.sleep(0.1)
