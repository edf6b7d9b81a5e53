"""The golden device: numpy, the living definition of the instruction set."""

from __future__ import annotations

import time
from dataclasses import asdict

import numpy as np

from weft import isa
from weft.device.base import RunResult
from weft.errors import DeviceError, DeviceTimeout
from weft.program import AcceleratorSegment, Program, Rows
from weft.units import BY_OPCODE
from weft.units.state import COUNTERS, ISSUE_CLOCKS, FaultError, Fields, State


class Golden:
    """Runs the encoded instructions one after another on numpy arrays."""

    name = "golden"

    def __init__(self) -> None:
        self._program: Program | None = None
        self._state: State | None = None

    def load(self, program: Program) -> None:
        """Takes a program; on-chip memories start as zeros."""
        memory = np.zeros((program.memory_rows, program.overlay.lanes), np.int8)
        self._program = program
        self._state = State(program.overlay, memory, program.weights)

    def write(self, row: int, data: Rows) -> None:
        """Copies rows to activation memory."""
        self._loaded()[1].memory[row : row + len(data)] = data

    def read(self, row: int, rows: int) -> Rows:
        """A copy of rows of activation memory."""
        return self._loaded()[1].memory[row : row + rows].copy()

    def run(self, segment: int, batch: int, timeout_s: float | None = None) -> RunResult:
        """Runs one segment; DeviceError names the instruction that is at fault."""
        program, state = self._loaded()
        code = program.segments[segment]
        assert isinstance(code, AcceleratorSegment), "host segments don't run on a device"
        start = time.perf_counter()
        counters = dict.fromkeys(COUNTERS, 0)
        before: Fields = {}
        for number, words in enumerate(code.words):
            kind, fields = isa.decode(words)
            if kind is isa.BARRIER:
                counters["issue"] += ISSUE_CLOCKS
                break
            try:
                before = self._execute(state, kind, fields, batch, before, counters)
            except FaultError as fault:
                layer = program.layers[code.layers[number]].name
                raise DeviceError(
                    f"instruction {number} ({kind.name}, layer {layer!r}): {fault}"
                ) from fault
            if timeout_s is not None and time.perf_counter() - start > timeout_s:
                raise DeviceTimeout(
                    f"golden: {number + 1} of {len(code.words)} instructions in {timeout_s} s; "
                    "allow more time, or use the csim device"
                )
        state.finish()
        wall = time.perf_counter() - start
        return RunResult(sum(counters.values()), wall, counters)

    def close(self) -> None:
        """Forgets the program."""
        self._program = self._state = None

    @staticmethod
    def _execute(
        state: State,
        kind: isa.Instruction,
        fields: Fields,
        batch: int,
        before: Fields,
        counters: dict[str, int],
    ) -> Fields:
        """Runs one instruction, adds its clocks, returns what Activate needs to know of it."""
        if state.pending and kind is not isa.ACTIVATE:
            raise FaultError(6)
        unit = BY_OPCODE[kind.opcode]
        unit.golden(state, fields, batch)
        for name, clocks in asdict(unit.clocks(fields, state.overlay, batch, before)).items():
            counters[name] += clocks
        if kind is isa.ACTIVATE:
            return {**before, **fields}
        return fields if kind in (isa.MAT_MUL, isa.VECTOR) else before

    def _loaded(self) -> tuple[Program, State]:
        if self._program is None or self._state is None:
            raise DeviceError("golden: no program is loaded; call load(program) first")
        return self._program, self._state
