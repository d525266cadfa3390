"""Compiles programs for TPU slices without a TPU: libtpu's compiler runs on a CPU."""

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

# Compiling uses no chip: do not ask the metadata server, ignore the lock of a running job, log errors only.
ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TPU_MIN_LOG_LEVEL": "3",
}


class TooLarge(Exception):
    """A program needs more HBM than a device has; the message is the compiler's."""


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled program; figures are of one device and one run.

    Attributes:
      flops, bytes_accessed: from XLA's cost analysis.
      memory: bytes of HBM by kind: "arguments", "outputs", "aliased" (outputs that reuse buffers of donated arguments),
        "temporaries", "code".
      text: HLO after all passes.
      seconds: of compilation.
    """

    flops: float
    bytes_accessed: float
    memory: Mapping[str, int]
    text: str
    seconds: float


def check_installed() -> None:
    """Raises a `UserError` if libtpu is not installed."""
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            "Compiling for TPUs needs libtpu, which is not installed: pip install inception_jax[tpu]. It needs no TPU."
        )


def devices(topology: Slice) -> list[jax.Device]:
    """Returns the devices of a slice, for compilation only.

    Raises:
      UserError: libtpu is not installed, or refuses the slice.
    """
    check_installed()
    os.environ.update({name: os.environ.get(name, value) for name, value in ENVIRONMENT.items()})
    options = dict(topology.chip.options)
    if topology.chips == 1:
        options["chips_per_host_bounds"] = (1, 1, 1)
    try:
        return list(topologies.get_topology_desc(topology.name, "tpu", **options).devices)
    except jax.errors.JaxRuntimeError as error:
        raise UserError(f"libtpu refuses the topology {topology.name!r}: {first_line(error)}.") from error


def compile_for_tpu(traced: jax.stages.Traced, options: Mapping[str, str] | None = None) -> Program:
    """Compiles a traced program for the devices of its shardings.

    Args:
      traced: the program.
      options: of the compiler, by name.

    Raises:
      TooLarge: it does not fit into the memory of a device.
      UserError: the compiler does not know an option, or refuses its value.
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
