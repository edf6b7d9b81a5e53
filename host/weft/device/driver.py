"""The kernel's driver for PYNQ: registers by name, start, wait, report.

Importing this module needs pynq. PYNQ binds `Kernel` to every IP of the kernel's VLNV, so a plain
`pynq.Overlay` has it too, once this module is imported (entry point `pynq.lib`).
"""

from __future__ import annotations

import asyncio
import struct
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from pynq import DefaultIP, UnsupportedConfiguration

from weft.config import OVERLAY_LIMITS
from weft.device.registers import ARGUMENTS, DONE, IDLE, START, VLNV, arguments

MOST_PORTS = OVERLAY_LIMITS["weight_ports"][1]
SPIN_S = 2e-3  # short runs end within; an interrupt costs more than they take
POLL_S = 2e-4
HEARTBEAT_S = 0.1  # a lost interrupt costs no more than this
_CONTROL, _ENABLE, _SOURCES, _PENDING = "CTRL", "GIER", "IP_IER", "IP_ISR"


class Kernel(DefaultIP):  # type: ignore[misc]
    """weft_kernel behind ap_ctrl_hs. `writes` and `reads` count accesses to its registers."""

    bindto = (VLNV,)

    def __init__(self, description: Mapping[str, Any]) -> None:
        # A controller's UIO file is watched by the loop that is current while it is opened.
        self._loop = current_loop()
        super().__init__(description)
        self._offsets = offsets(self._registers or {})
        self._values: dict[str, int] = {}
        line = getattr(self, "interrupt", None)
        # PYNQ keeps controllers of the latest overlay only; another board's must not end this one.
        self._controller: Any = getattr(line, "parent", _nothing)()
        self._number = getattr(line, "number", 0)
        self._armed = self._listening = False
        self._wake: Callable[[], object] = _nothing
        self.control = 0
        self.writes = self.reads = 0

    def put(self, name: str, value: int) -> None:
        """Writes a register by its name; a pointer takes two words."""
        for shift, offset in enumerate(self._offsets[name]):
            self.mmio.write(offset, value >> 32 * shift & 0xFFFFFFFF)
            self.writes += 1

    def arrange(self, arguments: Mapping[str, int]) -> None:
        """Writes those arguments that the registers don't hold already."""
        for name, value in arguments.items():
            if self._values.get(name) != value:
                self.put(name, value)
                self._values[name] = value

    def start(self, arguments: Mapping[str, int], armed: bool = False) -> None:
        """Starts a run; with `armed`, its end raises an interrupt."""
        self.arrange(arguments)
        if armed != self._armed:  # it stays armed from run to run
            (self._arm if armed else self._disarm)()
        self.put(_CONTROL, START)

    def finished(self) -> bool:
        """Whether the run is over. `control` keeps what was read: done is cleared by reading."""
        self.control = self.mmio.read(self._offsets[_CONTROL][0])
        self.reads += 1
        return bool(self.control & DONE) or self.control & (IDLE | START) == IDLE

    def report(self, words: int) -> tuple[int, ...]:
        """The first words of the report, signed."""
        base = self._offsets["results"][0]
        self.reads += words
        if self.device.has_capability("MEMORY_MAPPED"):
            first = base // 4
            data = self.mmio.array[first : first + words].tobytes()
        elif self.device.has_capability("REGISTER_RW"):
            data = self.device.read_registers(self.mmio.base_addr + base, 4 * words)
        else:  # a remote board: the protocol takes a word per call
            each = [self.mmio.read(base + at) & 0xFFFFFFFF for at in range(0, 4 * words, 4)]
            data = struct.pack(f"<{words}I", *each)
        return struct.unpack(f"<{words}i", data)

    def interrupts(self) -> bool:
        """Whether a blocking wait can use the interrupt: there is one, and its loop is free."""
        if self._controller is None or self.device.has_capability("REMOTE"):
            return False
        busy = self._loop.is_running() or self._loop.is_closed()
        return not busy and _running_loop() is None

    def wait(self, timeout_s: float, how: str) -> bool:
        """Waits for the end of a run; False when `timeout_s` has passed.

        "poll" reads the control register until it says done, "interrupt" sleeps until the
        interrupt, "auto" polls for 2 ms and sleeps then.
        """
        begin = time.perf_counter()
        if how == "interrupt":
            over = False
            # The interrupt may be one that the controller still held of a run before: look again.
            while not over and (left := timeout_s - time.perf_counter() + begin) > 0:
                over = self._sleep(left) and self.finished()
            return over
        spin_s = min(SPIN_S, timeout_s)
        while not self.finished():
            passed = time.perf_counter() - begin
            if passed >= spin_s:
                return self._wait_long(timeout_s - passed, how == "auto" and self.interrupts())
            time.sleep(0)  # others may run
        return True

    async def wait_async(self, timeout_s: float) -> bool:
        """As `wait`, for asyncio: by interrupt in the loop that the board was opened in."""
        end = time.perf_counter() + timeout_s
        sleeps = self._controller is not None and _running_loop() is self._loop
        if sleeps and not self.device.has_capability("REMOTE"):
            self._arm()
        else:
            sleeps = False
        while not self.finished():
            left = end - time.perf_counter()
            if left <= 0:
                break
            if sleeps:
                await self._interrupted(min(left, HEARTBEAT_S))
            else:
                await asyncio.sleep(min(left, POLL_S))
        if sleeps:
            self._disarm()
        return bool(self.control & (DONE | IDLE)) and not self.control & START

    def _wait_long(self, timeout_s: float, sleeps: bool) -> bool:
        end = time.perf_counter() + timeout_s
        if sleeps:
            self._arm()  # the run may have ended before: then the loop's first look finds it done
        over = self.finished()
        while not over and (left := end - time.perf_counter()) > 0:
            if sleeps:
                self._sleep(min(left, HEARTBEAT_S))
            else:
                time.sleep(min(left, POLL_S))
            over = self.finished()
        if sleeps:
            self._disarm()
        return over

    def set(self) -> None:
        """The interrupt has come: what PYNQ's controllers call of the events that they are given.

        Acknowledges it here, before the controller does: else that would see the line still high
        and raise the interrupt of this run once more in the next one.
        """
        self._listening = False
        self._acknowledge()
        self._wake()

    def _arm(self) -> None:
        self._armed = True
        self.put(_SOURCES, 1)
        self.put(_ENABLE, 1)

    def _disarm(self) -> None:
        self._armed = False
        self.put(_ENABLE, 0)
        self.put(_SOURCES, 0)
        self._acknowledge()

    def _acknowledge(self) -> None:
        """Writing a pending bit clears it, writing another one would set it."""
        self.reads += 1
        if pending := self.mmio.read(self._offsets[_PENDING][0]):
            self.put(_PENDING, pending)

    def _listen(self) -> None:
        """Gives the controller this event; it keeps it until the interrupt comes."""
        if not self._listening:
            self._listening = True
            self._controller.add_event(self, self._number)

    def _sleep(self, seconds: float) -> bool:
        """Runs the loop until the interrupt. Without a coroutine: a task takes longer than this."""
        timer = self._loop.call_later(seconds, self._loop.stop)
        self._wake = self._loop.stop
        try:
            self._listen()
            self._loop.run_forever()
        finally:
            timer.cancel()
            self._wake = _nothing
        return not self._listening

    async def _interrupted(self, seconds: float) -> None:
        arrived = asyncio.Event()
        self._wake = arrived.set
        try:
            self._listen()
            await asyncio.wait_for(arrived.wait(), seconds)
        except asyncio.TimeoutError:
            pass
        finally:
            self._wake = _nothing


def offsets(registers: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[int, ...]]:
    """Name of each argument and control register → offsets of its words, as the .hwh has them.

    Vitis HLS appends _r to names that HDL knows, and splits pointers into _1 and _2. Raises
    UnsupportedConfiguration where one is missing: that .hwh belongs to another kernel.
    """
    at = {name: int(facts["address_offset"]) for name, facts in registers.items()}
    found: dict[str, tuple[int, ...]] = {}
    needed = (_CONTROL, _ENABLE, _SOURCES, _PENDING, *(a.name for a in ARGUMENTS))
    for name in dict.fromkeys((*needed, *(a.name for a in arguments(MOST_PORTS, True)))):
        spellings = (name, f"{name}_r", f"Memory_{name}", f"Memory_{name}_r")
        for known in spellings:
            if f"{known}_1" in at and f"{known}_2" in at:
                found[name] = (at[f"{known}_1"], at[f"{known}_2"])
            elif known in at:
                found[name] = (at[known],)
        if name in needed and name not in found:
            raise UnsupportedConfiguration(f"the .hwh has no register {name!r}: {sorted(at)}")
    return found


def _nothing() -> None:
    """What a remote board's interrupt has for a parent, and what nobody waits for."""


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def current_loop() -> asyncio.AbstractEventLoop:
    """The thread's event loop; a new one becomes current where there is none."""
    running = _running_loop()
    if running is not None:
        return running
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            loop = asyncio.get_event_loop()
        except RuntimeError:
            loop = None
    if loop is None or loop.is_closed():
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
    return loop
