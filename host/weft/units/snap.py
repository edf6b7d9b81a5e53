"""The SNAP engine: weights and activations without their zeros, paired by index.

Zhang et al., SNAP: sparse neural acceleration processor, VLSI 2019, JSSC 2021. Bundles of channels
meet in PEs of `snap_macs` multipliers; hls/weft/units/snap.hpp says which PE has which bundles, and
snap_load.hpp what the rows of the weight stream hold. A PE finds the pairs of one bundle per clock
and multiplies up to `snap_macs` of them, across the bundles of an output.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from weft.config import Overlay
from weft.state import Clocks, Fields, State
from weft.units import snap_stream, window
from weft.units.compressed_engine import Compressed
from weft.units.snap_plan import Plan

Counts = NDArray[np.int32]
Masks = NDArray[np.bool_]


@dataclass(frozen=True)
class Work:
    """What the PEs do: `stages` [blocks, groups] of clocks, and how often sums are written.

    `pairs`: products of two numbers that are not 0; `busy`: clocks of PEs that multiply;
    `pes`: sums that leave a PE; `outputs`: sums that leave a row of PEs.
    """

    stages: NDArray[np.int64]
    pairs: int
    busy: int
    pes: int
    outputs: int


def legal(f: Fields, overlay: Overlay, batch: int) -> bool:
    """Whether codes are int8, weights int8 or of a codebook, and the bundles of an output fit."""
    plain = f["words"] == 1 and f["activation_bits"] == 8 and f["codes"] <= 1
    bundles = window.taps(f) * -(-f["blocks"] // (overlay.snap_bundle // overlay.rows))
    return plain and bundles <= overlay.snap_cols * overlay.snap_depth


def run(state: State, f: Fields, batch: int) -> tuple[NDArray[np.int32], Clocks]:
    """Sums [tiles, M, lanes] and the clocks that they take.

    Raises FaultError 10 where the rows of the stream contradict themselves.
    """
    overlay = state.overlay
    plan = Plan.of(f, overlay, batch)
    rows = state.take(f["rows"]).astype(np.uint8)
    records = snap_stream.parse(rows, plan, overlay, bool(f["codes"] & 1))
    x = activations(state, f, batch)
    weights = records.dense(plan, overlay)
    work = pe_work(records.stored(plan), weights[1], x != 0, plan, overlay)
    sums = _products(x, weights[0])
    tiles = sums.reshape(plan.positions, f["tiles"], -1).transpose(1, 0, 2)
    loads = plan.loads(window.taps(f) * f["blocks"])
    return np.ascontiguousarray(tiles), clocks(plan, overlay, work.stages, records, loads)


def activations(state: State, f: Fields, batch: int) -> NDArray[np.int32]:
    """Codes less their zero point [M, bundles, channels]; 0 outside the map."""
    overlay = state.overlay
    words = overlay.snap_bundle // overlay.rows
    address, inside = window.walk(f, batch)  # [taps, M]
    per_tap = -(-f["blocks"] // words)
    found = np.zeros((*address.shape, per_tap * words, overlay.lanes), np.int32)
    base = np.where(inside, address, 0)
    for block in range(f["blocks"]):
        found[:, :, block] = state.buffer[base + block * f["source_block"]]
        found[:, :, block] -= f["pad"]
    found[~inside] = 0
    taps, m = address.shape
    return found.transpose(1, 0, 2, 3).reshape(m, taps * per_tap, overlay.snap_bundle)


def _products(x: NDArray[np.int32], w: NDArray[np.int32]) -> NDArray[np.int32]:
    """Sums [M, outputs] of x [M, bundles, channels] and w [outputs, bundles, channels]."""
    a, b = x.reshape(len(x), -1), w.reshape(len(w), -1)
    # Exact in float64: 2^8 · 2^15 · K stays below 2^53.
    sums = a.astype(np.float64) @ b.astype(np.float64).T
    return sums.astype(np.int64).astype(np.uint32).astype(np.int32)  # wraps


def pe_work(stored: Masks, weights: Masks, x: Masks, plan: Plan, overlay: Overlay) -> Work:
    """What the PEs do with items of weights [outputs, bundles, channels] and of activations.

    `stored` [outputs, bundles]: which bundles of weights are there at all.
    """
    outputs, m, cols, macs = len(weights), len(x), overlay.snap_cols, overlay.snap_macs
    left = np.zeros((cols, outputs, m), np.int16)  # pairs that wait for the next bundle
    taken, busy = np.zeros((cols, outputs, m), np.int32), 0
    pairs = 0
    for first in range(0, plan.bundles, cols):
        here = slice(first, min(first + cols, plan.bundles))
        n = here.stop - first
        a = x[:, here].transpose(1, 2, 0).astype(np.float32)
        matches = (weights[:, here].transpose(1, 0, 2).astype(np.float32) @ a).astype(np.int16)
        pairs += int(matches.sum(dtype=np.int64))
        there = stored[:, here].T[:, :, None]
        waiting = left[:n] + matches
        busy += int((there & (waiting > 0)).sum())
        rest = np.maximum(waiting - macs, 0)
        busy += int((there * (rest // macs)).sum(dtype=np.int64))
        taken[:n] += there * (1 + rest // macs)
        left[:n] = np.where(there, rest % macs, left[:n])
    busy += int((left > 0).sum())
    taken += left > 0
    np.maximum(taken, 1, out=taken)  # also an output without weights has its clock
    return Work(_stages(taken, plan), pairs, busy, taken.size, outputs * m)


def _stages(taken: Counts, plan: Plan) -> NDArray[np.int64]:
    """Clocks [blocks, groups] of the slowest PE, and its first find; `taken` [cols, outputs, M]."""
    groups = np.add.reduceat(taken, np.arange(0, plan.positions, plan.group), axis=2)
    cols, outputs, count = groups.shape
    size = plan.slots * plan.units
    whole = np.zeros((cols, plan.blocks * size, count), np.int64)
    whole[:, :outputs] = groups
    per_unit = whole.reshape(cols, plan.blocks, plan.slots, plan.units, count).sum(axis=2)
    return np.asarray(1 + per_unit.max(axis=(0, 2)))


def clocks(
    plan: Plan,
    overlay: Overlay,
    stages: NDArray[np.int64],
    records: snap_stream.Records,
    loads: NDArray[np.int64],
) -> Clocks:
    """Clocks of a MatMul whose stages [blocks, groups] take so long each.

    A stage begins when the one before has ended, its activations (`loads` [groups]) and weights are
    loaded, and the sums of the stage before that one are written.
    """
    passes = -(-plan.units // overlay.lanes)
    start = max(int(records.clocks[0]), int(loads[0]))  # of the stage
    written = weights = 0  # when the writer is done; when the next block's weights are there
    sizes = [plan.positions_of(stage) for stage in range(plan.groups)]
    before = 0  # what the writer has to do for the stage before
    for block in range(plan.blocks):
        slots = plan.slots_of(block)
        for stage in range(plan.groups):
            written = start + before
            if stage == 0 and block + 1 < plan.blocks:
                weights = start + int(records.clocks[block + 1])
            last = stage == plan.groups - 1
            final = last and block == plan.blocks - 1
            loaded = start if final else start + int(loads[0 if last else stage + 1])
            end = max(start + int(stages[block, stage]), written, loaded)
            start = max(end, weights) if last else end
            before = sizes[stage] * slots * passes
    busy = int(stages.sum())
    return Clocks(matrix=busy, drain=before, weight_shift=records.lead + start - busy)


ENGINE = Compressed("snap", run, "weights and activations paired by index (SNAP)", False, legal)
