"""A simulated board: `device/pynq.py` under unmodified pynq, on any laptop.

The logic is the C simulation behind the kernel's registers; host and board have separate memories,
so a missing flush or invalidate gives wrong results as on a board; FAULTS go wrong on demand.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from weft.config import load_board
from weft.device.fabric import require_pynq
from weft.device.pynq import Pynq
from weft.program import Program


class Simboard(Pynq):
    """As `Pynq`, on a board of its own that lives as long as the device.

    `plays` is the board that it stands for, `faults` are names in weft.simboard.faults.FAULTS,
    `interrupt=False` leaves the interrupt unconnected. The other options are those of `Pynq`.
    """

    name = "simboard"
    limit_s = 600.0  # simulated logic takes its time

    def __init__(
        self,
        bitfile: str | Path | None = None,
        *,
        plays: str = "KV260",
        faults: Iterable[str] = (),
        memory_bytes: int = 128 << 20,
        interrupt: bool = True,
        board: Any = None,
        **options: Any,
    ) -> None:
        require_pynq()
        from weft.simboard.board import Board

        self._facts = load_board(plays)
        self._interrupt = interrupt
        self._own = board is None
        if board is None:
            board = Board(self._facts, memory_bytes, faults)
        self._folder = Path(tempfile.mkdtemp(prefix="weft-simboard-"))
        # Also for a device whose program could not be loaded, and that nobody closes.
        self._end = weakref.finalize(self, _end, self._folder, board if self._own else None)
        super().__init__(bitfile, board=board, **options)

    def close(self) -> None:
        """Frees the memory and ends the board."""
        super().close()
        self._end()

    def _find_bitfile(self, program: Program) -> Path:
        from weft.simboard.board import write_bitstream

        return write_bitstream(
            self._folder, program.overlay, self._facts, interrupt=self._interrupt
        )


def _end(folder: Path, board: Any) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    if board is not None:
        board.close()
