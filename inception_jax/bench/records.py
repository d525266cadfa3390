"""What a measurement leaves behind: a row of benchmarks/results/*.jsonl. A comparison without its checks is no row."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic

from inception_jax.errors import UserError, printable
from inception_jax.paths import check_output, check_regular, user_path
from inception_jax.version import __version__

ENGINES = "engines"  # the key of `Row.figures` with the compared engines by name

# Prefixes of environment variables that change speed.
FLAGS = (
    "XLA_FLAGS", "XLA_PYTHON", "LIBTPU_INIT", "JAX_DEFAULT_MATMUL", "JAX_PLATFORMS", "KERAS_BACKEND", "TF_ENABLE",
    "OMP_", "KMP_", "GOMP_", "MKL_", "ONEDNN_", "TORCH", "CUDA_", "CUDNN_", "CUBLAS_", "NVIDIA_TF32",
)  # fmt: skip
PLACES = ("DIR", "HOME", "PATH")  # suffixes of variables that hold a path of this machine

Text = Annotated[str, pydantic.Field(min_length=1)]
Finite = Annotated[float, pydantic.Field(allow_inf_nan=False)]


class _Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")


class Hardware(_Strict):
    """The machine: processor, cores, bytes of memory, and its load when the measurement started."""

    cpu: Text
    cores: Annotated[int, pydantic.Field(ge=1)]
    memory: Annotated[int, pydantic.Field(ge=0)]
    accelerators: tuple[str, ...]
    system: Text
    load_average: Finite  # of the last minute

    def __str__(self) -> str:
        devices = ", ".join(self.accelerators)
        return f"{devices}; {self.cores} cores of {self.cpu}" if devices else f"{self.cores} cores of {self.cpu}"


class Check(_Strict):
    """The comparison of one output of two engines; a difference above the tolerance is not valid."""

    engine: Text
    reference: Text
    what: Text
    max_abs_difference: Finite
    tolerance: Annotated[Finite, pydantic.Field(ge=0)]
    largest_value: Finite  # of the reference

    @pydantic.model_validator(mode="after")
    def _within(self) -> Check:
        if not 0 <= self.max_abs_difference <= self.tolerance:
            raise ValueError(
                f"{self.what} of {self.engine} and {self.reference} differ by {self.max_abs_difference:g}; "
                f"at most {self.tolerance:g} is allowed"
            )
        return self


class Row(_Strict):
    """A measurement. If it compares engines, `figures["engines"]` holds them by name, and checks must connect them all.

    Attributes:
      schema_version: of these fields.
      command: that repeats the measurement.
      hardware, date: where and when it was made.
      versions: of every package that affects speed or output.
      flags: options of XLA, JAX, PyTorch and the environment; threads.
      figures: what was measured.
      outputs_compared: comparisons of outputs, made before the timing.
      note: a remark for the reader.
    """

    schema_version: Literal[1] = 1
    command: Text
    hardware: Hardware
    date: datetime.date
    versions: Annotated[dict[str, Text], pydantic.Field(min_length=1)]
    flags: dict[str, Any] = pydantic.Field(default_factory=dict)
    figures: Annotated[dict[str, Any], pydantic.Field(min_length=1)]
    outputs_compared: tuple[Check, ...] = ()
    note: str = ""

    @pydantic.model_validator(mode="after")
    def _compared(self) -> Row:
        engines = self.figures.get(ENGINES, {})
        if not isinstance(engines, Mapping):
            raise ValueError(f"figures.{ENGINES} must hold figures by the name of an engine")
        compared = {frozenset((check.engine, check.reference)) for check in self.outputs_compared}
        tied = _tied(set(engines), compared)
        if missing := sorted(set(engines) - tied):
            raise ValueError(f"the outputs of {', '.join(missing)} were compared with nothing (outputs_compared)")
        return self


class OldRow(pydantic.BaseModel):
    """A row from before there was a schema: the hardware as text, and any other fields."""

    model_config = pydantic.ConfigDict(frozen=True, extra="allow")

    command: Text
    hardware: str
    date: datetime.date
    versions: dict[str, str]
    figures: dict[str, Any]


def check(path: str | os.PathLike) -> None:
    """Makes the folder of a file of rows and checks that rows can be appended; call it before a long measurement.

    Raises:
      UserError: they cannot.
    """
    path = user_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            check_regular(path)
        else:
            check_output(path, overwrite=False)
        if path.exists() and not os.access(path, os.W_OK):
            raise UserError(f"{printable(path)} is not writable.")
    except OSError as error:
        raise UserError(f"{printable(path)}: {error.strerror}.") from error


def append(path: str | os.PathLike, row: Row | Mapping[str, Any]) -> Row:
    """Appends a row to a file, and returns it; a mapping is validated first.

    Raises:
      UserError: the row is not valid, or the file cannot be written.
    """
    row = row if isinstance(row, Row) else parse(row)
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with Path(path).open("a") as file:
            file.write(json.dumps(row.model_dump(mode="json"), allow_nan=False) + "\n")
    except OSError as error:
        raise UserError(f"{os.fspath(path)}: {error.strerror}.") from error
    return row


def read(path: str | os.PathLike) -> list[Row | OldRow]:
    """Returns the rows of a file in order.

    Raises:
      UserError: the file cannot be read, or a line is not a row; the message gives its number.
    """
    try:
        lines = Path(path).read_text().splitlines()
    except OSError as error:
        raise UserError(f"{os.fspath(path)}: {error.strerror}.") from error
    rows: list[Row | OldRow] = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(parse(json.loads(line)))
        except ValueError as error:
            raise UserError(f"{os.fspath(path)}, line {number}: {error}") from error
    return rows


def parse(fields: Mapping[str, Any]) -> Any:
    """Returns a `Row`, or an `OldRow` if there is no `schema_version` and the hardware is text.

    Raises:
      UserError: the fields are neither; the message names every fault.
    """
    old = "schema_version" not in fields and isinstance(fields.get("hardware"), str)
    try:
        return (OldRow if old else Row).model_validate(dict(fields))
    except pydantic.ValidationError as invalid:
        raise UserError("No valid row: " + "; ".join(map(_fault, invalid.errors())) + ".") from invalid


def find_hardware(accelerators: Iterable[str] | None = None) -> Hardware:
    """Returns this machine.

    Args:
      accelerators: names of those in use; None: the GPUs that nvidia-smi lists.
    """
    return Hardware(
        cpu=_cpu(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        accelerators=tuple(_gpus() if accelerators is None else accelerators),
        system=f"{platform.system()} {platform.machine()}",
        load_average=round(os.getloadavg()[0], 2),
    )


def find_versions(*packages: str) -> dict[str, str]:
    """Returns the versions of Python, this package and the given packages, without those that are not installed."""
    versions = {"python": platform.python_version(), "inception_jax": __version__}
    for name in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def find_flags() -> dict[str, str]:
    """Returns the environment variables that change speed, without paths."""
    found = {name: value for name, value in sorted(os.environ.items()) if name.startswith(FLAGS)}
    return {name: value for name, value in found.items() if not name.endswith(PLACES)}


def _tied(engines: set[str], compared: set[frozenset[str]]) -> set[str]:
    """Returns the engines that comparisons connect to the first, directly or through others."""
    tied = {min(engines)} if engines else set()
    while more := {name for pair in compared if pair & tied for name in pair} - tied:
        tied |= more
    return tied


def _fault(error: Mapping[str, Any]) -> str:
    where = ".".join(map(str, error["loc"]))
    message = error["msg"].removeprefix("Value error, ")
    return f"{where}: {message}" if where else message


def _cpu() -> str:
    """Returns the model of the processor and its vector extensions."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    name = fields.get("model name") or fields.get("CPU part") or platform.machine()
    units = [unit for unit in ("avx2", "avx512f", "amx_bf16") if unit in fields.get("flags", "").split()]
    return f"{name} ({', '.join(units)})" if units else name


def _gpus() -> list[str]:
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [" (driver ".join(part.strip() for part in line.split(",")) + ")" for line in done.stdout.splitlines()]
