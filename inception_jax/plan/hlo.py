"""Parses the HLO text of a compiled program: instructions, arrays, collectives. Pure functions."""

from __future__ import annotations

import collections
import dataclasses
import math
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

COLLECTIVES = ("all-reduce", "reduce-scatter", "all-gather", "all-to-all", "ragged-all-to-all", "collective-permute")

_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?([\w.\-]+) = (.*)")
_OPCODE = re.compile(r"\s*([\w\-]+)(?=\()")
_ARRAY = re.compile(r"([a-z]+[0-9]*(?:e[0-9]+m[0-9]+\w*)?)\[([0-9,]*)\](?:\{([^}]*)\})?")
_NAME = re.compile(r"%([\w.\-]+)")
_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) \(")
_CALLS = re.compile(r"calls=%?([\w.\-]+)")
_NUMBER = re.compile(r"parameter\((\d+)\)")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_BRACKET = re.compile(r"[()]")
_TILE = re.compile(r"T\(([0-9,]+)\)")  # the outermost; further ones subdivide it
_TARGET = re.compile(r'custom_call_target="([^"]*)"')
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_ON_CHIP = re.compile(r"S\([1-9]")  # the memory space in a layout; HBM is number 0, which is omitted


class Array(NamedTuple):
    """An array: its bytes without and with the padding of its tiles, and whether it is in HBM or on the chip."""

    bytes: int
    padded: int
    in_hbm: bool


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One instruction of a computation.

    Attributes:
      name, opcode: as in the text.
      results: the arrays of its shape from left to right, with tuples flattened.
      operands: names of the instructions that it reads.
      target: of a custom call, else "".
      op_name: the path in the JAX program, such as "jit(step)/jvp(Net)/block/conv/conv_general_dilated"; "" if absent.
      calls: the computation of a fusion, else "".
      number: of a parameter, else None.
      cycles: that the compiler expects; 0 where it gives none, as for most instructions that are not fusions.
    """

    name: str
    opcode: str
    results: tuple[Array, ...]
    operands: tuple[str, ...]
    target: str
    op_name: str = ""
    calls: str = ""
    number: int | None = None
    cycles: int = 0


@dataclasses.dataclass(frozen=True)
class Collective:
    """All collectives of a kind: their number, and the bytes of their arrays on one device."""

    kind: str
    count: int
    bytes: int


class Module(NamedTuple):
    """A program: the instructions of its entry computation, and those of all computations by name."""

    entry: tuple[Instruction, ...]
    computations: dict[str, tuple[Instruction, ...]]


def parse(text: str) -> Module:
    """Parses the text of `jax.stages.Compiled.as_text()`.

    Raises:
      ValueError: it is not HLO with an entry computation.
    """
    entry, name, computations, instructions = None, "", dict[str, tuple[Instruction, ...]](), list[Instruction]()
    for line in text.splitlines():
        if line.startswith("}"):
            computations[name], instructions = tuple(instructions), []
        elif instruction := _read(line):
            instructions.append(instruction)
        elif head := _COMPUTATION.match(line):
            name = head[2]
            entry = name if head[1] else entry
    if entry is None:
        raise ValueError("The text has no ENTRY computation.")
    return Module(computations[entry], computations)


def collectives(module: Module) -> list[Collective]:
    """Returns the collectives of a program by kind, most bytes first.

    An asynchronous one counts where it starts, one in a loop once. Its bytes are those of its operands or its results,
    whichever are more: the result of an all-gather, the operand of a reduce-scatter; of an all-reduce both are equal.
    """
    found: dict[str, list[int]] = collections.defaultdict(list)
    for instructions in module.computations.values():
        results = {each.name: each.results for each in instructions}
        for each in instructions:
            kind = each.opcode.removesuffix("-start")
            if kind in COLLECTIVES:
                read = _sum(array for name in each.operands for array in results[name])
                written = _sum(each.results)
                if each.opcode.endswith("-start") and kind != "all-reduce":
                    written -= read  # the shape of such a start repeats the operands before the results
                found[kind].append(max(read, written))
    kinds = [Collective(kind, len(sizes), sum(sizes)) for kind, sizes in found.items()]
    return sorted(kinds, key=lambda each: -each.bytes)


def has_loops(module: Module) -> bool:
    """Returns whether a program has loops; the compiler's cost analysis counts one iteration of each."""
    return any(each.opcode == "while" for instructions in module.computations.values() for each in instructions)


def opcodes(module: Module, entry: bool = False) -> dict[str, int]:
    """Returns the number of instructions by opcode, most first, in all computations or in the entry alone."""
    computations = (module.entry,) if entry else module.computations.values()
    counts = collections.Counter(each.opcode for instructions in computations for each in instructions)
    return dict(counts.most_common())


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
    patterns = (_TARGET, _OP_NAME, _CALLS, _CYCLES)
    target, op_name, calls, cycles = (pattern.search(rest, close) for pattern in patterns)
    number = _NUMBER.match(rest, opcode.start(1))
    return Instruction(
        name=name,
        opcode=opcode[1],
        results=tuple(_arrays(rest[:end])),
        operands=tuple(_NAME.findall(rest[opcode.end() : close])),
        target=target[1] if target else "",
        op_name=op_name[1] if op_name else "",
        calls=calls[1] if calls else "",
        number=int(number[1]) if number else None,
        cycles=int(cycles[1]) if cycles else 0,
    )


def _closing(text: str, start: int) -> int:
    """Returns the index behind the parenthesis that closes the one at `start`."""
    depth = 0
    for bracket in _BRACKET.finditer(text, start):
        depth += 1 if bracket[0] == "(" else -1
        if depth == 0:
            return bracket.end()
    raise ValueError(f"a parenthesis never closes: {text[start : start + 80]}")


def _arrays(shape: str) -> Iterator[Array]:
    for dtype, dimensions, layout in _ARRAY.findall(shape):
        sizes, bits = [int(size) for size in dimensions.split(",") if size], _bits(dtype)
        padded = (_tiled(sizes, layout) * bits + 7) // 8
        yield Array((math.prod(sizes) * bits + 7) // 8, padded, not _ON_CHIP.search(layout))


def _tiled(sizes: list[int], layout: str) -> int:
    """Returns the elements of an array with padding; the layout "3,0,2,1:T(8,128)" tiles the minor dimensions."""
    order, _, details = layout.partition(":")
    tile = _TILE.search(details)
    minor = [sizes[int(number)] for number in order.split(",") if number]
    for axis, size in enumerate(reversed(tile[1].split(",")) if tile else ()):
        if axis < len(minor):
            minor[axis] = -(-minor[axis] // int(size)) * int(size)
        else:
            minor.append(int(size))
    return math.prod(minor) if order or not sizes else math.prod(sizes)


def _bits(dtype: str) -> int:
    """Returns the bits of an element of an XLA type such as "f32", "pred", "s4" or "f8e4m3fn"."""
    if dtype in ("pred", "token"):
        return 8 * (dtype == "pred")
    digits = re.match(r"[a-z]+(\d+)", dtype)
    if not digits:
        raise ValueError(f"{dtype!r} is not a type of XLA.")
    return int(digits[1])


def _sum(arrays: Iterable[Array]) -> int:
    return sum(array.bytes for array in arrays)
