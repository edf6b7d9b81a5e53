"""The golden device: numpy, the living definition of the instruction set."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict

import numpy as np

from weft import isa
from weft.adjust import Adjuster, Registers, check_registers
from weft.device.base import RunResult, rows_of, segment_of, where
from weft.errors import DeviceError, DeviceTimeout, ProgramError
from weft.program import AcceleratorSegment, Program, Rows
from weft.state import COUNTERS, ISSUE_CLOCKS, FaultError, Fields, State
from weft.units import BY_OPCODE

Watch = Callable[[State, int, int, Fields, int], None]


class Golden:
    """Runs the encoded instructions one after another on numpy arrays.

    `watch(state, layer, number, fields, batch)` is called before each MatMul, which is instruction
    `number` of its segment and part of the program's layer `layer`. It may not change the state.
    """

    name = "golden"

    def __init__(self, watch: Watch | None = None) -> None:
        self._program: Program | None = None
        self._watch = watch
        self._state: State | None = None

    def load(self, program: Program) -> None:
        """Takes a program; on-chip memories start as zeros."""
        memory = np.zeros((program.memory_rows, program.overlay.lanes), np.int8)
        self._program = program
        self._state = State(program.overlay, memory, program.weights)

    def write(self, row: int, data: Rows) -> None:
        """Copies rows to activation memory."""
        rows_of(self._loaded()[1].memory, row, len(data))[:] = data

    def read(self, row: int, rows: int) -> Rows:
        """A copy of rows of activation memory."""
        return rows_of(self._loaded()[1].memory, row, rows).copy()

    def run(
        self,
        segment: int,
        batch: int,
        timeout_s: float | None = None,
        registers: Registers = (0, 0),
    ) -> RunResult:
        """Runs one segment; DeviceError names the instruction that is at fault."""
        program, state = self._loaded()
        code = segment_of(program, segment)
        start = time.perf_counter()
        counters = dict.fromkeys(COUNTERS, 0)
        state.begin()
        before: Fields = {}
        adjuster = Adjuster(registers)
        for number in range(len(code.words) + 1):
            try:
                if number == 0:
                    _check_run(state, batch, registers)
                words = _adjusted(code, number, adjuster)
                if words is None:
                    continue
                done = words[0] == isa.BARRIER.opcode
                at = int(code.layers[number]), number
                before = self._step(words, at, batch, before, counters)
            except FaultError as fault:
                place = where(program, segment, number)
                raise FaultError(fault.status, fault.detail, place) from None
            if done:
                break
            if timeout_s is not None and time.perf_counter() - start > timeout_s:
                raise DeviceTimeout(
                    f"golden: {number + 1} of {len(code.words)} instructions in {timeout_s} s; "
                    "allow more time, or use the csim device"
                )
        wall = time.perf_counter() - start
        return RunResult(sum(counters.values()), wall, counters)

    def close(self) -> None:
        """Forgets the program."""
        self._program = self._state = None

    def _step(
        self,
        words: isa.Words,
        at: tuple[int, int],
        batch: int,
        before: Fields,
        counters: dict[str, int],
    ) -> Fields:
        """Runs one instruction, of layer and number `at`, adds its clocks, returns what Activate
        needs to know of it.
        """
        state = self._loaded()[1]
        kind, fields = _decode(state, words)
        if kind is isa.BARRIER:
            state.finish()
            counters["issue"] += ISSUE_CLOCKS
            return before
        unit = BY_OPCODE[kind.opcode]
        state.taken = None
        if self._watch is not None and kind is isa.MAT_MUL:
            self._watch(state, *at, fields, batch)
        unit.golden(state, fields, batch)
        taken = state.taken or unit.clocks(fields, state.overlay, batch, before)
        for name, clocks in asdict(taken).items():
            counters[name] += clocks
        if kind is isa.ACTIVATE:
            return {**before, **fields}
        return fields if kind in (isa.MAT_MUL, isa.VECTOR, isa.ATTEND) else before

    def _loaded(self) -> tuple[Program, State]:
        if self._program is None or self._state is None:
            raise DeviceError("golden: no program is loaded; call load(program) first")
        return self._program, self._state


def _check_run(state: State, batch: int, registers: Registers) -> None:
    """Raises FaultError for what the host gives with a run."""
    limit = state.overlay.accumulator_rows
    if not 1 <= batch <= limit:
        raise FaultError(2, f"batch {batch} is outside 1..{limit}")
    check_registers(registers, limit)


def _adjusted(code: AcceleratorSegment, number: int, adjuster: Adjuster) -> isa.Words | None:
    """Instruction `number` as it runs, None for one without effect. Raises FaultError."""
    if number == len(code.words):
        raise FaultError(6, "the segment ends without a Barrier")
    words: isa.Words = code.words[number]
    if int(words[0]) == isa.ADJUST.opcode:
        adjuster.take(words)
        return None
    return adjuster.apply(words)


def _decode(state: State, words: isa.Words) -> tuple[isa.Instruction, Fields]:
    """An instruction and its fields. Raises FaultError, in the order of the hardware."""
    kind = isa.INSTRUCTIONS.get(int(words[0]))
    if kind is None:
        raise FaultError(1, f"opcode {int(words[0])}")
    if state.pending and kind is not isa.ACTIVATE:
        raise FaultError(6, f"{kind.name} where an Activate must be")
    try:
        return isa.decode(words)
    except ProgramError as error:
        raise FaultError(2, str(error)) from None
