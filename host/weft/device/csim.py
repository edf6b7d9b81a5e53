"""The C simulation of the hardware source, called through ctypes."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weft import build
from weft.adjust import Registers, whole
from weft.device import channels
from weft.device.base import RunResult, rows_of, segment_of, where
from weft.errors import DeviceError, DeviceTimeout, UsageError
from weft.program import AcceleratorSegment, Program, Rows
from weft.state import COUNTERS, FaultError

REPORT_WORDS = 32
_INSTRUCTION, _COUNTERS, _ROW = 1, 6, 20
BAD_SPARSE = 10  # status of compressed weights that contradict themselves
_SIMULATION_ERROR, TIMEOUT = 100, 101
_ACCESS_BYTES = 24  # of hls/sim/trace.hpp
_EXACT_LOCK = threading.Lock()  # the exact simulation's processes are threads: one run at a time


@cache
def load_library(path: Path) -> ctypes.CDLL:
    """The simulation in a shared library that `build.library` made."""
    library = ctypes.CDLL(str(path))
    pointer, integer, unsigned = ctypes.c_void_p, ctypes.c_int, ctypes.c_uint
    library.weft_run.argtypes = [
        *(pointer, pointer, pointer),
        *((integer,) * 8),
        *(unsigned, unsigned),
        ctypes.c_double,
        pointer,
    ]
    library.weft_run.restype = integer
    library.weft_message.restype = ctypes.c_char_p
    library.weft_trace.restype = None
    library.weft_accesses.argtypes = [ctypes.POINTER(pointer)]
    library.weft_accesses.restype = ctypes.c_int64
    return library


class Csim:
    """Runs a program on the simulated kernel.

    `form` is one of build.FORMS: "functional" (default, fast), "cycle" (every register of the
    array, clock by clock) or "exact" (ap_int, bounded streams). All give the same bits and clocks.
    Several devices may run in several threads at once; ctypes leaves the interpreter lock.
    """

    name = "csim"

    def __init__(self, form: str = "functional") -> None:
        self.form = form
        self._program: Program | None = None

    def load(self, program: Program) -> None:
        """Takes a program; builds the simulation of its overlay if no cache has it."""
        self._library = load_library(build.library(program.overlay, self.form))
        self._image, self._code, self._segments = image(program)
        # The functional form does not read through ports: it has the image as it is.
        through_ports = self.form != "functional"
        self._weights = np.ascontiguousarray(program.weights)
        if through_ports:
            self._weights = channels.dealt(self._weights, program.overlay)
        self._memory = np.zeros((program.memory_rows, program.overlay.lanes), np.int8)
        self._report = np.zeros(REPORT_WORDS, np.int32)
        # Addresses are taken once: a ctypes conversion per call costs more than a small layer.
        arrays = (self._image, self._weights, self._memory)
        self._pointers = tuple(array.ctypes.data for array in arrays)
        self._report_pointer = self._report.ctypes.data
        self._program = program

    def write(self, row: int, data: Rows) -> None:
        """Copies rows to activation memory."""
        self._loaded()
        rows_of(self._memory, row, len(data))[:] = data

    def read(self, row: int, rows: int) -> Rows:
        """A copy of rows of activation memory."""
        self._loaded()
        return rows_of(self._memory, row, rows).copy()

    def run(
        self,
        segment: int,
        batch: int,
        timeout_s: float | None = None,
        registers: Registers = (0, 0),
    ) -> RunResult:
        """Runs one segment of the program."""
        segment_of(self._loaded(), segment)
        arguments = (
            *self._pointers,
            self._code,
            self._segments[segment],
            1,
            batch,
            *whole(registers),
            len(self._memory),
            len(self._loaded().weights),
            -1.0 if timeout_s is None else timeout_s,
            self._report_pointer,
        )
        start = time.perf_counter()
        if self.form == "exact":
            with _EXACT_LOCK:
                status = self._library.weft_run(*arguments)
        else:
            status = self._library.weft_run(*arguments)
        wall = time.perf_counter() - start
        if status:
            self._fail(status, segment, timeout_s)
        pairs = self._report[_COUNTERS : _COUNTERS + 2 * len(COUNTERS)].view(np.int64).tolist()
        return RunResult(sum(pairs), wall, dict(zip(COUNTERS, pairs, strict=True)))

    @property
    def program(self) -> Program:
        """The program that is loaded. Raises DeviceError where there is none."""
        return self._loaded()

    @contextmanager
    def recording(self) -> Iterator[Callable[[], bytes]]:
        """Keeps what this thread's runs do to memory: the call gives it (weft.memory_trace).

        Raises UsageError for another form than "cycle", where processes do not take turns.
        """
        self._loaded()
        if self.form != "cycle":
            raise UsageError(
                f"csim: accesses to memory are recorded in form 'cycle', not {self.form!r}; "
                'open_device("csim", form="cycle")'
            )
        self._library.weft_trace(1)
        try:
            yield self._accesses
        finally:
            self._library.weft_trace(0)

    def _accesses(self) -> bytes:
        first = ctypes.c_void_p()
        count = self._library.weft_accesses(ctypes.byref(first))
        return ctypes.string_at(first, _ACCESS_BYTES * count) if count else b""

    def close(self) -> None:
        """Forgets the program."""
        self._program = None

    def _loaded(self) -> Program:
        if self._program is None:
            raise DeviceError("csim: no program is loaded; call load(program) first")
        return self._program

    def _fail(self, status: int, segment: int, timeout_s: float | None) -> None:
        """Raises what a status means."""
        program = self._loaded()
        if status == TIMEOUT:
            raise DeviceTimeout(f"csim: segment {segment} did not finish within {timeout_s} s")
        if status == _SIMULATION_ERROR:
            raise DeviceError(f"csim: {self._library.weft_message().decode()}")
        number = int(self._report[_INSTRUCTION])
        row = f"row {int(self._report[_ROW])} of its weights" if status == BAD_SPARSE else ""
        raise FaultError(status, row, where(program, segment, number))


def image(program: Program) -> tuple[NDArray[np.int32], int, dict[int, int]]:
    """Program memory: a pair (first instruction, count) per segment, then the instructions.

    Returns the words, where the instructions start, and program segment → hardware segment.
    """
    parts: list[Any] = []
    table: list[int] = []
    numbers: dict[int, int] = {}
    for number, segment in enumerate(program.segments):
        if isinstance(segment, AcceleratorSegment):
            numbers[number] = len(numbers)
            table += [sum(map(len, parts)), len(segment.words)]
            parts.append(segment.words)
    words = [np.asarray(table, np.int32), *(part.reshape(-1) for part in parts)]
    return np.concatenate(words).astype(np.int32), len(table), numbers
