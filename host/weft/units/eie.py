"""EIE: sparse weights times sparse activations (Han et al., ISCA 2016), golden model and clocks.

Output i belongs to processing element (PE) i mod P. A PE keeps its part of every weight column
as (value, zero rows before it). For each non-zero activation, in order, every PE adds its column's
entries times the activation to its outputs, an entry per clock: zeros of both sides cost nothing.

Phases of a MatMul: the compressed layer is loaded into the PEs; then, vector by vector, the
non-zero activations are broadcast. `simulate` says where the clocks of a vector go.

A layer in the weight stream (`lower/eie.py` writes it), each byte of all PEs side by side:

| rows | content |
|---|---|
| 32 / lanes, rounded up | codebook of 16 int16, entry 0 is 0; only with 4-bit codes |
| (K + 1) · 2 · P / lanes | p[0..K], 16 bits: column j has the entries p[j]..p[j + 1] − 1 |
| the rest | entries: code + 16 · zeros; without a codebook a byte of value, one of zeros |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weft.config import Overlay
from weft.state import Clocks, FaultError, Fields, State
from weft.units import window
from weft.units.compressed_engine import Compressed

Counts = NDArray[np.int64]
CODEBOOK_BYTES = 32  # 16 entries of int16
MEMORY_CLOCKS = 2  # from an address to its data in a register
WINDOW = 4  # words under the detector: its upper node takes four, as every node of the paper's
BROADCAST_CLOCKS = 3  # from an activation's broadcast to its column's first entry
FLUSH_CLOCKS = 2  # sums that wait in the bypass of the accumulators


@dataclass(frozen=True)
class Report:
    """Where the clocks of one vector go.

    `clocks` in all; `broadcasts` non-zero activations; `stalled` clocks in which one waited for a
    full queue, `unread` for its word; `work` [P] clocks that each PE needs, one per entry and per
    empty column; `empty` [P] those of empty columns; `occupancy` [queue + 1] PE clocks by columns
    that wait in the queue.
    """

    clocks: int
    broadcasts: int
    stalled: int
    unread: int
    work: Counts
    empty: Counts
    occupancy: Counts

    @property
    def efficiency(self) -> float:
        """Mean work of a PE per clock: what the paper calls load balance."""
        return float(self.work.mean()) / self.clocks


@dataclass
class _Trace:
    """Events of one vector: the clock of each broadcast, and of its start in each PE."""

    broadcast: list[int]
    start: list[Counts]
    ready: list[tuple[int, int]]  # when its word was there, and when all queues had room


def vector_clocks(
    counts: Counts, active: NDArray[np.bool_], lanes: int, queue: int, trace: _Trace | None = None
) -> Counts:
    """Clocks [M] of vectors whose non-zero activations are `active` [M, K].

    `counts` [K, P]: entries of each column in each PE. A column takes max(1, entries) clocks.
    Activations are read in words of `lanes`, one per clock, up to WINDOW ahead of the broadcast;
    one is broadcast when every PE has fewer than `queue` columns that have not started.
    """
    m, k = active.shape
    cost = np.maximum(counts, 1)
    free = np.zeros((m, counts.shape[1]), np.int64)  # first clock in which a PE is idle
    started = np.full((m, queue), -1, np.int64)  # last start in any PE, of the last broadcasts
    sent = np.zeros(m, np.int64)
    last = np.full(m, -1, np.int64)
    read = np.full(m, -1, np.int64)
    released = np.full((WINDOW, m), -1, np.int64)
    for word in range(-(-k // lanes)):
        read = np.maximum(read, released[word % WINDOW]) + 1
        zero = there = read + MEMORY_CLOCKS
        for j in range(word * lanes, min((word + 1) * lanes, k)):
            v = np.flatnonzero(active[:, j])
            if not len(v):
                continue
            slot = sent[v] % queue
            now = np.maximum(np.maximum(last[v], started[v, slot]) + 1, there[v])
            start = np.maximum(free[v], now[:, None] + BROADCAST_CLOCKS)
            if trace is not None:
                trace.broadcast.append(int(now[0]))
                trace.start.append(start[0])
                trace.ready.append((int(there[0]), int(started[0, slot[0]]) + 1))
            free[v] = start + cost[j]
            started[v, slot] = start.max(axis=1)
            sent[v] += 1
            last[v] = now
            zero = np.array(zero)
            zero[v] = now + 1
        released[word % WINDOW] = np.maximum(released[(word - 1) % WINDOW], zero)
    return np.asarray(np.maximum(free.max(axis=1), released.max(axis=0) + 1))


def simulate(
    counts: Counts, activations: NDArray[Any], lanes: int = 16, queue: int = 8, zero: int = 0
) -> Report:
    """The clocks of one vector: `counts` [K, P] entries, `activations` [K] codes."""
    active = np.asarray(activations) != zero
    trace = _Trace([], [], [])
    clocks = int(vector_clocks(counts, active[None], lanes, queue, trace)[0])
    broadcast = np.asarray(trace.broadcast, np.int64)
    start = np.reshape(np.asarray(trace.start, np.int64), (len(broadcast), counts.shape[1]))
    there, room = np.reshape(np.asarray(trace.ready, np.int64), (-1, 2)).T
    before = np.concatenate([[-1], broadcast[:-1]])[: len(broadcast)] + 1
    waits = np.zeros((clocks + 1, counts.shape[1]), np.int64)  # columns in the queues, per clock
    np.add.at(waits, broadcast + 1, 1)
    np.add.at(waits, (start, np.arange(counts.shape[1])[None]), -1)
    used = counts[active]
    return Report(
        clocks=clocks,
        broadcasts=len(broadcast),
        stalled=int(np.maximum(room - np.maximum(before, there), 0).sum()),
        unread=int(np.maximum(there - np.maximum(before, room), 0).sum()),
        work=np.maximum(used, 1).sum(axis=0),
        empty=(used == 0).sum(axis=0),
        occupancy=np.bincount(waits.cumsum(axis=0)[:clocks].ravel(), minlength=queue + 1),
    )


@dataclass(frozen=True)
class Layer:
    """A layer as the PEs hold it: entries [E] by PE, column and order.

    `output`, `column`, `value`, and `row`, the stream row that ends the entry; `counts` [K, P].
    """

    output: Counts
    column: Counts
    value: Counts
    row: Counts
    counts: Counts


@dataclass(frozen=True)
class Shape:
    """Sizes of a layer in the stream; `header` rows stand before the entries."""

    inputs: int
    lanes: int
    pes: int
    codebook: bool

    @property
    def bytes(self) -> int:
        """Bytes of an entry."""
        return 1 if self.codebook else 2

    @property
    def groups(self) -> int:
        """Rows of a byte of all PEs."""
        return self.pes // self.lanes

    @property
    def codebook_rows(self) -> int:
        """Rows of the codebook."""
        return -(-CODEBOOK_BYTES // self.lanes) if self.codebook else 0

    @property
    def header(self) -> int:
        """Rows of the codebook and the pointers."""
        return self.codebook_rows + (self.inputs + 1) * 2 * self.groups

    def entries(self, rows: int) -> int:
        """Entries of a PE in a stream of `rows` rows; a part of one counts."""
        return -(-max(0, rows - self.header) // (self.groups * self.bytes))


def refusal(o: Overlay, blocks: int, tiles: int) -> str | None:
    """Why a layer of so many words in and out has no place in the PEs, whatever its weights."""
    inputs = blocks * o.lanes
    if inputs >= o.eie_pointers:
        return f"{inputs} inputs need {inputs + 1} of eie_pointers = {o.eie_pointers}"
    rows = -(-tiles * o.lanes // o.eie_pes)
    if rows > o.eie_outputs:
        return f"{tiles * o.lanes} outputs are {rows} per PE of eie_outputs = {o.eie_outputs}"
    return None


def legal(f: Fields, o: Overlay, batch: int) -> bool:
    """Whether the engine takes a MatMul; any number of samples."""
    return f["codes"] <= 1 and refusal(o, f["blocks"], f["tiles"]) is None


def run(state: State, f: Fields, batch: int) -> tuple[NDArray[np.int32], Clocks]:
    """Sums [tiles, M, lanes] and clocks of a MatMul; takes its rows from the weight stream.

    Raises FaultError 10 for a corrupted stream, with the row where it is. Entries are checked when
    they are used: those of columns whose activations are all zero are not.
    """
    o, m = state.overlay, window.positions(f, batch)
    shape, layer = _layer(o, f, state.take(f["rows"]))
    codes = _activations(state, f, batch)
    active = codes != f["pad"]
    _check_outputs(layer, active, f["tiles"] * o.lanes)
    x = (codes.astype(np.int64) - f["pad"]).astype(np.float64)
    w = np.zeros((shape.inputs, f["tiles"] * o.lanes), np.float64)
    used = layer.output < w.shape[1]
    # The sums are exact in floating point: below 2^8 · 2^15 · 2^16.
    w[layer.column[used], layer.output[used]] = layer.value[used]
    sums = (x @ w).astype(np.int64).astype(np.uint32).astype(np.int32)
    vectors = int(vector_clocks(layer.counts, active, o.lanes, o.eie_queue).sum())
    clocks = Clocks(
        matrix=vectors,
        weight_shift=_load_clocks(shape, f["rows"], f["pace"]),
        drain=m * (f["tiles"] + FLUSH_CLOCKS),
    )
    return sums.reshape(m, f["tiles"], o.lanes).transpose(1, 0, 2), clocks


def _layer(o: Overlay, f: Fields, rows: NDArray[Any]) -> tuple[Shape, Layer]:
    """Sizes and entries of a MatMul's layer, in its `rows` of the stream; raises FaultError 10."""
    shape = Shape(f["blocks"] * o.lanes, o.lanes, o.eie_pes, bool(f["codes"]))
    return shape, unpacked(o, shape, rows.astype(np.uint8))


def watched(state: State, f: Fields, batch: int) -> tuple[Layer, NDArray[np.bool_]]:
    """The layer of a MatMul that is about to run, and which activations [M, K] it will broadcast.

    Raises FaultError as `run`.
    """
    layer = _layer(state.overlay, f, state.ahead(f["rows"]))[1]
    return layer, _activations(state, f, batch) != f["pad"]


def _load_clocks(shape: Shape, rows: int, pace: int) -> int:
    """A row takes `pace` clocks to arrive, an entry of the codebook one to be copied."""
    copies = max(0, CODEBOOK_BYTES // 2 - shape.codebook_rows * pace) if shape.codebook else 0
    return rows * pace + copies


def unpacked(o: Overlay, shape: Shape, rows: NDArray[np.uint8]) -> Layer:
    """The layer in the stream `rows` [rows, lanes].

    Raises FaultError 10 where it is cut off, too large, or its pointers descend or leave it.
    """
    entries = shape.entries(len(rows))
    whole = np.zeros((shape.header + entries * shape.groups * shape.bytes, shape.lanes), np.uint8)
    whole[: len(rows)] = rows
    book = whole[: shape.codebook_rows].reshape(-1)[:CODEBOOK_BYTES].view("<i2").astype(np.int64)
    pointers = whole[shape.codebook_rows : shape.header].reshape(-1, 2, shape.pes).astype(np.int64)
    pointers = pointers[:, 0] | pointers[:, 1] << 8
    _check_stream(o, shape, len(rows), book, pointers)
    packed = whole[shape.header :].reshape(entries, shape.bytes, shape.pes)
    counts = np.diff(pointers, axis=0)
    column = np.repeat(np.tile(np.arange(shape.inputs), shape.pes), counts.T.ravel())
    pe = np.repeat(np.arange(shape.pes), counts.sum(axis=0))
    at = _spread(pointers[0], counts.sum(axis=0))
    bytes_at = packed[at, :, pe].astype(np.int64)
    zeros = bytes_at[:, 0] >> 4 if shape.codebook else bytes_at[:, 1]
    value = book[bytes_at[:, 0] & 15] if shape.codebook else (bytes_at[:, 0] ^ 128) - 128
    place = (at * shape.bytes + shape.bytes - 1) * shape.groups + pe // shape.lanes
    local = _walk(zeros + 1, counts.T.ravel()) - 1
    return Layer(local * shape.pes + pe, column, value, shape.header + place, counts)


def _spread(first: Counts, counts: Counts) -> Counts:
    """first[i], first[i] + 1, ... counts[i] of them, one i after another."""
    before = np.cumsum(counts) - counts
    return np.asarray(np.arange(int(counts.sum())) + np.repeat(first - before, counts))


def _walk(steps: Counts, counts: Counts) -> Counts:
    """Sums of `steps` so far, in each of the runs of `counts` steps anew."""
    total = np.concatenate([[0], np.cumsum(steps)])
    before = total[np.cumsum(counts) - counts]
    return np.asarray(total[1:] - np.repeat(before, counts))


def _check_stream(o: Overlay, shape: Shape, rows: int, book: Counts, pointers: Counts) -> None:
    """Raises FaultError for the first row that is wrong."""
    entries = shape.entries(rows)
    faults: list[tuple[int, str]] = []
    if shape.codebook and book[0] != 0:
        faults.append((0, f"entry 0 of the codebook is {book[0]}"))
    before = np.concatenate([np.zeros_like(pointers[:1]), pointers[:-1]])
    bad = np.argwhere((pointers < before) | (pointers > entries))
    if len(bad):
        j, pe = (int(i) for i in bad[0])
        row = shape.codebook_rows + (2 * j + 1) * shape.groups + pe // shape.lanes
        text = f"pointer {j} of PE {pe} is {pointers[j, pe]}, after {before[j, pe]}, of {entries}"
        faults.append((row, text))
    if entries * shape.bytes > o.eie_entries:
        row = shape.header + o.eie_entries * shape.groups
        faults.append((row, f"{entries * shape.bytes} bytes, eie_entries = {o.eie_entries}"))
    if rows < shape.header + entries * shape.groups * shape.bytes:
        faults.append((rows, "the stream is cut off"))
    if faults:
        row, text = min(faults)
        raise FaultError(10, f"row {row} of its weights: {text}")


def _check_outputs(layer: Layer, active: NDArray[np.bool_], outputs: int) -> None:
    """Raises FaultError if an entry of a broadcast column leaves its PE's outputs.

    The row is the first of those in the stream.
    """
    bad = layer.output >= outputs
    broadcast = np.asarray(active.any(axis=0))
    met = broadcast[layer.column[bad]]
    if met.any():
        row = int(layer.row[bad][met].min())
        raise FaultError(10, f"row {row} of its weights: an entry leaves the {outputs} outputs")


def _activations(state: State, f: Fields, batch: int) -> NDArray[np.int8]:
    """Codes [M, K]: of the buffer, or `pad` outside the map."""
    address, inside = (a[0] for a in window.walk(f, batch))
    base = np.where(inside, address, 0)
    words = base[:, None] + np.arange(f["blocks"]) * f["source_block"]
    codes = state.buffer[words]
    codes[~inside] = f["pad"]
    return np.asarray(codes.reshape(len(base), -1))


ENGINE = Compressed("eie", run, "sparse weights × sparse activations (EIE)", legal=legal)
