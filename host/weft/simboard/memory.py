"""Host and device memory: what one side writes the other sees after a flush or an invalidate."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

PAGE = 4096
BASE = 0x1000_0000
_STALE, _GARBAGE = 0xA5, 0x5A  # fresh memory holds different things on the two sides


class BusError(RuntimeError):
    """An access to an address that no buffer or register answers."""


class Memory:
    """Contiguous memory of `size` bytes, seen by the processor (`host`) and the logic (`device`).

    The processor's caches hold whatever was not flushed: a real board shows the same wrong data,
    only less reliably. On a card it is `banks` equal parts, in which buffers are allocated by name.
    """

    def __init__(self, size: int = 128 << 20, banks: int = 1) -> None:
        self.size = size
        self.bank_bytes = size // banks
        self.host: NDArray[np.uint8] = np.zeros(size, np.uint8)
        self.device: NDArray[np.uint8] = np.zeros(size, np.uint8)
        self._live: dict[int, int] = {}  # offset → bytes
        self._lock = threading.Lock()

    @property
    def free_bytes(self) -> int:
        """Bytes that no buffer holds."""
        with self._lock:
            return self.size - sum(self._live.values())

    @property
    def buffers(self) -> int:
        """How many buffers are allocated."""
        with self._lock:
            return len(self._live)

    def allocate(self, nbytes: int, bank: int | None = None) -> int:
        """Offset of a new buffer, first fit; RuntimeError as XRT's where there is no room."""
        need = max(PAGE, -(-nbytes // PAGE) * PAGE)
        first = 0 if bank is None else bank * self.bank_bytes
        end = self.size if bank is None else first + self.bank_bytes
        with self._lock:
            at = first
            for offset in sorted(o for o in self._live if first <= o < end):
                if offset - at >= need:
                    break
                at = offset + self._live[offset]
            if at + need > end:
                raise RuntimeError(f"Allocate failed: 12 ({nbytes} bytes)")
            self._live[at] = need
        self.host[at : at + need] = _GARBAGE
        self.device[at : at + need] = _STALE
        return at

    def free(self, offset: int) -> None:
        """Gives a buffer back."""
        with self._lock:
            self._live.pop(offset, None)

    def flush(self, virtual_address: int, nbytes: int) -> None:
        """Makes what the processor wrote visible to the logic."""
        at = virtual_address - self.host.ctypes.data
        self.device[at : at + nbytes] = self.host[at : at + nbytes]

    def invalidate(self, virtual_address: int, nbytes: int) -> None:
        """Makes what the logic wrote visible to the processor."""
        at = virtual_address - self.host.ctypes.data
        self.host[at : at + nbytes] = self.device[at : at + nbytes]

    def view(self, address: int, nbytes: int) -> NDArray[np.uint8]:
        """The logic's view of a range. BusError where it leaves the buffer that it begins in."""
        at = address - BASE
        with self._lock:
            inside = any(o <= at and at + nbytes <= o + n for o, n in self._live.items())
        if not inside:
            raise BusError(
                f"the kernel addressed {address:#x}..{address + nbytes - 1:#x}, which "
                "no buffer holds"
            )
        return self.device[at : at + nbytes]

    def bank_of(self, address: int) -> int:
        """The bank that the logic finds an address in."""
        return (address - BASE) // self.bank_bytes

    def slice(self, offset: int, nbytes: int) -> Any:
        """The processor's view of a buffer, as a buffer object."""
        return memoryview(self.host.data)[offset : offset + nbytes]
