"""What the text of a compiled program says of its collectives and of the bytes that it moves. Pure functions."""

from __future__ import annotations

import collections
import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

COLLECTIVES = ("all-reduce", "reduce-scatter", "all-gather", "all-to-all", "ragged-all-to-all", "collective-permute")
NO_TRAFFIC = frozenset(
    ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "partition-id", "replica-id", "after-all")
)
NESTED = frozenset(("while", "conditional", "call", "async-start"))  # their bytes are those of other computations
NO_TRAFFIC_TARGETS = frozenset(("ConcatBitcast",))  # names a buffer that slices have filled

_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?([\w.\-]+) = (.*)")
_OPCODE = re.compile(r"\s*([\w\-]+)(?=\()")
_ARRAY = re.compile(r"([a-z]+[0-9]*(?:e[0-9]+m[0-9]+\w*)?)\[([0-9,]*)\](?:\{([^}]*)\})?")
_NAME = re.compile(r"%([\w.\-]+)")
_BRACKET = re.compile(r"[()]")
_TILE = re.compile(r"T\(([0-9,]+)\)")  # the first; further ones divide it
_TARGET = re.compile(r'custom_call_target="([^"]*)"')
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_ON_CHIP = re.compile(r"S\([1-9]")  # a memory space in a layout; HBM is number 0, which is not written


class Array(NamedTuple):
    """An array of a shape: its bytes, those it takes in memory with its tiles filled up, and where it lies."""

    bytes: int
    held: int
    in_hbm: bool


@dataclasses.dataclass(frozen=True)
class Instruction:
    """A line of a computation.

    Attributes:
      name, opcode: of it.
      results: the arrays of its shape from left to right; a tuple is flat.
      operands: names of the instructions that it reads.
      target: of a custom call, else empty.
      op_name: what JAX called it: "jit(step)/jvp(Net)/block/conv/conv_general_dilated"; empty where it says nothing.
    """

    name: str
    opcode: str
    results: tuple[Array, ...]
    operands: tuple[str, ...]
    target: str
    op_name: str = ""


@dataclasses.dataclass(frozen=True)
class Collective:
    """All collectives of a kind: how many, and the bytes of their arrays on one device."""

    kind: str
    count: int
    bytes: int


class Traffic(NamedTuple):
    """Bytes that a device reads and writes: in all memories, and in HBM alone."""

    total: int
    hbm: int


class Module(NamedTuple):
    """A program: the instructions that it begins with, and those of all its computations."""

    entry: tuple[Instruction, ...]
    computations: tuple[tuple[Instruction, ...], ...]


def parse(text: str) -> Module:
    """Reads `Compiled.as_text()`.

    Raises:
      ValueError: it is no HLO with an entry.
    """
    entry, computations, instructions, in_entry = None, [], list[Instruction](), False
    for line in text.splitlines():
        if line.startswith("}"):
            computations.append(tuple(instructions))
            entry = computations[-1] if in_entry else entry
            instructions, in_entry = [], False
        elif instruction := _read(line):
            instructions.append(instruction)
        else:
            in_entry = in_entry or line.startswith("ENTRY ")
    if entry is None:
        raise ValueError("The text has no ENTRY computation.")
    return Module(entry, tuple(computations))


def collectives(module: Module) -> list[Collective]:
    """Returns the collectives of a program by kind, most bytes first.

    An asynchronous one counts where it starts. Its bytes are those that go in or come out, whichever are more: of an
    all-reduce the array, of an all-gather the result, of a reduce-scatter the operand. One in a loop counts once.
    """
    found: dict[str, list[int]] = collections.defaultdict(list)
    for instructions in module.computations:
        results = {each.name: each.results for each in instructions}
        for each in instructions:
            kind = each.opcode.removesuffix("-start")
            if kind in COLLECTIVES:
                given = _sum(array for name in each.operands for array in results[name])
                taken = _sum(each.results)
                if each.opcode.endswith("-start") and kind != "all-reduce":
                    taken -= given  # the shape of such a start repeats the operands before the results
                found[kind].append(max(given, taken))
    kinds = [Collective(kind, len(sizes), sum(sizes)) for kind, sizes in found.items()]
    return sorted(kinds, key=lambda each: -each.bytes)


def has_loops(module: Module) -> bool:
    """Returns whether a program runs a part of itself several times, of which the compiler's counts hold one."""
    return any(each.opcode == "while" for instructions in module.computations for each in instructions)


def traffic(module: Module) -> Traffic | None:
    """Returns the operands and results of all steps of a program; None if it has loops, branches or calls.

    It is what XLA's "bytes accessed" counts: a fusion is one step, whose operands are read once and whole.
    """
    if any(each.opcode in NESTED for each in module.entry):
        return None
    results = {each.name: each.results for each in module.entry}
    arrays = [array for each in module.entry for array in _moved(each, results)]
    return Traffic(sum(array.held for array in arrays), sum(array.held for array in arrays if array.in_hbm))


def traffic_by(module: Module, key: Callable[[str], str]) -> dict[str, int]:
    """Returns the bytes that the steps of a program read and write, added up by what `key` makes of their `op_name`."""
    results = {each.name: each.results for each in module.entry}
    sums: dict[str, int] = collections.defaultdict(int)
    for each in module.entry:
        if each.opcode not in NESTED:
            sums[key(each.op_name)] += sum(array.held for array in _moved(each, results))
    return {name: size for name, size in sums.items() if size}


def opcodes(module: Module, entry: bool = False) -> dict[str, int]:
    """Returns how often each opcode occurs, most often first: in all computations, or among the steps alone."""
    computations = (module.entry,) if entry else module.computations
    counts = collections.Counter(each.opcode for instructions in computations for each in instructions)
    return dict(counts.most_common())


def _moved(each: Instruction, results: dict[str, tuple[Array, ...]]) -> list[Array]:
    """Returns the arrays that an instruction reads and writes."""
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
    return [*each.results, *operands]


def _read(line: str) -> Instruction | None:
    found = _INSTRUCTION.match(line)
    if not found:
        return None
    name, rest = found.groups()
    end = _closing(rest, 0) if rest.startswith("(") else rest.index(" ")
    opcode = _OPCODE.match(rest, end)
    if not opcode:
        return None
    close = _closing(rest, opcode.end())
    target, op_name = _TARGET.search(rest, close), _OP_NAME.search(rest, close)
    return Instruction(
        name=name,
        opcode=opcode[1],
        results=tuple(_arrays(rest[:end])),
        operands=tuple(_NAME.findall(rest[opcode.end() : close])),
        target=target[1] if target else "",
        op_name=op_name[1] if op_name else "",
    )


def _closing(text: str, start: int) -> int:
    """Returns where the parenthesis that opens at `start` has closed."""
    depth = 0
    for bracket in _BRACKET.finditer(text, start):
        depth += 1 if bracket[0] == "(" else -1
        if depth == 0:
            return bracket.end()
    raise ValueError(f"a parenthesis never closes: {text[start : start + 80]}")


def _arrays(shape: str) -> Iterator[Array]:
    for dtype, dimensions, layout in _ARRAY.findall(shape):
        sizes, bits = [int(size) for size in dimensions.split(",") if size], _bits(dtype)
        held = (_tiled(sizes, layout) * bits + 7) // 8
        yield Array((math.prod(sizes) * bits + 7) // 8, held, not _ON_CHIP.search(layout))


def _tiled(sizes: list[int], layout: str) -> int:
    """Returns the elements of an array of a layout such as "3,0,2,1:T(8,128)": its minor dimensions fill up tiles."""
    order, _, details = layout.partition(":")
    tile = _TILE.search(details)
    minor = [sizes[int(axis)] for axis in order.split(",") if axis]
    for place, size in enumerate(reversed(tile[1].split(",")) if tile else ()):
        if place < len(minor):
            minor[place] = -(-minor[place] // int(size)) * int(size)
        else:
            minor.append(int(size))
    return math.prod(minor) if order or not sizes else math.prod(sizes)


def _bits(dtype: str) -> int:
    """Returns the bits of an element of "f32", "pred", "s4", "f8e4m3fn" or another type of XLA."""
    if dtype in ("pred", "token"):
        return 8 * (dtype == "pred")
    digits = re.match(r"[a-z]+(\d+)", dtype)
    if not digits:
        raise ValueError(f"{dtype!r} is no type of XLA.")
    return int(digits[1])


def _sum(arrays: Iterable[Array]) -> int:
    return sum(array.bytes for array in arrays)
