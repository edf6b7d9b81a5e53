"""The weight stream of the SNAP engine: records of bundles, written and read.

hls/weft/units/snap_load.hpp has the layout. Both ways are here, so that the packer and the golden
model share it; the hardware's reader is the second one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from weft.config import Overlay
from weft.state import FaultError
from weft.units.snap_plan import Plan

BAD_SPARSE = 10
BLOCK_HEADER, BOOK, LONGEST_GAP = 4, 16, 127
LAST = 0x80
Bytes = NDArray[np.uint8]
Index = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Records:
    """Bundles of weights as the stream has them, one after another.

    `output`, `bundle` [records]; `mask` [records, channels]; `values` [items] in order; `clocks`
    [blocks]: until a block is loaded; `lead`: those of the codebook.
    """

    output: Index
    bundle: Index
    mask: NDArray[np.bool_]
    values: NDArray[np.int32]
    clocks: Index
    lead: int

    def dense(self, plan: Plan, overlay: Overlay) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """Weights [outputs, bundles, channels], and where there is one."""
        shape = plan.outputs, plan.bundles, overlay.snap_bundle
        there = np.zeros(shape, np.bool_)
        there[self.output, self.bundle] = self.mask
        weights = np.zeros(shape, np.int32)
        weights[there] = self.values  # records come in this order
        return weights, there

    def stored(self, plan: Plan) -> NDArray[np.bool_]:
        """Bundles [outputs, bundles] that the PEs get: those with items."""
        found = np.zeros((plan.outputs, plan.bundles), np.bool_)
        found[self.output, self.bundle] = self.mask.any(axis=1)
        return found


def book_rows(overlay: Overlay) -> int:
    """Stream rows of a codebook."""
    return -(-2 * BOOK // overlay.lanes)


def parse(rows: Bytes, plan: Plan, overlay: Overlay, coded: bool) -> Records:
    """Reads the rows [rows, lanes] of a MatMul. Raises FaultError 10 with the row that is wrong."""
    lead = book_rows(overlay) if coded else 0
    if len(rows) < lead:
        raise fault(len(rows))
    flat = rows.reshape(-1)
    length = lengths(flat, overlay, coded)
    start, sizes = _records(flat, length, lead, plan, overlay.lanes)
    head = flat[start]
    output = np.concatenate([[0], np.cumsum(head >= LAST)[:-1]]).astype(np.int64)
    step = (head & LONGEST_GAP).astype(np.int64) + 1
    total = np.cumsum(step)
    begin = np.flatnonzero(np.diff(output, prepend=-1))
    bundle = total - np.repeat(total[begin] - step[begin], np.diff([*begin, len(total)])) - 1
    mask_bytes = flat[start[:, None] + 1 + np.arange(overlay.snap_bundle // 8)]
    mask = np.unpackbits(mask_bytes, axis=1, bitorder="little").astype(bool)
    values = _values(flat, start + 1 + overlay.snap_bundle // 8, mask.sum(axis=1), coded)
    if coded:
        values = flat[: 2 * BOOK].view("<i2").astype(np.int32)[values]
    clocks = _clocks(start + length[start], sizes, overlay)
    return Records(output, bundle, mask, values, clocks, lead)


def fault(row: int) -> FaultError:
    """Status 10 with its row, in the words of the simulation."""
    return FaultError(BAD_SPARSE, f"row {row} of its weights")


def _values(flat: Bytes, first: Index, counts: Index, coded: bool) -> NDArray[np.int32]:
    """Items of all records, of which `counts` begin at byte `first` each."""
    within = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
    if not coded:
        return np.asarray(flat[np.repeat(first, counts) + within].view(np.int8), np.int32)
    packed = flat[np.repeat(first, counts) + within // 2]
    return np.asarray(packed >> (4 * (within & 1)) & 15, np.int32)


def lengths(flat: Bytes, overlay: Overlay, coded: bool) -> Index:
    """Bytes of the record that begins at each byte, if one does."""
    mask = overlay.snap_bundle // 8
    padded = np.concatenate([flat, np.zeros(mask + 1, np.uint8)])
    bits = np.unpackbits(padded[:, None], axis=1).sum(axis=1, dtype=np.int64)
    total = np.concatenate([[0], np.cumsum(bits)])
    items = total[1 + mask : 1 + mask + len(flat)] - total[1 : 1 + len(flat)]
    return np.asarray(1 + mask + (-(-items // 2) if coded else items))


def _records(
    flat: Bytes, length: Index, lead: int, plan: Plan, lanes: int
) -> tuple[Index, list[tuple[int, int]]]:
    """First bytes of all records, and of each block its first byte and how many records.

    Raises FaultError like the hardware's loader, in the order of its clocks.
    """
    rows = len(flat) // lanes
    heads = list(zip(flat.tolist(), length.tolist(), strict=True))
    starts: list[int] = []
    sizes: list[tuple[int, int]] = []
    row = lead
    for block in range(plan.blocks):
        if row >= rows:
            raise fault(rows)
        at = row * lanes
        count = int(flat[at : at + BLOCK_HEADER].view("<u4")[0]) & 0x7FFFFFFF
        if count == 0 or count > rows - row:
            raise fault(row)
        before, end = len(starts), (row + count) * lanes
        at = _walk_block(heads, starts, (at + BLOCK_HEADER, end), plan, block, lanes)
        if -(-at // lanes) != row + count:
            raise fault(-(-at // lanes))
        sizes.append((row * lanes, len(starts) - before))
        row += count
    if row < rows:
        raise fault(row)
    return np.array(starts, np.int64), sizes


def _walk_block(
    heads: list[tuple[int, int]],
    starts: list[int],
    span: tuple[int, int],
    plan: Plan,
    block: int,
    lanes: int,
) -> int:
    """Adds the records of a block, which begin and end within `span`; the byte behind them."""
    at, end = span
    outputs, bundle = plan.outputs_of(block), -1
    while outputs:
        if at >= end or at + heads[at][1] > end:
            raise fault(end // lanes)
        head, length = heads[at]
        bundle += (head & LONGEST_GAP) + 1
        if bundle >= plan.bundles:
            raise fault(at // lanes)
        if head & LAST:
            outputs -= 1
            bundle = -1
        starts.append(at)
        at += length
    return at


def _clocks(end: Index, sizes: list[tuple[int, int]], overlay: Overlay) -> Index:
    """Clocks [blocks] until a block is loaded; at most a record leaves the window per clock.

    `end`: the byte behind each record; `sizes`: each block's first byte and number of records.
    """
    found, done = [], 0
    for first, count in sizes:
        part = np.concatenate([[BLOCK_HEADER], end[done : done + count] - first])
        found.append(_block_clocks(part, overlay))
        done += count
    return np.array(found, np.int64)


def _block_clocks(end: Index, overlay: Overlay) -> int:
    """Clocks of a block whose header and records end in front of these bytes."""
    longest = 1 + overlay.snap_bundle // 8 + overlay.snap_bundle
    row_of = ((end - 1) // overlay.lanes).tolist()
    # A row enters when the record has left that makes room for it.
    room = np.arange(row_of[-1] + 1) * overlay.lanes - longest + 1
    makes_room = np.searchsorted(end, room).tolist()
    left, entered = [1], [0]  # clocks at which records left, and rows entered
    for row in row_of[1:]:
        while len(entered) <= row:
            entered.append(max(entered[-1] + 1, left[makes_room[len(entered)]]))
        left.append(max(left[-1], entered[row]) + 1)
    return left[-1] + 1
