"""The contract of every device: golden, csim, and the boards to come pass the same tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from weft.program import Program, Rows


@dataclass(frozen=True)
class RunResult:
    """What one run of a segment took; `counters` are those of `weft.estimate`."""

    cycles: int
    wall_s: float
    counters: Mapping[str, int]


class Device(Protocol):
    """A place that runs accelerator segments.

    Activation memory is `program.memory_rows` rows of `lanes` int8. Methods raise DeviceError
    with the status of the hardware, DeviceTimeout when `timeout_s` has passed.
    """

    name: str

    def load(self, program: Program) -> None:
        """Takes a program's instructions and weights; forgets the one before."""

    def write(self, row: int, data: Rows) -> None:
        """Copies `data` [rows, lanes] to activation memory from `row` on."""

    def run(self, segment: int, batch: int, timeout_s: float | None = None) -> RunResult:
        """Runs segment number `segment` of the program on `batch` samples."""

    def read(self, row: int, rows: int) -> Rows:
        """A copy of `rows` rows of activation memory from `row` on."""

    def close(self) -> None:
        """Gives back what the device holds; a closed device can't be used again."""
