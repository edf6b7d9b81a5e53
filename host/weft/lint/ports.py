"""Memory accesses per clock of pipelined loops, against the ports that the partitioning gives.

Inner loops count as unrolled. A dimension that is partitioned, or reshaped into one word, takes
any number of accesses; in every other one each different address takes a port. Branches exclude
each other. Local arrays whose every index is fixed once loops are unrolled are registers: the
tool's own partitioning, which is on by default, makes them so.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from typing import Any

from weft.lint.accesses import Memory, Usage, Walker
from weft.lint.findings import Finding
from weft.lint.names import lookup, value_of
from weft.lint.parse import Node
from weft.lint.pragmas import Words
from weft.lint.reach import Function, Program
from weft.lint.symbols import Frame, Place, Symbol

# (reads, writes, both together) in a clock
_PORTS = {"ram_1p": (1, 1, 1), "ram_s2p": (1, 1, 2), "rom_1p": (1, 0, 1), "rom_2p": (2, 0, 2)}
_PLAIN = (2, 2, 2)
_BUS = (1, 1, 2)


@dataclass
class Layout:
    """Partitioned dimensions (0: all) and storage of memories, from the pragmas."""

    dims: dict[Memory, set[int]] = field(default_factory=lambda: defaultdict(set))
    storage: dict[Memory, str] = field(default_factory=dict)

    def is_split(self, root: Any, fields: tuple[str, ...], dim: int) -> bool:
        """Whether a dimension has ports of its own for each index.

        All dimensions of an array of structs (dim = 0) are those of its members' arrays, too.
        """
        outer = (self.dims.get((root.hash, fields[:n]), set()) for n in range(len(fields)))
        if any(0 in dims for dims in outer):
            return True
        return bool({0, dim} & self.dims.get((root.hash, fields), set()))


def check(program: Program) -> Iterator[Finding]:
    """Findings of this file's rule."""
    found: list[Finding] = []
    layout = _layout(program)

    def judge(function: Function, loop: Node, usage: Usage, ii: int) -> None:
        roots = {p.root.hash: p for places in usage.places.values() for p in places.values()}
        for memory in sorted({memory for memory, _ in usage.places}, key=str):
            place = _any_place(usage, memory) or roots[memory[0]]
            reads = _count(usage, (memory, "r"), layout, walker.turns)
            writes = _count(usage, (memory, "w"), layout, walker.turns)
            ports = _ports(program, layout, usage, memory, place)
            if ports is None or _fit(reads, writes, ports, ii):
                continue
            text = (
                f"{reads} reads and {writes} writes of {place.name} per turn of the loop in "
                f"{function.name}, at II={ii}: {_say(ports)} a clock"
            )
            found.append(function.finding(loop, "memory-ports", text))

    walker = Walker(program, judge)
    walker.run(program.top, Frame(program.top), None)
    yield from found


def _layout(program: Program) -> Layout:
    layout = Layout()
    for function in program.functions.values():
        for pragma, block in function.pragmas:
            words = Words(pragma.text)
            named = lookup(function, words.options.get("variable", ""), block, pragma.offset)
            if named is None:
                continue
            key = (named.root.hash, named.fields)
            kind = words.options.get("type", "").lower()
            if words.name in ("ARRAY_PARTITION", "ARRAY_RESHAPE") and kind == "complete":
                dim = value_of(function, words.options.get("dim", "1"))
                layout.dims[key].add(1 if dim is None else dim)
            if words.name == "BIND_STORAGE":
                layout.storage[key] = kind
    return layout


def _any_place(usage: Usage, memory: Memory) -> Place | None:
    for (where, _), places in usage.places.items():
        if where == memory:
            return next(iter(places.values()))
    return None


def _count(usage: Usage, key: tuple[Memory, str], layout: Layout, turns: dict[int, int]) -> int:
    """Accesses in a turn to the part of a memory that has most: different addresses, each once."""
    banks: dict[tuple[str, ...] | None, dict[tuple[str, ...], int]] = defaultdict(dict)
    for place in usage.places.get(key, {}).values():
        split: list[Symbol] = []
        rest: list[Symbol] = []
        for fields, dim, index in place.indices:
            (split if layout.is_split(place.root, fields, dim) else rest).append(index)
        absorbed = frozenset().union(*(index.turns for index in split))
        spread = frozenset().union(*(index.turns for index in rest)) - absorbed
        fixed = all(index.fixed and not index.turns for index in split)
        bank = tuple(index.text for index in split) if fixed and split else None
        address = tuple(index.text for index in rest)
        banks[bank][address] = prod(turns[loop] for loop in spread)
    everywhere = banks.pop(None, {})
    return max(
        (sum({**everywhere, **bank}.values()) for bank in banks.values()),
        default=sum(everywhere.values()),
    )


def _ports(
    program: Program, layout: Layout, usage: Usage, memory: Memory, place: Place
) -> tuple[int, int, int] | None:
    """(reads, writes, both) in a clock; None for what has no ports, because it is registers."""
    split = layout.is_split
    if all(split(place.root, fields, dim) for fields, dim, _ in place.indices):
        return None
    if place.root.hash in {p.cursor.hash for p in program.top.parameters}:
        return _BUS
    static = place.root.storage_class.name == "STATIC"
    accesses = [p for how in "rw" for p in usage.places.get((memory, how), {}).values()]
    if not static and all(index.fixed for p in accesses for _, _, index in p.indices):
        return None
    return _PORTS.get(layout.storage.get(memory, ""), _PLAIN)


def _fit(reads: int, writes: int, ports: tuple[int, int, int], ii: int) -> bool:
    most_reads, most_writes, most = (ii * count for count in ports)
    return reads <= most_reads and writes <= most_writes and reads + writes <= most


def _say(ports: tuple[int, int, int]) -> str:
    reads, writes, both = ports
    return f"{reads} + {writes}" if both == reads + writes else f"{both} in all"
