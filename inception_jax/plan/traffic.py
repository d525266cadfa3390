"""Bytes that the steps of a compiled program read and write: in total, by layer, by kind. Pure functions."""

from __future__ import annotations

import collections
import re
from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeVar

from inception_jax.plan.hlo import COLLECTIVES, Array, Instruction, Module

NESTED = frozenset(("while", "conditional", "call", "async-start"))  # their bytes belong to other computations
NO_TRAFFIC = frozenset(
    ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "partition-id", "replica-id", "after-all")
)
NO_TRAFFIC_TARGETS = frozenset(("ConcatBitcast",))  # gives a name to a buffer that slices have filled
SLICES = ("slice", "dynamic-slice")
COUNTED = {"copy-start": 4, "slice-start": 3}  # how many times XLA counts the bytes of one copy, instead of twice
KINDS = (  # a step has the first kind of which it contains an opcode
    ("convolution", ("convolution", "dot")),
    ("gradient of max pools", ("select-and-scatter",)),
    ("pool", ("reduce-window",)),
    ("asynchronous copy", ("copy-start", "slice-start")),
    ("collective", (*COLLECTIVES, *(f"{name}-start" for name in COLLECTIVES))),
    ("sum", ("reduce",)),
    ("concatenation", ("concatenate", "pad", "dynamic-update-slice")),
    ("slice, copy", (*SLICES, "copy", "transpose")),
    ("Pallas kernel", ("tpu_custom_call",)),
)

K = TypeVar("K")

_LAYER = re.compile(r"InceptionNet\)*/(\w+)")


class Traffic(NamedTuple):
    """The traffic of some steps of a program.

    Attributes:
      steps: their number; a fusion is one step.
      total, hbm: bytes that they read and write, in all memories and in HBM alone.
      counted: the same total as XLA's "bytes accessed" counts it: an asynchronous copy twice as much, an asynchronous
        slice one and a half times.
      cycles: that the compiler expects; it gives none for gradients of max pools, copies and Pallas kernels.
    """

    steps: int
    total: int
    hbm: int
    counted: int
    cycles: int


def traffic(module: Module) -> Traffic | None:
    """Returns the traffic of all steps of a program; None if it has loops, branches or calls.

    A fusion is one step. It reads each operand once: only slices, if it uses nothing else of it, otherwise all.
    """
    if any(each.opcode in NESTED for each in module.entry):
        return None
    return traffic_by(module, lambda each: "")[""]


def traffic_by(module: Module, key: Callable[[Instruction], K]) -> dict[K, Traffic]:
    """Returns the traffic of the steps of a program, grouped by `key(step)`, most bytes first."""
    results = {each.name: each.results for each in module.entry}
    found: dict[K, list[Traffic]] = collections.defaultdict(list)
    for each in module.entry:
        arrays = [] if each.opcode in NESTED else _moved(each, results, module)
        if arrays:
            total = _padded(arrays)
            hbm = _padded(array for array in arrays if array.in_hbm)
            found[key(each)].append(Traffic(1, total, hbm, total * COUNTED.get(each.opcode, 2) // 2, each.cycles))
    sums = {name: Traffic(*map(sum, zip(*steps, strict=True))) for name, steps in found.items()}
    return dict(sorted(sums.items(), key=lambda each: -each[1].total))


def kind(module: Module, each: Instruction) -> str:
    """Returns the kind of a step by the opcodes in it: "convolution", "pool", ... or "other"."""
    contained = _opcodes(module, each)
    return next((name for name, opcodes in KINDS if contained.intersection(opcodes)), "other")


def layer(op_name: str) -> str:
    """Returns the row of the network in an `op_name`: "inception_3a", "inception_3a, backward" or "other"."""
    found = _LAYER.search(op_name)
    if not found:
        return "other"
    return f"{found[1]}, backward" if "transpose(" in op_name else found[1]


def _opcodes(module: Module, each: Instruction) -> set[str]:
    inside = module.computations[each.calls] if each.opcode == "fusion" else ()
    name = each.target if each.opcode == "custom-call" else each.opcode
    return {name}.union(*(_opcodes(module, inner) for inner in inside))


def _moved(each: Instruction, results: dict[str, tuple[Array, ...]], module: Module) -> list[Array]:
    """Returns the arrays that a step reads and writes."""
    if each.opcode in NO_TRAFFIC or each.opcode.endswith("-done") or each.target in NO_TRAFFIC_TARGETS:
        return []
    operands = [array for name in each.operands for array in results[name]]
    match each.opcode:
        case "copy-start":  # (destination, source, context)
            return [each.results[0], *operands]
        case "slice-start":  # ((operands), slice, context): it reads only the slice of an operand
            piece = each.results[len(operands)]
            return [piece, *(piece._replace(in_hbm=operand.in_hbm) for operand in operands)]
        case "slice" | "dynamic-slice":
            return [*each.results, each.results[0]._replace(in_hbm=operands[0].in_hbm)]
        case "fusion":
            return [*each.results, *_read(each, results, module)]
    return [*each.results, *operands]


def _read(fusion: Instruction, results: dict[str, tuple[Array, ...]], module: Module) -> list[Array]:
    """Returns the arrays, or slices of them, that a fusion reads."""
    read: list[Array] = []
    for number, name in enumerate(fusion.operands):
        whole = list(results[name])
        slices = _slices(module, fusion.calls, number)
        if slices is not None and _padded(slices) < _padded(whole):
            whole = [each._replace(in_hbm=whole[0].in_hbm) for each in slices]
        read += whole
    return read


def _slices(module: Module, computation: str, number: int) -> list[Array] | None:
    """Returns the slices that a computation takes of a parameter; None if it also uses it otherwise."""
    instructions = module.computations[computation]
    (name,) = (each.name for each in instructions if each.number == number)
    taken: list[Array] = []
    for each in instructions:
        if name not in each.operands:
            continue
        if each.opcode in SLICES:
            taken += each.results
        elif each.opcode == "fusion":
            inside = _slices(module, each.calls, each.operands.index(name))
            if inside is None:
                return None
            taken += inside
        else:
            return None
    return taken


def _padded(arrays: Iterable[Array]) -> int:
    return sum(array.padded for array in arrays)
