"""What keeps the array from multiplying, in the rows of the first TPU's performance counters.

Jouppi et al., ISCA 2017, table 3: the array is active, or waits until the next weight tile has come
from memory (stall), or until it has shifted in, or something else is done (non-matrix). Clocks of
instructions are the units' own; tiles come from memory meanwhile, as far ahead as their FIFO is
deep. (`estimate` adds the memory's time per layer instead, and knows no FIFO.)
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from weft import isa
from weft.config import Board, Overlay
from weft.errors import UsageError
from weft.program import AcceleratorSegment, Program
from weft.state import ISSUE_CLOCKS, Fields
from weft.units import BY_OPCODE, compressed, systolic, transfer, window


@dataclass
class Stalls:
    """Clocks by what the array does; those of `transfer` and `drain` are part of `non_matrix`."""

    active: float = 0.0
    weight_stall: float = 0.0
    weight_shift: float = 0.0
    non_matrix: float = 0.0
    transfer: float = 0.0
    drain: float = 0.0

    @property
    def clocks(self) -> float:
        """All clocks."""
        return self.active + self.weight_stall + self.weight_shift + self.non_matrix

    def shares(self) -> dict[str, float]:
        """Each as a fraction of all clocks; the first four add up to 1."""
        return {name: value / self.clocks for name, value in vars(self).items()}


@dataclass
class _Timeline:
    """Where memory, FIFO and array stand, in clocks."""

    overlay: Overlay
    bytes_per_clock: float
    host_bytes_per_clock: float | None
    found: Stalls = field(default_factory=Stalls)
    now: float = 0.0
    memory: float = 0.0  # until when it is busy
    rows: deque[list[float]] = field(default_factory=deque)  # waiting: [rows, bytes of a row]
    left: deque[float] = field(default_factory=deque)  # when tiles left the FIFO, the last ones

    def pause(self, clocks: float) -> None:
        """Something else than a product."""
        self.now += clocks
        self.found.non_matrix += clocks

    def arrival(self, count: int) -> float:
        """When the next `count` rows of the stream have come from memory."""
        nbytes = 0.0
        while count:
            head = self.rows[0]
            taken = min(count, head[0])
            nbytes += taken * head[1]
            head[0] -= taken
            count -= int(taken)
            if not head[0]:
                self.rows.popleft()
        full = len(self.left) >= self.overlay.weight_tiles
        room = self.left.popleft() if full else 0.0
        self.memory = max(self.memory, room) + nbytes / self.bytes_per_clock
        return self.memory

    def multiply(self, f: Fields, batch: int) -> None:
        """The folds of a MatMul whose weights come from memory."""
        o, m = self.overlay, window.positions(f, batch)
        engine = systolic.ENGINES[isa.ENGINES[f["engine"]]]
        streamed, rows = systolic.stream_rows(f, o), o.rows + engine.index(f, o.lanes)
        shifted = swapped = ended = self.now
        for _ in range(f["tiles"] * systolic.folds_per_tile(f)):
            begin = max(self.arrival(streamed), shifted, swapped)
            shifted = begin + rows
            self.left.append(shifted)
            start = max(ended, shifted)
            self.found.weight_stall += max(0.0, begin - ended)
            self.found.weight_shift += start - max(begin, ended)
            self.found.active += m
            swapped, ended = start, start + m
        self.now = ended
        self.found.drain += engine.flush(o)
        self.pause(engine.flush(o))

    def other(self, kind: isa.Instruction, f: Fields, batch: int, before: Fields) -> None:
        """An instruction that is no product of weights."""
        clocks = BY_OPCODE[kind.opcode].clocks(f, self.overlay, batch, before)
        taken = float(clocks.drain + clocks.vector + clocks.table + clocks.transfer)
        self.found.active += clocks.matrix  # of an Attend, whose weights are there
        self.found.weight_shift += clocks.weight_shift
        self.found.drain += clocks.drain
        self.now += clocks.matrix + clocks.weight_shift
        if kind is isa.SET_TABLE:
            came = self.arrival(transfer.stream_rows(f, self.overlay))
            taken = max(taken, came - self.now)
        if kind in (isa.READ_HOST, isa.WRITE_HOST):
            if self.host_bytes_per_clock:
                moved = transfer.rows_moved(f, batch) * self.overlay.lanes
                taken = max(taken, moved / self.host_bytes_per_clock)
            self.found.transfer += taken
        self.pause(taken)


def stalls(
    program: Program, board: Board, batch: int = 1, host_bytes_per_s: float | None = None
) -> Stalls:
    """What the array does in one run of `batch` samples.

    Activations come at the port's pace, or at `host_bytes_per_s` where they cross a slower bus to
    another memory than weights do. Raises UsageError for engines of compressed weights, whose
    tiles are none.
    """
    hertz = board.clock_mhz * 1e6
    host = host_bytes_per_s / hertz if host_bytes_per_s else None
    line = _Timeline(program.overlay, board.memory_bytes_per_s / hertz, host)
    for segment in program.segments:
        if not isinstance(segment, AcceleratorSegment):
            continue
        decoded = [isa.decode(words) for words in segment.words]
        for kind, f in decoded:
            if kind is isa.READ_WEIGHTS:
                each = f["memory_rows"] * program.overlay.lanes / f["rows"]
                line.rows.append([float(f["rows"]), each])
        before: Fields = {}
        for kind, f in decoded:
            if kind is not isa.READ_WEIGHTS:  # which go on in the background
                line.pause(ISSUE_CLOCKS)
            if kind is isa.MAT_MUL:
                if compressed.is_compressed(f):
                    raise UsageError(f"{program.name}: engine {isa.ENGINES[f['engine']]} has none")
                line.multiply(f, batch)
            elif kind not in (isa.BARRIER, isa.READ_WEIGHTS):
                line.other(kind, f, batch, before)
            if kind is isa.ACTIVATE:
                before = {**before, **f}
            elif kind in (isa.MAT_MUL, isa.VECTOR, isa.ATTEND):
                before = f
    return line.found
