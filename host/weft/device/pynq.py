"""A PYNQ board: the kernel through PYNQ's own API.

with weft.open("digits.weft", "pynq") as session:     # on the board
    session.run(x)
weft.open("digits.weft", "pynq", address="192.168.2.99")  # from a laptop, PYNQ.remote
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from weft.adjust import Registers, running, whole
from weft.device import bitfile, channels
from weft.device.arena import Arena, BankedArena, RemoteArena
from weft.device.banks import card_banks
from weft.device.base import RunResult, segment_of, where
from weft.device.csim import image
from weft.device.fabric import Fabric, board_errors, require_pynq, state
from weft.device.registers import (
    ARGUMENTS,
    COUNTERS,
    DESIGN,
    INSTRUCTION,
    PROGRESS,
    STATUS,
    arguments,
)
from weft.errors import DeviceError, DeviceTimeout, UsageError, unknown
from weft.isa import READ_WEIGHTS
from weft.program import Program, Rows
from weft.state import COUNTERS as COUNTER_NAMES
from weft.state import FaultError

if TYPE_CHECKING:
    from weft.device.driver import Kernel

WAITS = ("auto", "poll", "interrupt")
_WORDS = COUNTERS + 2 * len(COUNTER_NAMES)


class Pynq:
    """Runs programs on a board.

    `bitfile` is the .bit to load (default: `<overlay>-<digest>.bit` where bitstreams are kept),
    `address` a remote board ("host" or "host:port"), `board` a pynq.Device (default: PYNQ's active
    one). `wait` is "auto" (poll, then sleep until the interrupt), "poll" or "interrupt";
    `clock_mhz` sets the clock; `counters=False` saves reading the clocks of a run, which on a
    remote board take most of its time.
    """

    name = "pynq"
    limit_s = 30.0  # where the caller gives none: a hang must not hang the host

    def __init__(
        self,
        bitfile: str | Path | None = None,
        *,
        address: str | None = None,
        board: Any = None,
        wait: str = "auto",
        clock_mhz: float | None = None,
        counters: bool = True,
    ) -> None:
        if wait not in WAITS:
            raise UsageError(unknown("way to wait", wait, WAITS))
        if clock_mhz is not None and not clock_mhz > 0:
            raise UsageError(f"clock_mhz = {clock_mhz}: more than 0 MHz, or None")
        require_pynq()
        self._bitfile = None if bitfile is None else Path(bitfile).absolute()
        self._how, self._clock_mhz, self._counters = wait, clock_mhz, counters
        self._program: Program | None = None
        self._arena: Arena | RemoteArena | None = None
        self._fabric = Fabric.of(self._find_board(address) if board is None else board)

    @property
    def board(self) -> Any:
        """PYNQ's device."""
        return self._fabric.board

    @property
    def clock_mhz(self) -> float:
        """The logic's clock as it was read back."""
        return self._fabric.clock_mhz

    @property
    def kernel(self) -> Kernel:
        """The driver. Raises DeviceError before a program is loaded."""
        if self._fabric.kernel is None:
            raise DeviceError(f"{self.name}: no program is loaded; call load(program) first")
        return self._fabric.kernel

    def load(self, program: Program) -> None:
        """Loads the overlay's bitstream if the board doesn't hold it, and the program's data."""
        self._release()
        self._path = self._bitfile or self._find_bitfile(program)
        words, code, self._segments = image(program)
        weights = channels.dealt(program.weights, program.overlay)
        lanes = program.overlay.lanes
        with self._fabric.lock, board_errors(f"{self.name}: loading {program.name!r}"):
            self._fabric.load(self._path, program.overlay, self._clock_mhz)
            sizes = (self.board, words, weights, program.memory_rows, lanes)
            banks = card_banks(self.board, program.overlay)
            if banks:
                self._arena = BankedArena(*sizes, banks)
            else:
                kind = RemoteArena if self.board.has_capability("REMOTE") else Arena
                self._arena = kind(*sizes)
        at = self._arena.addresses
        self._arguments = {
            "program": at["program"],
            "weights": at["weights"],
            "loads": at["memory"],
            "stores": at["memory"],
            "code": code,
            "segments": 1,
            "memory_rows": program.memory_rows,
            "weight_rows": len(program.weights),
        }
        o = program.overlay
        ports = arguments(o.weight_ports, o.cached)[len(ARGUMENTS) :]
        # A weight port with a memory of its own has an address, too.
        self._arguments |= {port.name: at.get(port.name, at[port.to]) for port in ports}
        self._program = program

    def write(self, row: int, data: Rows) -> None:
        """Copies rows to activation memory."""
        with board_errors(f"{self.name}: writing inputs"):
            self._loaded()[1].write(row, data)

    def read(self, row: int, rows: int) -> Rows:
        """A copy of rows of activation memory."""
        with board_errors(f"{self.name}: reading results"):
            return self._loaded()[1].read(row, rows)

    def run(
        self,
        segment: int,
        batch: int,
        timeout_s: float | None = None,
        registers: Registers = (0, 0),
    ) -> RunResult:
        """Runs one segment of the program."""
        program, _ = self._loaded()
        segment_of(program, segment)
        limit = self.limit_s if timeout_s is None else timeout_s
        with self._fabric.running(), board_errors(f"{self.name}: segment {segment}"):
            kernel = self._ready(program)
            self._fabric.broken = True  # until the run is over, however this ends
            how = self._how
            if how == "interrupt" and not kernel.interrupts():
                how = "poll"
            start = time.perf_counter()
            kernel.start(self._call(segment, batch, registers), armed=how == "interrupt")
            if not kernel.wait(limit, how):
                self._time_out(kernel, segment, registers, limit)
            return self._result(kernel, segment, time.perf_counter() - start)

    async def run_async(
        self,
        segment: int,
        batch: int,
        timeout_s: float | None = None,
        registers: Registers = (0, 0),
    ) -> RunResult:
        """As `run`, while other tasks of the event loop run; one run at a time on a board."""
        program, _ = self._loaded()
        segment_of(program, segment)
        limit = self.limit_s if timeout_s is None else timeout_s
        with self._fabric.running(), board_errors(f"{self.name}: segment {segment}"):
            kernel = self._ready(program)
            self._fabric.broken = True
            start = time.perf_counter()
            kernel.start(self._call(segment, batch, registers))
            if not await kernel.wait_async(limit):
                self._time_out(kernel, segment, registers, limit)
            return self._result(kernel, segment, time.perf_counter() - start)

    def power_w(self) -> float | None:
        """Watts that the board's rails draw now; None where it has no sensors."""
        if self.board.has_capability("REMOTE"):
            return None
        from weft.device.power import board_power

        return board_power()

    def close(self) -> None:
        """Frees the board's memory; the bitstream stays loaded."""
        self._program = None
        self._release()

    def _find_board(self, address: str | None) -> Any:
        """PYNQ's active device, or a remote one. DeviceError says how to get one."""
        from pynq import Device

        if address is not None:
            from weft.device.remote import connect

            return connect(address)
        with board_errors("looking for a board"):
            try:
                return Device.active_device
            except (RuntimeError, UserWarning):
                raise DeviceError(
                    "no PYNQ board here (is the board's environment active, XILINX_XRT set?). "
                    "From a laptop: address='<board>' for PYNQ.remote, or the device simboard"
                ) from None

    def _find_bitfile(self, program: Program) -> Path:
        return bitfile.find(program.overlay)

    def _loaded(self) -> tuple[Program, Arena | RemoteArena]:
        if self._program is None or self._arena is None:
            raise DeviceError(f"{self.name}: no program is loaded; call load(program) first")
        return self._program, self._arena

    def _ready(self, program: Program) -> Kernel:
        return self._fabric.ready(self._path, program.overlay, self._clock_mhz)

    def _call(self, segment: int, batch: int, registers: Registers) -> Mapping[str, int]:
        tokens, position, origin, source = whole(registers)
        return {
            **self._arguments,
            "first": self._segments[segment],
            "batch": int(batch),
            "tokens": int(tokens),
            "position": int(position),
            "origin": int(origin),
            "source": int(source),
        }

    def _result(self, kernel: Kernel, segment: int, wall: float) -> RunResult:
        """What the report says of a run that is over. Raises FaultError for an error status."""
        program, arena = self._loaded()
        words = kernel.report(_WORDS if self._counters else STATUS + 1)
        self._fabric.broken = False
        if words[STATUS]:
            number = kernel.report(INSTRUCTION + 1)[INSTRUCTION]
            raise FaultError(words[STATUS], where=where(program, segment, number))
        arena.verify()
        if not self._counters:
            return RunResult(0, wall, {})
        pairs = np.array(words[COUNTERS:], np.int32).view(np.int64).tolist()
        return RunResult(sum(pairs), wall, dict(zip(COUNTER_NAMES, pairs, strict=True)))

    def _time_out(self, kernel: Kernel, segment: int, registers: Registers, limit: float) -> None:
        """Raises DeviceTimeout with what the registers say."""
        program, _ = self._loaded()
        kernel.finished()  # reads the control register
        words = kernel.report(PROGRESS + 1)
        code = segment_of(program, segment)
        runs = running(code.words, registers)
        taken = [i for i in runs if int(code.words[i][0]) != READ_WEIGHTS.opcode]
        place = where(program, segment, taken[min(max(words[PROGRESS], 0), len(taken) - 1)])
        says = state(kernel.control)
        doing = f"; it stands at {place} of {len(code.words)}" if says.endswith("idle=0)") else ""
        low, high = (word & 0xFFFFFFFF for word in words[DESIGN : DESIGN + 2])
        raise DeviceTimeout(
            f"{self.name}: segment {segment} did not end within {limit:g} s: {says}{doing}. "
            f"Design id on the board {high:08x}{low:08x}, expected {program.overlay_digest}. "
            "The next run loads the bitstream anew"
        )

    def _release(self) -> None:
        arena, self._arena = self._arena, None
        if arena is not None:
            with board_errors(f"{self.name}: freeing memory"):
                arena.close()
