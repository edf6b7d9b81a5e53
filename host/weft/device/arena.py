"""Memory that board and host share: one contiguous allocation per program.

Instructions, weights and activation memory lie behind one another in it, each on a page of its
own, and a guard closes it: where the hardware writes past activation memory, the guard tells.
Where weight ports have memories of their own (`weights` [memories, rows, lanes]), each of these is
a section; on a card with several banks of memory each section lies in the bank that its port
reaches (`BankedArena`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weft.device import channels
from weft.device.base import rows_of
from weft.errors import DeviceError
from weft.program import Rows

PAGE, LINE = 4096, 64
_GUARD = np.arange(1, LINE + 1, dtype=np.int8) * 7  # no value a map is likely to hold


class Arena:
    """The sections of one allocation and their addresses on the board.

    Raises DeviceError if the board has not as much contiguous memory; nothing stays allocated.
    """

    def __init__(
        self, board: Any, image: NDArray[np.int32], weights: Rows, rows: int, lanes: int
    ) -> None:
        data = _contents(image, weights)
        sections = {name: part.nbytes for name, part in data.items()} | {"memory": rows * lanes}
        self._at, at = {}, 0
        for name, size in sections.items():
            self._at[name] = at
            at = _up(at + size, LINE if name == "memory" else PAGE)
        self.nbytes = at + LINE
        self._buffer = allocate(board, self.nbytes)
        base = int(self._buffer.device_address)
        self.addresses = {name: base + offset for name, offset in self._at.items()}
        for name, part in data.items():
            self._put(name, part)
        start = self._at["memory"]
        self._keep(self._buffer, start, at, (rows, lanes))
        self._buffer.flush()

    def _keep(self, buffer: Any, start: int, end: int, shape: tuple[int, int]) -> None:
        """Activation memory from `start` on, zeros, and the guard from `end` on."""
        self._guard = buffer[end : end + LINE]
        self._guard[:] = _GUARD
        self.memory = buffer[start : start + shape[0] * shape[1]].reshape(shape)
        self.memory[:] = 0
        # Slices of pynq's buffers take long to make; a program has few maps and batches.
        self._views: dict[tuple[int, int], tuple[Any, Rows]] = {}

    def write(self, row: int, data: Rows) -> None:
        """Copies rows to activation memory, where the board sees them."""
        view, plain = self._rows(row, len(data))
        plain[:] = data
        view.flush()

    def read(self, row: int, rows: int) -> Rows:
        """A copy of rows as the board wrote them."""
        view, plain = self._rows(row, rows)
        view.invalidate()
        return plain.copy()

    def verify(self) -> None:
        """Raises DeviceError if something was written past the end of activation memory."""
        self._guard.invalidate()
        if self._guard.tobytes() != _GUARD.tobytes():
            raise DeviceError(
                f"the board wrote behind activation memory (at {self.addresses['memory']:#x}, "
                f"{self.memory.nbytes:,} bytes): results can't be trusted. Is the bitstream the "
                "one that this program was compiled for, and did it meet timing?"
            )

    def close(self) -> None:
        """Gives the memory back."""
        self._views.clear()
        self._buffer.freebuffer()

    def _rows(self, row: int, rows: int) -> tuple[Any, Rows]:
        """Rows of activation memory as a slice of the buffer, and as a plain array."""
        if (row, rows) not in self._views:
            view = rows_of(self.memory, row, rows)
            self._views[row, rows] = view, np.asarray(view)
        return self._views[row, rows]

    def _put(self, name: str, data: NDArray[np.int8]) -> None:
        self._buffer[self._at[name] : self._at[name] + data.size] = data


class BankedArena(Arena):
    """The same on a card: a buffer for each section, in the bank that its ports reach.

    `banks` are the names of sections' banks, as XRT spells them (weft.vendor.targets).
    """

    def __init__(
        self,
        board: Any,
        image: NDArray[np.int32],
        weights: Rows,
        rows: int,
        lanes: int,
        banks: Mapping[str, str],
    ) -> None:
        data, at = _contents(image, weights), _up(rows * lanes, LINE)
        sizes = {name: part.nbytes for name, part in data.items()} | {"memory": at + LINE}
        self._buffers: dict[str, Any] = {}
        self.addresses = {}
        self.nbytes = sum(sizes.values())
        try:
            for name, nbytes in sizes.items():
                buffer = self._buffers[name] = _in_bank(board, banks[name], max(1, nbytes), name)
                self.addresses[name] = int(buffer.device_address)
        except BaseException:
            self.close()
            raise
        for name, part in data.items():
            self._buffers[name][: part.size] = part
        self._keep(self._buffers["memory"], 0, at, (rows, lanes))
        for buffer in self._buffers.values():
            buffer.flush()

    def close(self) -> None:
        """Gives the memory back."""
        self.__dict__.pop("_views", None)
        for buffer in self._buffers.values():
            buffer.freebuffer()
        self._buffers.clear()


class RemoteArena:
    """The same behind PYNQ.remote, whose buffers travel whole: one for each section.

    A remote buffer's slices know neither their address nor their place in it, so a flush sends
    activation memory as a whole and an invalidate fetches it.
    """

    def __init__(
        self, board: Any, image: NDArray[np.int32], weights: Rows, rows: int, lanes: int
    ) -> None:
        parts = _contents(image, weights) | {"memory": np.zeros(rows * lanes, np.int8)}
        self._buffers: dict[str, Any] = {}
        self.addresses: dict[str, int] = {}
        self._shape = (rows, lanes)
        self._stale = False
        self.nbytes = sum(part.nbytes for part in parts.values())
        try:
            for name, part in parts.items():
                buffer = allocate(board, max(1, part.size))
                self._buffers[name] = buffer
                buffer[: part.size] = part
                buffer.flush()
                self.addresses[name] = int(buffer.device_address)
        except BaseException:
            self.close()
            raise

    def write(self, row: int, data: Rows) -> None:
        """Copies rows to activation memory, and all of it to the board."""
        self._fetch()
        rows_of(self._memory(), row, len(data))[:] = data
        self._buffers["memory"].flush()

    def read(self, row: int, rows: int) -> Rows:
        """A copy of rows as the board wrote them."""
        self._fetch()
        return rows_of(self._memory(), row, rows).copy()

    def verify(self) -> None:
        """Marks the host's copy as old; there is no guard, its round trip costs too much."""
        self._stale = True

    def close(self) -> None:
        """Gives the memory back."""
        for buffer in self._buffers.values():
            buffer.freebuffer()
        self._buffers.clear()

    def _memory(self) -> Rows:
        rows, lanes = self._shape
        memory: Rows = np.asarray(self._buffers["memory"])[: rows * lanes].reshape(rows, lanes)
        return memory

    def _fetch(self) -> None:
        if self._stale:
            self._buffers["memory"].invalidate()
            self._stale = False


def _contents(image: NDArray[np.int32], weights: Rows) -> dict[str, NDArray[np.int8]]:
    """What is loaded, by the kernel's pointer to it."""
    memories = weights.reshape(len(weights), -1) if weights.ndim == 3 else weights.reshape(1, -1)
    found = {"program": image.reshape(-1).view(np.int8)}
    return found | {channels.argument(port): part for port, part in enumerate(memories)}


def _in_bank(board: Any, bank: str, nbytes: int, name: str) -> Any:
    """A buffer of int8 in a bank of a card; DeviceError where it has no such bank or room."""
    try:
        return board.get_memory_by_name(bank).allocate((nbytes,), np.dtype(np.int8))
    except (RuntimeError, MemoryError, OSError) as error:
        raise DeviceError(
            f"memory bank {bank} of the board has no {nbytes:,} bytes for {name}: {error}. Close "
            "other sessions, or compile with a smaller batch or cache"
        ) from None


def allocate(board: Any, nbytes: int) -> Any:
    """A buffer of int8 on the board; DeviceError with what is free where that fails."""
    free = free_bytes(board)
    if free is not None and free < nbytes:
        raise DeviceError(_exhausted(nbytes, free))
    try:
        buffer = board.allocate((nbytes,), np.dtype(np.int8))
    except (RuntimeError, MemoryError, OSError) as error:
        raise DeviceError(f"{_exhausted(nbytes, free)} ({error})") from None
    if getattr(buffer, "buffer_id", None) == "":  # all that pynq says of a refusal far away
        raise DeviceError(_exhausted(nbytes, free))
    return buffer


def free_bytes(board: Any) -> int | None:
    """CmaFree of the board's /proc/meminfo in bytes; None where the kernel doesn't tell."""
    try:
        if hasattr(board, "read_file"):
            text = bytes(board.read_file("/proc/meminfo")).decode()
        else:
            text = Path("/proc/meminfo").read_text()
    except (OSError, KeyError):
        return None
    found = re.search(r"^CmaFree:\s+(\d+) kB", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def _exhausted(nbytes: int, free: int | None) -> str:
    known = "unknown" if free is None else f"{free:,} bytes (CmaFree)"
    return (
        f"the board has no {nbytes:,} bytes of contiguous memory: free is {known}. Close other "
        "sessions and notebooks, compile with a smaller batch, or reboot with a larger cma= "
        "in the kernel's arguments"
    )


def _up(value: int, step: int) -> int:
    return -(-value // step) * step
