"""The on-chip memories of the golden model, as instructions leave them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weft import isa
from weft.config import Overlay
from weft.errors import DeviceError

Fields = Mapping[str, int]
STATUS = {
    1: "unknown opcode",
    2: "a field out of range",
    3: "a unified-buffer address outside the buffer",
    4: "more rows than the accumulators have",
    5: "a table index outside the table",
    6: "MatMul or Vector without its Activate, an Activate without sums, an Adjust without an "
    "instruction, or no Barrier at the end",
    7: "output overlaps input",
    8: "a memory address outside what the host gave",
    9: "the weight stream does not match its use",
    10: "compressed weights that contradict themselves",
}


class FaultError(DeviceError):
    """A bad instruction, with the status code that the hardware reports (docs/isa.md)."""

    def __init__(self, status: int, detail: str = "", where: str = "") -> None:
        text = f"{STATUS.get(status, 'unknown')} (status {status})"
        super().__init__(": ".join(part for part in (where, text, detail) if part))
        self.status = status
        self.detail = detail


@dataclass
class Sums:
    """What MatMul or Vector hands to Activate: int32 [channel block, batch·out_h·out_w, lanes].

    `sources` are the words that were read, `repeat` whether a second Activate may
    drain the same sums (they are still in the finished bank: one tile of a MatMul).
    """

    blocks: NDArray[np.int32]
    out_h: int
    out_w: int
    sources: tuple[tuple[int, int, int], ...]  # (space, first, last)
    repeat: bool = False
    attends: bool = False
    scored: bool = False  # the input of an Attend was scores,
    divides: bool = False  # whose exponentials are still to be divided by their sums


@dataclass(frozen=True)
class StayingSums:
    """Sums of an Attend, tile by tile in the accumulators from row `first` on, for one that goes
    on; of `keys` keys, if it is one of scores.
    """

    first: int
    rows: int
    tiles: int
    scored: bool
    keys: int


@dataclass
class State:
    """Unified buffer, accumulators, tables and the weight stream of one device."""

    overlay: Overlay
    memory: NDArray[np.int8]
    weights: NDArray[np.int8]
    buffer: NDArray[np.int8] = field(init=False)
    partial: NDArray[np.int32] = field(init=False)
    parameters: NDArray[np.int8] = field(init=False)
    taps: NDArray[np.int8] = field(init=False)
    lookup: NDArray[np.int8] = field(init=False)
    stream: list[tuple[NDArray[Any], bool]] = field(default_factory=list)  # rows, for matvec
    sums: Sums | None = None
    pending: bool = False  # sums wait for their Activate
    queued: int = 0  # ReadWeights since the stream was last empty
    open_rows: int = 0  # rows of partial sums that a MatMul without `last` left
    taken: Clocks | None = None  # of the last instruction, where its data decide on them
    wide: NDArray[np.int16] = field(init=False)  # residual stream, scores
    operands: NDArray[np.int8] = field(init=False)  # keys and values
    row_maximum: NDArray[np.int64] = field(init=False)  # of each row of scores
    row_sum: NDArray[np.int64] = field(init=False)  # of its exponentials
    softmax_table: Any = field(init=False)  # a TableExponential, once it is loaded
    norm_table: Any = None  # a TableRoot, once it is loaded
    scores: int = field(init=False)  # rows whose maxima are known
    staying: StayingSums | None = None  # sums that an Attend left for one that goes on
    magnitudes: NDArray[np.int64] = field(init=False)  # of the rows of the last Norm with ranges,
    ranged: int = field(init=False)  # of which there are so many
    token_ranges: NDArray[np.int16] = field(init=False)  # magnitudes of keys and values, by token
    read: NDArray[np.bool_] = field(init=False)  # rows of memory, in this segment
    written: NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        o = self.overlay
        self.buffer = np.zeros((o.buffer_words, o.lanes), np.int8)
        self.partial = np.zeros((o.accumulator_rows, o.lanes), np.int32)
        self.parameters = np.zeros((o.parameter_blocks, isa.PARAMETER_ROWS, o.lanes), np.int8)
        self.taps = np.zeros((o.tap_words, o.lanes), np.int8)
        self.lookup = np.zeros((isa.LOOKUP_ENTRIES, o.lanes), np.int8)
        self.wide = np.zeros((o.words_of("wide"), o.lanes), np.int16)
        self.operands = np.zeros((o.words_of("operand"), o.lanes), np.int8)
        self.token_ranges = np.zeros((o.words_of("ranges"), o.lanes), np.int16)
        self.row_maximum = np.zeros(o.accumulator_rows, np.int64)
        self.row_sum = np.zeros(o.accumulator_rows, np.int64)
        self.magnitudes = np.zeros(o.accumulator_rows, np.int64)
        self.softmax_table = None
        self.begin()

    def space(self, number: int) -> NDArray[Any]:
        """An on-chip buffer of activations; one without words where the overlay has none."""
        return (self.buffer, self.operands, self.wide, self.token_ranges)[number]

    def begin(self) -> None:
        """Start of a segment: nothing waits, whatever the one before left behind."""
        self.stream, self.sums = [], None
        self.pending, self.queued, self.open_rows = False, 0, 0
        self.scores = self.ranged = 0
        self.staying = None
        self.late = np.zeros(len(self.memory), np.bool_)  # rows that are read once they are written
        self.written = np.zeros(len(self.memory), np.bool_)
        self.cached = np.zeros(len(self.memory), np.bool_)  # that came through the weight ports

    def feed(self, rows: NDArray[Any], matvec: bool = False) -> None:
        """Puts rows into the weight stream, one by one or as engine matvec takes them."""
        self.stream.append((rows, matvec))

    def need(self, rows: int, matvec: bool = False) -> None:
        """Raises FaultError if the weight stream does not go on with `rows` such rows."""
        there = sum(len(block) for block, _ in self.stream)
        if there < rows:
            raise FaultError(9, f"{rows - there} rows are missing")
        for block, grouped in self.stream:
            if rows > 0 and grouped != matvec:
                raise FaultError(9, f"rows that are {'' if grouped else 'not '}for engine matvec")
            rows -= len(block)

    def ahead(self, rows: int) -> NDArray[Any]:
        """A copy of the next `rows` rows of the weight stream, which stay in it."""
        self.need(rows)
        blocks = (block for block, _ in self.stream)
        whole = [np.zeros((0, self.overlay.lanes), np.int8), *blocks]
        return np.asarray(np.concatenate(whole)[:rows])

    def take(self, rows: int, matvec: bool = False) -> NDArray[Any]:
        """The next `rows` rows of the weight stream."""
        self.need(rows, matvec)
        taken: list[NDArray[Any]] = []
        while rows:
            head = self.stream.pop(0)[0]
            taken.append(head[:rows])
            if len(head) > rows:
                self.stream.insert(0, (head[rows:], matvec))
            rows -= len(taken[-1])
        if not self.stream:
            self.queued = 0
        if not taken:
            return np.zeros((0, self.overlay.lanes), np.int8)
        return taken[0] if len(taken) == 1 else np.concatenate(taken)

    def finish(self) -> None:
        """End of a segment. Raises FaultError for unused weights, DeviceError for hazards."""
        if self.stream:
            rows = sum(len(block) for block, _ in self.stream)
            raise FaultError(9, f"{rows} rows are never used")
        # Weight ports run ahead of everything: what they read nothing may write.
        late = np.flatnonzero(self.late | self.cached & self.written)
        if len(late):
            raise DeviceError(
                f"memory rows {late[0]}..{late[-1]} are read in the segment that has written them"
            )


@dataclass(frozen=True)
class Clocks:
    """Clocks of one instruction by cause; their sum is what the cycle counter counts."""

    issue: int = 0
    matrix: int = 0
    weight_shift: int = 0
    drain: int = 0
    vector: int = 0
    table: int = 0
    transfer: int = 0

    @property
    def total(self) -> int:
        """All clocks."""
        return sum(vars(self).values())


COUNTERS = tuple(Clocks.__dataclass_fields__)

# Decoding an instruction and filling the pipeline of its loop: an assumption until a synthesis
# report says better. The same constant is in hls/weft/config (kIssueClocks).
ISSUE_CLOCKS = 8


@dataclass(frozen=True)
class Unit:
    """One hardware unit: the instructions it runs, its golden model and its clocks.

    `golden(state, fields, batch)` changes the state; `clocks(fields, overlay, batch, before)` is
    what hls/weft/units/<name>.hpp takes; `before` are the fields of the instruction before it.
    """

    name: str
    instructions: tuple[isa.Instruction, ...]
    golden: Callable[[State, Fields, int], None]
    clocks: Callable[[Fields, Overlay, int, Fields], Clocks]
    doc: str
