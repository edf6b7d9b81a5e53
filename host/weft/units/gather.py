"""Bitmask and gather: a multiplier tree that takes one output's weights after another.

The near-memory form of sparse weights: a bit per weight says whether it is there, and a window of
up to four channel blocks with at most `lanes` weights passes per clock. Without masks it is the
dense product of a few rows. The stream: packets of a row of masks (eight channel blocks, outputs
one behind the other) and the rows of values that begin in it; a codebook of 16 numbers in front of
all where codes are of 4 bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from weft.config import Overlay
from weft.state import Clocks, FaultError, Fields, State
from weft.units import window
from weft.units.compressed_engine import Compressed

ROWS = 8  # of activations that share the weights
WINDOW, MASKS, ENTRIES = 4, 8, 16
BOOK, DENSE = 1, 2  # bits of MatMul.codes

Bytes = NDArray[np.uint8]


def legal(f: Fields, overlay: Overlay, batch: int) -> bool:
    """A few rows, and words of a clock in different banks."""
    ours = f["words"] == WINDOW and f["activation_bits"] == 8 and f["codes"] <= BOOK | DENSE
    apart = f["blocks"] == 1 or f["source_block"] % 2 == 1
    return ours and apart and window.positions(f, batch) <= ROWS


def book_rows(lanes: int) -> int:
    """Stream rows of a codebook."""
    return -(-2 * ENTRIES // lanes)


def run(state: State, f: Fields, batch: int) -> tuple[NDArray[np.int32], Clocks]:
    """Sums [tiles, M, lanes], and clocks (weft.units.compressed)."""
    lanes = state.overlay.lanes
    rows = state.take(f["rows"]).astype(np.uint8).reshape(-1, lanes)
    layout = Layout(f["tiles"] * lanes * f["blocks"], lanes, f["codes"])
    masks, values = layout.split(rows)
    weights = layout.dense(masks, values, rows)
    x = _activations(state, f, batch)
    outputs = f["tiles"] * lanes
    exact = weights.reshape(outputs, -1).astype(np.float64) @ x.T.astype(np.float64)
    sums = exact.astype(np.int64).astype(np.uint32).astype(np.int32)
    head = book_rows(lanes) * state.overlay.beats if f["codes"] & BOOK else 0
    clocks = clocks_of(layout, masks, f["blocks"], len(x), state.overlay.beats, head)
    return np.ascontiguousarray(sums.reshape(f["tiles"], lanes, -1).transpose(0, 2, 1)), clocks


@dataclass(frozen=True)
class Layout:
    """How weights of `blocks` channel blocks, outputs one behind the other, lie in the stream."""

    blocks: int
    lanes: int
    codes: int

    @property
    def packets(self) -> int:
        """Rows of masks, or what takes their place."""
        return -(-self.blocks // MASKS)

    @property
    def per_row(self) -> int:
        """Codes in a row of values."""
        return self.lanes * (2 if self.codes & BOOK else 1)

    def value_rows(self, weights: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows of values that are there when packet by packet so many weights have come."""
        return np.asarray(-(-np.cumsum(weights) // self.per_row))

    def split(self, rows: Bytes) -> tuple[Bytes, Bytes]:
        """Masks [packets, lanes] and values [rows, lanes]; FaultError 10 if the rows don't match.

        Without masks all weights of the blocks that there are count as there.
        """
        at = book_rows(self.lanes) if self.codes & BOOK else 0
        _check_more(len(rows), at - 1)
        if at and int.from_bytes(rows[0, :2].tobytes(), "little"):
            raise FaultError(10, "row 0 of its weights: the codebook does not begin with 0")
        if self.codes & DENSE:
            full = self._full()
            _check_rows(len(rows), at + int(self.value_rows(weights_of(full))[-1]))
            return full, rows[at:]
        masks: list[Bytes] = []
        values: list[Bytes] = []
        weights = due = 0
        for packet in range(self.packets):
            _check_more(len(rows), at)
            bits = np.unpackbits(rows[at], bitorder="little")
            if bits[(self.blocks - packet * MASKS) * self.lanes :].any():
                raise FaultError(10, f"row {at} of its weights: a mask behind the last block")
            masks.append(rows[at])
            weights += int(bits.sum())
            more = -(-weights // self.per_row) - due
            if at + 1 + more > len(rows):
                _check_more(len(rows), len(rows))
            values.append(rows[at + 1 : at + 1 + more])
            at, due = at + 1 + more, due + more
        _check_rows(len(rows), at)
        return np.stack(masks), np.concatenate(values)

    def _full(self) -> Bytes:
        bits = np.zeros(self.packets * MASKS * self.lanes, np.uint8)
        bits[: self.blocks * self.lanes] = 1
        return np.packbits(bits, bitorder="little").reshape(-1, self.lanes)

    def dense(self, masks: Bytes, values: Bytes, rows: Bytes) -> NDArray[np.int64]:
        """Weights [blocks · lanes], zeros where the mask says so."""
        numbers = self._numbers(values, rows)
        there = np.unpackbits(masks.reshape(-1), bitorder="little").astype(bool)
        place = np.cumsum(there) - 1
        found = np.where(there, numbers[np.minimum(place, len(numbers) - 1)], 0)
        return np.asarray(found[: self.blocks * self.lanes])

    def _numbers(self, values: Bytes, rows: Bytes) -> NDArray[np.int64]:
        flat = np.ascontiguousarray(values).reshape(-1)
        if not self.codes & BOOK:
            numbers = flat.view(np.int8).astype(np.int64)
        else:
            head = np.ascontiguousarray(rows[: book_rows(self.lanes)]).reshape(-1)
            book = head[: 2 * ENTRIES].view("<i2")
            numbers = book[np.stack([flat & 15, flat >> 4], axis=-1).reshape(-1)].astype(np.int64)
        return numbers if len(numbers) else np.zeros(1, np.int64)


def _check_more(there: int, at: int) -> None:
    if at >= there:
        raise FaultError(10, f"row {there} of its weights: the masks want more rows")


def _check_rows(there: int, used: int) -> None:
    if used > there:
        raise FaultError(10, f"row {there} of its weights: {used - there} are missing")
    if used < there:
        raise FaultError(10, f"row {used} of its weights: {there - used} more than the masks say")


def weights_of(masks: Bytes) -> NDArray[np.int64]:
    """Weights of each packet."""
    return np.asarray(np.unpackbits(masks, axis=1).sum(axis=1), np.int64)


def _activations(state: State, f: Fields, batch: int) -> NDArray[np.int64]:
    """Codes [M, blocks · lanes]."""
    address, inside = window.walk(f, batch)
    step = np.arange(f["blocks"]) * f["source_block"]
    base = np.where(inside[0], address[0], 0)
    words = state.buffer[base[:, None] + step]
    words[~inside[0]] = f["pad"]
    return words.reshape(len(base), -1).astype(np.int64)


def windows(masks: Bytes, blocks: int, per_output: int, lanes: int, dense: bool) -> list[list[int]]:
    """Weights of the windows of each packet, in order: what hls/weft/units/gather.hpp takes."""
    bits = np.unpackbits(masks.reshape(-1), bitorder="little").reshape(-1, lanes)
    counts = bits.sum(axis=1).tolist()
    found: list[list[int]] = []
    at = 0
    for packet in range(len(masks)):
        end, made = min((packet + 1) * MASKS, blocks), []
        while at < end:
            last = min(end, at + (1 if dense else WINDOW), (at // per_output + 1) * per_output)
            taken, next_block = 0, at
            while next_block < last and taken + counts[next_block] <= lanes:
                taken += counts[next_block]
                next_block += 1
            made.append(taken)
            at = next_block
        found.append(made)
    return found


def clocks_of(
    layout: Layout, masks: Bytes, per_output: int, m: int, beats: int, head: int
) -> Clocks:
    """Clocks of the packets: when their rows come, and when their windows are done.

    A row that is read in one clock is used in the next; a packet opens when the last but one is
    done with.
    """
    dense = bool(layout.codes & DENSE)
    packets = windows(masks, layout.blocks, per_output, layout.lanes, dense)
    free, now, taken, rows, count = 0, 0, 0, 0, 0  # `free`: when the port may read again
    weights, done = 0, [0, 0]
    arrival: list[int] = []
    per_packet = weights_of(masks).tolist()
    for packet, made in enumerate(packets):
        opened = max(free, done[packet % 2])
        free = opened if dense else opened + beats
        weights += per_packet[packet]
        due = -(-weights // layout.per_row)
        arrival += [free + i * beats for i in range(due - rows)]
        free, rows = free + (due - rows) * beats, due
        for number in made:
            taken += number
            need = -(-taken // layout.per_row)
            now = max(now, opened + 1, arrival[need - 1] + 1 if need else 0) + m
        done[packet % 2] = now - 1
        count += len(made) * m
    return Clocks(matrix=count, weight_shift=now - count + head)


ENGINE = Compressed("gather", run, "bitmask, prefix sum and a tree of multipliers", legal=legal)
