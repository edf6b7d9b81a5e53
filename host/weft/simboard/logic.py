"""The programmable logic: the kernel behind ap_ctrl_hs, and the interrupt controller."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping, Set
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weft import build, isa
from weft.config import Overlay
from weft.device import channels
from weft.device.csim import REPORT_WORDS, TIMEOUT, load_library
from weft.device.registers import (
    ARGUMENTS,
    DESIGN,
    DONE,
    IDLE,
    PROGRESS,
    READY,
    START,
    arguments,
    register_map,
)
from weft.simboard.memory import BusError, Memory

_AT = {r.name: r.offset for r in register_map()}  # in front of the further ports' pointers
_CTRL, _GIE, _IER, _ISR = (_AT[name] for name in ("CTRL", "GIER", "IP_IER", "IP_ISR"))
_REPORT = _AT["Memory_results"]
_INLINE_S = 1e-3
_SCALARS = tuple(a.name for a in ARGUMENTS if a.kind == "scalar")


class _OutOfTimeError(Exception):
    """The simulation took longer than it was given."""


class Kernel:
    """Registers of the kernel; a start runs the C simulation on `worker`.

    `faults` is read at every step, so that a test may change it between two runs.
    """

    def __init__(
        self,
        overlay: Overlay,
        memory: Memory,
        worker: Callable[[Callable[[], object]], None],
        faults: Set[str],
        reach: Mapping[str, tuple[int, int]] | None = None,
    ) -> None:
        self._library = load_library(build.library(overlay, "functional"))
        self._overlay, self._memory, self._worker = overlay, memory, worker
        own = register_map(arguments(overlay.weight_ports, overlay.cached))
        self._at = {r.name: r.offset for r in own}
        self._faults = faults
        self._reach = reach or {}
        self._values: dict[int, int] = {}
        self._report = np.zeros(REPORT_WORDS, np.int32)
        self._lock = threading.Lock()
        self._started = self._running = self._done = self._ready = False
        self._enabled, self._sources, self._pending = 0, 0, 0
        self.raised: Callable[[bool], None] = lambda level: None
        self.reason = ""  # why it hangs

    def read(self, offset: int) -> int:
        """A register's value, as AXI-Lite returns it."""
        with self._lock:
            if offset == _CTRL:
                bits = START * self._started | DONE * self._done | READY * self._ready
                bits |= IDLE * (not self._running)
                self._done = self._ready = False  # cleared by reading
                return bits
            if 0 <= offset - _REPORT < 4 * REPORT_WORDS:
                return int(self._report[(offset - _REPORT) // 4]) & 0xFFFFFFFF
            known = {_GIE: self._enabled, _IER: self._sources, _ISR: self._pending}
            return known.get(offset, self._values.get(offset, 0))

    def read_block(self, offset: int, length: int) -> bytes:
        """Several words at once."""
        first = (offset - _REPORT) // 4
        if first >= 0 and first + length // 4 <= REPORT_WORDS:
            return self._report[first : first + length // 4].tobytes()
        return b"".join(self.read(offset + at).to_bytes(4, "little") for at in range(0, length, 4))

    def write(self, offset: int, value: int) -> None:
        """Writes a register; bit 0 of the control register starts a run."""
        starts = False
        with self._lock:
            if offset == _CTRL:
                if value & START and not self._started:
                    self._started = True
                    self._running = starts = "hang_start" not in self._faults
            elif offset == _GIE:
                self._enabled = value & 1
            elif offset == _IER:
                self._sources = value & 3
            elif offset == _ISR:
                self._pending ^= value & 3  # writing toggles
            else:
                self._values[offset] = value & 0xFFFFFFFF
            self._drive()
        # Another thread would take longer to wake up than a short run takes.
        if starts and not self._run(_INLINE_S):
            self._worker(self._run)

    def _drive(self) -> None:
        level = bool(self._enabled and self._pending)
        self.raised(level and "interrupt" not in self._faults)

    def _pointer(self, name: str) -> int:
        low, high = (self._values.get(self._at[f"{name}_{i}"], 0) for i in (1, 2))
        return high << 32 | low

    def _run(self, limit_s: float = -1.0) -> bool:
        """One run; False if it was given up after `limit_s` (a segment can be run again).

        A hang leaves the kernel running for ever.
        """
        try:
            over = self._simulate(limit_s)
        except BusError as error:  # an AXI slave answers DECERR, and the kernel waits for data
            self.reason, over = str(error), False
        except _OutOfTimeError:
            return False
        with self._lock:
            if not over:
                return True
            self._started = self._running = False
            self._done = self._ready = True
            self._pending |= self._sources & 1
            self._drive()
            return True

    def _simulate(self, limit_s: float) -> bool:
        """Runs the segments; False where the kernel does not come to an end."""
        values = [_signed(self._values.get(_AT[name], 0)) for name in _SCALARS]
        code, first, segments, *_, rows, weight_rows = values
        report = np.zeros(REPORT_WORDS, np.int32)
        arrays: list[NDArray[Any]] = []
        if segments:
            arrays = self._operands(code, first, segments, rows, weight_rows)
        cut = "hang_middle" in self._faults and bool(segments)
        if cut:
            arrays[0] = _half(arrays[0], code, first)
        status = self._library.weft_run(
            *([a.ctypes.data for a in arrays] or (None, None, None)),
            *values,
            *(limit_s, report.ctypes.data),
        )
        if status == TIMEOUT:
            raise _OutOfTimeError
        if cut:
            # Behind the half, whatever it left in the streams is of no interest.
            self._report[PROGRESS] = report[PROGRESS]
            return False
        if status >= 100:  # what csim can tell of a program that hangs real hardware
            self.reason = self._library.weft_message().decode()
            return False
        if "design_id" in self._faults:
            report[DESIGN] ^= 1
        self._damage(arrays)
        self._report[:] = report
        return True

    def _operands(
        self, code: int, first: int, segments: int, rows: int, weight_rows: int
    ) -> list[NDArray[Any]]:
        """Instructions, weights and activation memory, as the pointers have them."""
        lanes = self._overlay.lanes
        loads = self._pointer("loads")
        if loads != self._pointer("stores"):
            raise BusError("loads and stores are different memories: the simulation has one")
        o = self._overlay
        at = {"weights": self._pointer("weights"), "memory": loads}
        for port in arguments(o.weight_ports, o.cached)[len(ARGUMENTS) :]:
            owns = o.own_memories and port.to == "weights"
            if not owns and self._pointer(port.name) != at[port.to]:
                raise BusError(f"{port.name} is at another memory: the simulation has one of each")
        self._check_banks()
        stray = 1 << 40 if "stray" in self._faults else 0
        table = self._words(self._pointer("program") + stray, 2 * (first + segments))
        last = table.reshape(-1, 2)[first:]
        end = int((last[:, 0] + last[:, 1]).max())
        words = self._words(self._pointer("program"), code + end * isa.WORDS)
        if "status" in self._faults:
            words = words.copy()
            words[code + int(last[0, 0]) * isa.WORDS] = 99
        return [words, self._weights(weight_rows), self._memory.view(loads, rows * lanes)]

    def _weights(self, rows: int) -> NDArray[Any]:
        """The image of weight memory, out of the memories of its ports."""
        o, count = self._overlay, channels.memories(self._overlay)
        own = channels.own_rows(rows, count) if count > 1 else rows
        parts = [
            self._memory.view(self._pointer(channels.argument(port)), own * o.lanes)
            for port in range(count)
        ]
        whole = [part.view(np.int8).reshape(own, o.lanes) for part in parts]
        return channels.gathered(whole, rows)

    def _check_banks(self) -> None:
        """Raises BusError for a pointer to a bank that its port is not connected to."""
        for name, (first, last) in self._reach.items():
            bank = self._memory.bank_of(self._pointer(name))
            if not first <= bank <= last:
                raise BusError(f"{name} reaches banks {first} to {last}, its address is in {bank}")

    def _words(self, address: int, count: int) -> NDArray[np.int32]:
        return self._memory.view(address, 4 * count).view(np.int32)

    def _damage(self, arrays: list[NDArray[Any]]) -> None:
        if not arrays:
            return
        memory = arrays[2]
        if "output" in self._faults:
            memory[-self._overlay.lanes :: 1] ^= 0x40
        if "overrun" in self._faults:
            at = memory.ctypes.data - self._memory.device.ctypes.data + memory.size
            self._memory.device[at : at + 128] = 0


class Controller:
    """axi_intc with one level-sensitive input, wired to a UIO file."""

    def __init__(self) -> None:
        self.uio = Uio()
        self._level = self._master = self._enabled = self._latched = 0

    def read(self, offset: int) -> int:
        """A register's value."""
        known = {0x00: self._latched, 0x04: self._latched & self._enabled, 0x08: self._enabled}
        return {**known, 0x1C: self._master}.get(offset, 0)

    def write(self, offset: int, value: int) -> None:
        """Writes a register."""
        if offset == 0x08:
            self._enabled = value
        elif offset == 0x0C:
            self._latched = self._latched & ~value | self._level
        elif offset == 0x10:
            self._enabled |= value
        elif offset == 0x14:
            self._enabled &= ~value
        elif offset == 0x1C:
            self._master = value
        self._drive()

    def line(self, level: bool) -> None:
        """The input changes."""
        self._level = int(level)
        self._latched |= self._level
        self._drive()

    def _drive(self) -> None:
        self.uio.set(bool(self._master & 1 and self._latched & self._enabled))


class Uio:
    """What pynq waits on: the loop that it is opened in calls `set` of the events added.

    As with the file of a UIO device, the interrupt is masked until an event is added.
    """

    def __init__(self) -> None:
        self._events: list[Any] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._level = False
        self._lock = threading.Lock()

    def open(self, loop: asyncio.AbstractEventLoop) -> Uio:
        """The loop from now on watches it, as it does the file of a pynq.uio.UioController."""
        self._loop = loop
        return self

    def add_event(self, event: Any, number: int) -> None:
        """Registers an event, and unmasks the interrupt."""
        with self._lock:
            self._events.append(event)
            level, loop = self._level, self._loop
        if level and loop is not None:
            loop.call_soon(self._fire)

    def set(self, level: bool) -> None:
        """The interrupt line of the processor, from any thread."""
        with self._lock:
            rises, self._level = level and not self._level, level
            loop = self._loop if self._events else None
        if rises and loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._fire)

    def _fire(self) -> None:
        with self._lock:
            events, self._events = self._events, []
        for event in events:
            event.set()


def _signed(word: int) -> int:
    return word - (1 << 32) if word & 1 << 31 else word


def _half(words: NDArray[np.int32], code: int, first: int) -> NDArray[np.int32]:
    """The program with a Barrier in the middle of segment `first`."""
    words = words.copy()
    begin, count = (int(n) for n in words[2 * first : 2 * first + 2])
    at = code + (begin + count // 2) * isa.WORDS
    words[at : at + isa.WORDS] = isa.BARRIER.encode()
    return words
