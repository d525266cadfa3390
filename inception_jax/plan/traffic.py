"""What the steps of a compiled program move: in all, by layer, by kind. Pure functions."""

from __future__ import annotations

import collections
import re
from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeVar

from inception_jax.plan.hlo import COLLECTIVES, Array, Instruction, Module

NESTED = frozenset(("while", "conditional", "call", "async-start"))  # their bytes are those of other computations
NO_TRAFFIC = frozenset(
    ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "partition-id", "replica-id", "after-all")
)
NO_TRAFFIC_TARGETS = frozenset(("ConcatBitcast",))  # names a buffer that slices have filled
SLICES = ("slice", "dynamic-slice")
COUNTED = {"copy-start": 4, "slice-start": 3}  # how often XLA counts the bytes of one, in place of twice
KINDS = (  # a step is of the first kind of which it holds an operation
    ("convolution", ("convolution", "dot")),
    ("gradient of max pools", ("select-and-scatter",)),
    ("pool", ("reduce-window",)),
    ("copy beside other steps", ("copy-start", "slice-start")),
    ("collective", (*COLLECTIVES, *(f"{name}-start" for name in COLLECTIVES))),
    ("sum", ("reduce",)),
    ("concatenation", ("concatenate", "pad", "dynamic-update-slice")),
    ("slice, copy", (*SLICES, "copy", "transpose")),
    ("kernel of `models.tpu`", ("tpu_custom_call",)),
)

K = TypeVar("K")

_LAYER = re.compile(r"InceptionNet\)*/(\w+)")


class Traffic(NamedTuple):
    """What some steps of a program do.

    Attributes:
      steps: how many they are; a fusion is one.
      total, hbm: bytes that they read and write, in all memories and in HBM alone.
      counted: what XLA's "bytes accessed" makes of the total: of a copy that runs beside other steps twice as much, of
        a slice that does half more.
      cycles: that the compiler expects them to take; it says nothing of the gradients of max pools, nor of copies.
    """

    steps: int
    total: int
    hbm: int
    counted: int
    cycles: int


def traffic(module: Module) -> Traffic | None:
    """Returns what all steps of a program move; None if it has loops, branches or calls.

    A fusion is one step. It reads an operand once: whole, or the slices of it alone if it reads nothing else of it.
    """
    if any(each.opcode in NESTED for each in module.entry):
        return None
    return traffic_by(module, lambda each: "")[""]


def traffic_by(module: Module, key: Callable[[Instruction], K]) -> dict[K, Traffic]:
    """Returns what the steps of a program move, added up by what `key` makes of them, most first."""
    results = {each.name: each.results for each in module.entry}
    found: dict[K, list[Traffic]] = collections.defaultdict(list)
    for each in module.entry:
        arrays = [] if each.opcode in NESTED else _moved(each, results, module)
        if arrays:
            total = _held(arrays)
            hbm = _held(array for array in arrays if array.in_hbm)
            found[key(each)].append(Traffic(1, total, hbm, total * COUNTED.get(each.opcode, 2) // 2, each.cycles))
    sums = {name: Traffic(*map(sum, zip(*parts, strict=True))) for name, parts in found.items()}
    return dict(sorted(sums.items(), key=lambda each: -each[1].total))


def kind(module: Module, each: Instruction) -> str:
    """Returns what a step does, by the operations in it: "convolution", "pool", ... or "other"."""
    held = _opcodes(module, each)
    return next((name for name, opcodes in KINDS if held.intersection(opcodes)), "other")


def layer(op_name: str) -> str:
    """Returns the row of the network in what JAX called an operation: "inception_3a", "inception_3a, backward"."""
    found = _LAYER.search(op_name)
    if not found:
        return "other"
    return f"{found[1]}, backward" if "transpose(" in op_name else found[1]


def _opcodes(module: Module, each: Instruction) -> set[str]:
    inside = module.computations[each.calls] if each.opcode == "fusion" else ()
    name = each.target if each.opcode == "custom-call" else each.opcode
    return {name}.union(*(_opcodes(module, part) for part in inside))


def _moved(each: Instruction, results: dict[str, tuple[Array, ...]], module: Module) -> list[Array]:
    """Returns the arrays that a step reads and writes."""
    if each.opcode in NO_TRAFFIC or each.opcode.endswith("-done") or each.target in NO_TRAFFIC_TARGETS:
        return []
    operands = [array for name in each.operands for array in results[name]]
    match each.opcode:
        case "copy-start":  # (destination, source, context)
            return [each.results[0], *operands]
        case "slice-start":  # ((operands), slice, context): of an operand it reads the slice alone
            part = each.results[len(operands)]
            return [part, *(part._replace(in_hbm=operand.in_hbm) for operand in operands)]
        case "slice" | "dynamic-slice":
            return [*each.results, each.results[0]._replace(in_hbm=operands[0].in_hbm)]
        case "fusion":
            return [*each.results, *_read(each, results, module)]
    return [*each.results, *operands]


def _read(fusion: Instruction, results: dict[str, tuple[Array, ...]], module: Module) -> list[Array]:
    """Returns what a fusion reads of its operands."""
    read: list[Array] = []
    for number, name in enumerate(fusion.operands):
        whole = list(results[name])
        slices = _slices(module, fusion.calls, number)
        if slices is not None and _held(slices) < _held(whole):
            whole = [part._replace(in_hbm=whole[0].in_hbm) for part in slices]
        read += whole
    return read


def _slices(module: Module, computation: str, number: int) -> list[Array] | None:
    """Returns the slices that a computation takes of a parameter; None if it does anything else with it."""
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


def _held(arrays: Iterable[Array]) -> int:
    return sum(array.held for array in arrays)
