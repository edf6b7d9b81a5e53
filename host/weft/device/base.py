"""The contract of every device: golden, csim, and the boards to come pass the same tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from weft import isa
from weft.adjust import Registers
from weft.errors import DeviceError
from weft.program import AcceleratorSegment, Program, Rows


@dataclass(frozen=True)
class RunResult:
    """What one run of a segment took; `counters` are those of `weft.estimate`."""

    cycles: int
    wall_s: float
    counters: Mapping[str, int]


class Device(Protocol):
    """A place that runs accelerator segments.

    Every segment fills what it needs on chip: nothing there is kept from one run to the next.

    Activation memory is `program.memory_rows` rows of `lanes` int8. Methods raise DeviceError
    with the status of the hardware, DeviceTimeout when `timeout_s` has passed.
    """

    name: str

    def load(self, program: Program) -> None:
        """Takes a program's instructions and weights; forgets the one before."""

    def write(self, row: int, data: Rows) -> None:
        """Copies `data` [rows, lanes] to activation memory from `row` on."""

    def run(
        self,
        segment: int,
        batch: int,
        timeout_s: float | None = None,
        registers: Registers = (0, 0),
    ) -> RunResult:
        """Runs segment number `segment` of the program on `batch` samples.

        `registers` are what its Adjusts refer to (docs/isa.md): tokens, position, origin, source.
        """

    def read(self, row: int, rows: int) -> Rows:
        """A copy of `rows` rows of activation memory from `row` on."""

    def close(self) -> None:
        """Gives back what the device holds; a closed device can't be used again."""


def rows_of(memory: Rows, row: int, rows: int) -> Rows:
    """A view of `rows` rows of a device's activation memory; DeviceError where it has none."""
    if row < 0 or rows < 0 or row + rows > len(memory):
        raise DeviceError(
            f"rows {row}..{row + rows - 1} lie outside activation memory, which has {len(memory)}"
        )
    return memory[row : row + rows]


def segment_of(program: Program, segment: int) -> AcceleratorSegment:
    """Segment number `segment`; DeviceError if there is none, or it belongs to the host."""
    if not 0 <= segment < len(program.segments):
        raise DeviceError(f"no segment {segment} in {program.name!r}: {len(program.segments)}")
    found = program.segments[segment]
    if not isinstance(found, AcceleratorSegment):
        raise DeviceError(f"segment {segment} of {program.name!r} runs on the host")
    return found


def where(program: Program, segment: int, number: int) -> str:
    """Instruction `number` of a segment, as messages name it, with its layer."""
    code = segment_of(program, segment)
    if number >= len(code.words):
        return f"segment {segment}, end"
    opcode = int(code.words[number][0])
    name = isa.INSTRUCTIONS[opcode].name if opcode in isa.INSTRUCTIONS else f"opcode {opcode}"
    layer = int(code.layers[number]) if number < len(code.layers) else -1
    known = f", layer {program.layers[layer].name!r}" if 0 <= layer < len(program.layers) else ""
    return f"segment {segment}, instruction {number} ({name}{known})"
