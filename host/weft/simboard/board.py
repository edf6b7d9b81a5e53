"""A pynq.Device whose board is simulated. Importing this module needs pynq."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
import queue
import threading
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from pynq.buffer import PynqBuffer
from pynq.interrupt import _InterruptController
from pynq.pl_server.device import Device

from weft import project
from weft.config import Board as BoardFacts
from weft.config import Overlay
from weft.device.bitfile import Bitstream, file_name
from weft.device.driver import current_loop
from weft.device.registers import (
    CONTROLLER,
    FAMILIES,
    RANGE,
    family_of,
    hardware_handoff,
)
from weft.errors import DeviceError, UsageError, unknown
from weft.simboard.faults import FAULTS
from weft.simboard.logic import Controller, Kernel
from weft.simboard.memory import BASE, BusError, Memory
from weft.vendor import targets

_NUMBERS = itertools.count()
_CLOCKS = {  # address of the PL clock's register, and what resets leave in those that pynq reads
    "zynq": (0xF800_0170, {0xF800_0108: 20 << 12, 0xF800_0170: 2 << 20 | 5 << 8}),
    "zynqmp": (0xFF5E_00C0, {0xFF5E_0020: 45 << 8, 0xFF5E_00C0: 1 << 24 | 1 << 16 | 15 << 8}),
}
_SYSTEM = {"zynq": ((0xF800_0000, 0x1000),), "zynqmp": ((0xFD00_0000, 0x300_0000),)}


class _Buffer(PynqBuffer):  # type: ignore[misc]
    """PynqBuffer frees with munmap, which memory of numpy's own must be spared."""

    def freebuffer(self) -> None:
        """Gives the memory back; once, and not for a slice."""
        memory = self.__dict__.pop("memory", None)
        if memory is not None:
            memory.free(self.place)


class _Bank:
    """A bank of a card, as pynq's XrtMemory."""

    def __init__(self, board: Board, number: int) -> None:
        self._board, self._number = board, number

    def allocate(self, shape: Any, dtype: Any, **options: Any) -> Any:
        """A buffer in it."""
        return self._board.allocate(shape, dtype, bank=self._number, **options)


class Board(Device):  # type: ignore[misc]
    """A simulated board: processor registers, two memories, and logic that a .bit file fills.

    `facts` is the board that it plays; `faults` is a set of names in FAULTS that may be changed at
    any time. `reads` and `writes` count accesses to the kernel's registers.
    """

    def __init__(
        self, facts: BoardFacts, memory_bytes: int = 128 << 20, faults: Iterable[str] = ()
    ) -> None:
        super().__init__(f"weft-simboard-{os.getpid()}-{next(_NUMBERS)}")
        self.faults = checked(faults)
        self.name = facts.name
        self.family = family_of(facts.part)
        self.arch = FAMILIES[self.family].arch
        self.capabilities = {"REGISTER_RW": True}
        self.timestamp = self.bitfile_name = None
        self._facts = facts
        banks = facts.ddr_channels if facts.family == "alveo" else 1
        self.memory = Memory(memory_bytes, banks)
        self.mem_dict: dict[str, dict[str, Any]] = {}
        self.logic: Kernel | None = None
        self.reads = self.writes = 0
        self._controller = Controller()
        self._system = dict(_CLOCKS[self.family][1])
        self._work: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        threading.Thread(target=_serve, args=(self._work,), daemon=True, name="simboard").start()

    def close(self) -> None:
        """Ends the thread that simulates; the board does not answer any more."""
        self.faults.add("gone")
        self._work.put(_end)

    # What pynq asks of a device.

    def get_bitfile_metadata(self, bitfile_name: str, partial: bool = False) -> Any:
        """The .hwh beside the bitstream, read by pynq's own parser."""
        from pynqmetadata.frontends import Metadata

        handoff = Path(bitfile_name).with_suffix(".hwh")
        parser = _parser()(Metadata(input=str(handoff)))
        parser.refresh_hierarchy_dict()
        return parser

    def download(self, bitstream: Any, parser: Any = None) -> None:
        """Configures the logic; a run of the old one is waited for."""
        self._alive()
        self.configure(Bitstream.decode(Path(bitstream.bitfile_name)).data)
        for name, facts in (parser.interrupt_controllers if parser else {}).items():
            if name == CONTROLLER:
                uio = self._controller.uio.open(current_loop())
                _InterruptController._uio_devices[facts["raw_irq"]] = uio
        self.post_download(bitstream, parser, self.name)
        self.mem_dict = {**(self.mem_dict or {}), **self._used}

    def configure(self, data: bytes) -> None:
        """Takes configuration data: the logic becomes what it describes."""
        try:
            facts = json.loads(data.rstrip(b"\0"))["overlay"]
            lists = {key: tuple(v) if isinstance(v, list) else v for key, v in facts.items()}
            overlay = Overlay(**lists)  # type: ignore[arg-type]
        except (ValueError, TypeError, KeyError) as error:
            raise OSError(errno.EINVAL, f"the logic was not configured: {error}") from None
        idle = threading.Event()
        self._work.put(idle.set)
        idle.wait()
        self._controller = Controller()
        reach, used = self._connected(overlay)
        self._used = used
        self.logic = Kernel(overlay, self.memory, self._work.put, self.faults, reach)
        self.logic.raised = self._controller.line

    def allocate(self, shape: Any, dtype: Any, bank: int | None = None, **options: Any) -> Any:
        """A PynqBuffer in contiguous memory."""
        self._alive()
        kind = np.dtype(dtype)
        nbytes = int(np.prod(shape)) * kind.itemsize
        if "allocation" in self.faults or "cma" in self.faults:
            raise RuntimeError(f"Allocate failed: 12 ({nbytes} bytes)")
        offset = self.memory.allocate(nbytes, bank)
        buffer = _Buffer(
            shape,
            kind,
            device=self,
            bo=offset + 1,
            device_address=BASE + offset,
            buffer=self.memory.slice(offset, nbytes),
        )
        buffer.memory, buffer.place = self.memory, offset
        return buffer

    def get_memory_by_name(self, name: str) -> _Bank:
        """A bank of a card by its tag, as XrtDevice has it; RuntimeError where there is none."""
        for found in self.mem_dict.values():
            if found["tag"] == name:
                return _Bank(self, found["idx"])
        raise RuntimeError("Could not find memory")

    def _connected(
        self, overlay: Overlay
    ) -> tuple[dict[str, tuple[int, int]], dict[str, dict[str, Any]]]:
        """Banks that each pointer of a design reaches on a card, and all as XRT describes them."""
        if self._facts.family != "alveo":
            return {}, {}
        ports = project.kernel(overlay.weight_ports, overlay.cached).ports
        bundles = targets.reach(self._facts, ports, overlay.own_memories)
        reach = {name: bundles[port.bundle] for port in ports for name in port.arguments}
        kind = "HBM" if self._facts.memory.startswith("HBM") else "DDR"
        used = {i for first, last in bundles.values() for i in range(first, last + 1)}
        return reach, {
            f"{kind}{i}": {"tag": f"{kind}[{i}]", "idx": i, "used": i in used, "streaming": False}
            for i in range(self._facts.ddr_channels)
        }

    def flush(self, bo: int, offset: int, address: int, nbytes: int) -> None:
        """Called by PynqBuffer.flush."""
        self.memory.flush(address, nbytes)

    def invalidate(self, bo: int, offset: int, address: int, nbytes: int) -> None:
        """Called by PynqBuffer.invalidate."""
        self.memory.invalidate(address, nbytes)

    def read_registers(self, address: int, length: int) -> bytes:
        """Little-endian words from `address` on."""
        block, offset = self._decode(address)
        if isinstance(block, Kernel) and length > 4:
            self._alive()
            self.reads += length // 4
            return block.read_block(offset, length)
        words = (self._read(address + at) for at in range(0, length, 4))
        return b"".join(word.to_bytes(4, "little") for word in words)

    def write_registers(self, address: int, data: bytes) -> None:
        """Writes words from `address` on."""
        for at in range(0, len(data), 4):
            self._write(address + at, int.from_bytes(data[at : at + 4], "little"))

    def read_file(self, path: str) -> bytes:
        """A file of the board's own: only /proc/meminfo is there."""
        self._alive()
        if path != "/proc/meminfo":
            raise KeyError(path)
        free = 4096 if "cma" in self.faults else self.memory.free_bytes
        return f"CmaTotal: {self.memory.size // 1024} kB\nCmaFree: {free // 1024} kB\n".encode()

    # What is behind the addresses.

    def _alive(self) -> None:
        if "gone" in self.faults:
            raise OSError(errno.EIO, "the board does not answer")

    def _read(self, address: int) -> int:
        self._alive()
        block, offset = self._decode(address)
        if block is None:
            return self._system.get(address, 0)
        self.reads += isinstance(block, Kernel)
        return block.read(offset)

    def _write(self, address: int, value: int) -> None:
        self._alive()
        block, offset = self._decode(address)
        if block is not None:
            self.writes += isinstance(block, Kernel)
            block.write(offset, value)
            return
        clock = _CLOCKS[self.family][0]
        if address == clock and "clock" in self.faults:
            return
        self._system[address] = value

    def _decode(self, address: int) -> tuple[Kernel | Controller | None, int]:
        base = FAMILIES[self.family].base
        if base <= address < base + RANGE and self.logic is not None:
            return self.logic, address - base
        if base + RANGE <= address < base + 2 * RANGE and self.logic is not None:
            return self._controller, address - base - RANGE
        for first, size in _SYSTEM[self.family]:
            if first <= address < first + size:
                return None, 0
        raise BusError(f"nothing answers at {address:#x}; on a board this access would hang")


def write_bitstream(
    folder: Path, overlay: Overlay, facts: BoardFacts, *, interrupt: bool = True
) -> Path:
    """Writes .bit and .hwh of an overlay for the simulated board; returns the .bit's path.

    The configuration data is the overlay's description: the board becomes what its bitstream says.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / file_name(overlay)
    family = family_of(facts.part)
    handoff = hardware_handoff(
        overlay.name,
        family,
        facts.clock_mhz,
        interrupt=interrupt,
        weight_ports=overlay.weight_ports,
        cached=overlay.cached,
    )
    # A remote pynq keeps what it read of a .hwh for as long as the .bit beside it is the same.
    digest = hashlib.sha256(handoff.encode()).hexdigest()
    described = {"overlay": asdict(overlay), "handoff": digest}
    text = json.dumps(described, sort_keys=True).encode()
    data = text + b"\0" * (-len(text) % 4)
    path.write_bytes(Bitstream(overlay.name, facts.part, "2000/01/01", data).encode())
    path.with_suffix(".hwh").write_text(handoff)
    return path


def checked(faults: Iterable[str]) -> set[str]:
    """A set of faults. UsageError for an unknown one."""
    chosen = {faults} if isinstance(faults, str) else set(faults)
    for name in chosen:
        if name not in FAULTS:
            raise UsageError(unknown("fault", name, FAULTS))
    return chosen


def _parser() -> Any:
    """pynq's reader of .hwh files: in pynqmetadata since 4.0, in pynq before."""
    try:
        from pynqmetadata.views.runtime import RuntimeMetadataParser
    except ImportError:
        try:
            from pynq.metadata.runtime_metadata_parser import RuntimeMetadataParser
        except ImportError as error:
            raise DeviceError(f"this pynq can't read .hwh files: {error}") from None
    return RuntimeMetadataParser


def _serve(work: queue.SimpleQueue[Callable[[], object]]) -> None:
    """The thread of a board: runs the simulation, so that the host can wait for it."""
    while (job := work.get()) is not _end:
        job()


def _end() -> None:
    """Put into the queue, it ends the thread."""
