"""Compiles programs for TPU slices that are not there: libtpu's compiler runs on a CPU."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import time
from collections.abc import Mapping

import jax
from jax.experimental import topologies

from inception_jax.errors import UserError, first_line
from inception_jax.plan.chips import Slice

# Compiling uses no chip: no metadata server is asked, no lock of a running job stands in the way, no notes on stderr.
ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TPU_MIN_LOG_LEVEL": "3",
}


class TooLarge(Exception):
    """The compiler refused a program because it needs more HBM than a device has; the message is the compiler's."""


@dataclasses.dataclass(frozen=True)
class Program:
    """What the compiler says of a program, for one device.

    Attributes:
      flops, bytes_accessed: of one run, by XLA's cost analysis.
      memory: bytes of HBM by kind: arguments, outputs, aliased (outputs in the place of arguments), temporaries, code.
      text: HLO after all passes.
      seconds: that the compiler took.
    """

    flops: float
    bytes_accessed: float
    memory: Mapping[str, int]
    text: str
    seconds: float


def check_installed() -> None:
    """Raises a `UserError` if there is no compiler for TPUs."""
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            "Compiling for TPUs needs libtpu, which is not installed: pip install inception_jax[tpu]. It needs no TPU."
        )


def devices(part: Slice) -> list[jax.Device]:
    """Returns the devices of a slice, which compile and run nothing.

    Raises:
      UserError: libtpu is not installed, or refuses the slice.
    """
    check_installed()
    os.environ.update({name: os.environ.get(name, value) for name, value in ENVIRONMENT.items()})
    options = dict(part.chip.options)
    if part.chips == 1:
        options["chips_per_host_bounds"] = (1, 1, 1)
    try:
        return list(topologies.get_topology_desc(part.name, "tpu", **options).devices)
    except jax.errors.JaxRuntimeError as error:
        raise UserError(f"libtpu refuses the topology {part.name!r}: {first_line(error)}.") from error


def compile_for_tpu(traced: jax.stages.Traced, options: Mapping[str, str] | None = None) -> Program:
    """Compiles a traced program for the devices of its shardings, with these options of the compiler.

    Raises:
      TooLarge: it does not fit into their memory.
      UserError: the compiler knows no such option, or no such value of it.
    """
    lowered = traced.lower(lowering_platforms=("tpu",))
    start = time.monotonic()
    try:
        compiled = lowered.compile(compiler_options=dict(options or {}))
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" in str(error):
            raise TooLarge(first_line(error)) from error
        if "INVALID_ARGUMENT" in str(error) and options:
            raise UserError(f"libtpu refuses the options {dict(options)}: {first_line(error)}.") from error
        raise
    seconds = time.monotonic() - start
    cost, memory = compiled.cost_analysis(), compiled.memory_analysis()
    return Program(
        flops=cost["flops"],
        bytes_accessed=cost["bytes accessed"],
        memory={
            "arguments": memory.argument_size_in_bytes,
            "outputs": memory.output_size_in_bytes,
            "aliased": memory.alias_size_in_bytes,
            "temporaries": memory.temp_size_in_bytes,
            "code": memory.generated_code_size_in_bytes,
        },
        text=compiled.as_text(),
        seconds=seconds,
    )
