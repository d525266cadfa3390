"""Reads and writes what a checkpoint holds besides its arrays: its record and its metrics, each with a checksum.

Of a checkpoint in `checkpoints/<step>`:

| file | content |
|---|---|
| `meta/metadata` | the record: format, config, arrays with their checksums, metrics, and a checksum of these |
| `evaluation.json` | metrics of an evaluation after the save, with a checksum; they override those of the record |

Format 1 has no checksum of the record, and its metrics are in `metrics/metrics`.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any, TypeAlias

from inception_jax.errors import UserError, first_line, printable
from inception_jax.training.workdir import Folder, saved_steps, write_whole

FORMAT_VERSION = 2
OLD_FORMAT = 1  # without a checksum of the record
FIELDS = {"format_version", "config", "arrays", "checksums"}  # older records hold "next_image" too: it is not used
CHECKSUM = "checksum"
EVALUATION = "evaluation.json"
FIGURES = ("top1", "top5", "loss")  # what a summary gives of an evaluation

Metrics: TypeAlias = dict[str, float]

# Words in errors whose cause is the environment, not the file: device, memory, permission, disk or network.
_ENVIRONMENT_CODES = (
    "RESOURCE_EXHAUSTED", "PERMISSION_DENIED", "UNAUTHENTICATED", "UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED",
    "Unable to initialize backend", "Unknown backend", "Too many open files", "Cannot allocate memory",
)  # fmt: skip
_DAMAGE_CODES = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR)  # a file is missing, or a folder stands in its place


class DamagedCheckpoint(Exception):
    """A checkpoint is unreadable or differs from what was written."""


def sign(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `values`, which must be JSON, with a checksum of all of them added."""
    plain = json.loads(json.dumps(dict(values)))
    return plain | {CHECKSUM: _digest(plain)}


def read_record(path: Folder) -> dict[str, Any]:
    """Returns the record of the checkpoint in `path`, verified by its checksum.

    Raises:
      DamagedCheckpoint: the record is missing, incomplete or differs from what was written.
      UserError: its format is not supported, or the file cannot be read for reasons outside it.
    """
    record = _read_json(path / "meta" / "metadata", "its record")
    if CHECKSUM in record:
        _check_signature(record, "its record")
        if record.get("format_version") != FORMAT_VERSION:
            raise UserError(
                f"Checkpoint {printable(path)} has format {record.get('format_version')!r}; this version reads "
                f"{OLD_FORMAT} and {FORMAT_VERSION}."
            )
    elif record.get("format_version") != OLD_FORMAT:
        raise DamagedCheckpoint("its record has no checksum")
    if not record.keys() >= FIELDS:
        raise DamagedCheckpoint(f"its record lacks one of {', '.join(sorted(FIELDS))}")
    tables = [record[name] for name in ("config", "arrays", "checksums")]
    complete = all(isinstance(table, dict) for table in tables)
    if not complete or not record["arrays"].keys() >= record["checksums"].keys():
        raise DamagedCheckpoint("its record does not list its arrays")
    return record


def read_start(workdir: Folder) -> dict[str, Any] | None:
    """Returns what the run in `workdir` started from, by its last undamaged checkpoint; None if none records it."""
    for step in reversed(saved_steps(workdir)):
        try:
            record = read_record(workdir / "checkpoints" / str(step))
        except DamagedCheckpoint:
            continue
        return record.get("start")
    return None


def read_signed(path: Folder) -> dict[str, Any]:
    """Returns a JSON record that `sign` made, or one of an earlier version without a checksum.

    Raises:
      DamagedCheckpoint: it is missing or differs from what was written.
      UserError: the file cannot be read.
    """
    values = _read_json(path, path.name)
    if CHECKSUM in values:
        _check_signature(values, path.name)
    return values


def read_evaluation(path: Folder, record: Mapping[str, Any]) -> Metrics | None:
    """Returns the metrics of the checkpoint in `path`; None if it was not evaluated.

    Args:
      path: of the checkpoint.
      record: of the checkpoint.

    Raises:
      DamagedCheckpoint: the metrics differ from what was written.
      UserError: as `read_record`.
    """
    if (path / EVALUATION).exists():
        late = _read_json(path / EVALUATION, "its evaluation")
        _check_signature(late, "its evaluation")
        return dict(late["metrics"])
    if record["format_version"] != OLD_FORMAT:
        return record["metrics"]
    metrics = _read_json(path / "metrics" / "metrics", "its metrics")
    if not metrics or not all(isinstance(value, (int, float)) for value in metrics.values()):
        raise DamagedCheckpoint("its metrics are no numbers")
    return metrics if math.isfinite(score(metrics)) else None


def write_evaluation(path: Folder, metrics: Mapping[str, float]) -> None:
    """Adds the metrics of a late evaluation to the complete checkpoint in `path`.

    Raises:
      UserError: the file cannot be written.
    """
    write_whole(path / EVALUATION, (json.dumps(sign({"metrics": dict(metrics)})) + "\n").encode())


def deciding(metrics: Mapping[str, float]) -> str:
    """Returns which evaluation picks the best checkpoint: "eval_ema" (of averaged parameters) if there, or "eval"."""
    return "eval_ema" if "eval_ema/top1" in metrics else "eval"


def score(metrics: Mapping[str, float] | None) -> float:
    """Returns the figure by which checkpoints are compared: the top-1 accuracy of the `deciding` evaluation.

    Without an evaluation, or if the accuracy is not finite, it is -infinity.
    """
    value = (metrics or {}).get(f"{deciding(metrics or {})}/top1", -math.inf)
    return value if math.isfinite(value) else -math.inf


def best_step(metrics: Mapping[int, Mapping[str, float] | None]) -> int:
    """Returns the step of the best checkpoint, the last one of equals and if none was evaluated.

    Args:
      metrics: of each checkpoint by step; None where it was not evaluated.
    """
    return max(metrics, key=lambda step: (score(metrics[step]), step))


def read_error(error: Exception, path: Folder) -> Exception:
    """Returns the error to raise for `error`, which a library raised while it read the checkpoint in `path`.

    It is a `DamagedCheckpoint` only if nothing points to the environment, because a user may delete a checkpoint that
    is called damaged. Otherwise it is a `UserError`. Out-of-memory errors are returned unchanged.
    """
    causes = list(_causes(error))
    if any(isinstance(each, MemoryError) or "RESOURCE_EXHAUSTED" in str(each) for each in causes):
        return error
    outside: list[BaseException] = [
        each for each in causes if isinstance(each, OSError) and each.errno and each.errno not in _DAMAGE_CODES
    ]
    outside += [each for each in causes if any(code in str(each) for code in _ENVIRONMENT_CODES)]
    if outside:
        last = outside[-1]
        why = last.strerror if isinstance(last, OSError) and last.strerror else first_line(last)
        return UserError(f"Checkpoint {printable(path)} cannot be read: {why}.")
    return DamagedCheckpoint(root_cause(error))


def root_cause(error: BaseException) -> str:
    """Returns the first line of the root cause of an error; "no space left on the disk" for a full disk."""
    first = list(_causes(error))[-1]
    text = first_line(first)
    if "No space left" in text or (isinstance(first, OSError) and first.errno == errno.ENOSPC):
        return "no space left on the disk"
    return text[:200].rstrip(".")


def _causes(error: BaseException) -> list[BaseException]:
    """Returns an error and its chain of causes, the root cause last."""
    found = [error]
    while (cause := found[-1].__cause__) is not None and cause not in found:
        found.append(cause)
    return found


def _read_json(path: Folder, what: str) -> dict[str, Any]:
    try:
        content = path.read_bytes()
    except OSError as error:
        if error.errno in _DAMAGE_CODES or isinstance(error, FileNotFoundError):
            raise DamagedCheckpoint(f"{what} is missing") from error
        raise UserError(f"{printable(path)} cannot be read: {error.strerror or error}.") from error
    try:
        values = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DamagedCheckpoint(f"{what} cannot be parsed") from error
    if not isinstance(values, dict):
        raise DamagedCheckpoint(f"{what} is no record")
    return values


def _check_signature(values: Mapping[str, Any], what: str) -> None:
    rest = {name: value for name, value in values.items() if name != CHECKSUM}
    if values.get(CHECKSUM) != _digest(rest):
        raise DamagedCheckpoint(f"{what} read back changed")


def _digest(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
