"""What the engines of sparse weights take, counted by hand from their operators (hls/weft/units/).

LUTs of a multiplexer: a 4:1 of one bit is one LUT6. Memories are counted with weft.storage. As for
the other engines, no synthesis of these is published as HLS: coarser than the int8 array's figures.
"""

from __future__ import annotations

from typing import Any

from weft import storage

ADDER = 33
MOVE = 10  # LUTs of a byte with its way (7 bits) at a stage of a 2:1 network
COMPARE_5, ENCODE = 2, 1.5  # LUTs: equality of 5 bits; of a priority encoder per input

Cost = tuple[float, float, float, float]  # LUT, FF, DSP, RAMB36


def nm(g: Any) -> Cost:
    """The array again, with an M:1 multiplexer of bytes, its activations and position per cell."""
    cells, group = g.rows * g.cols, g.nm_group
    ways = 8 * group / 4
    edge = g.rows * group * 8 * {2: 1, 4: 2, 8: 7, 16: 30}[group]  # patterns to choose among
    return cells * (ways + 8) + edge, cells * (8 * group + 3 * 12 + 32 + 4), cells, 0.0


def gather(g: Any) -> Cost:
    """Prefix sums, a network that moves activations together, a shifter of values, a tree."""
    lanes = g.rows
    window, stages = 4 * lanes, (4 * lanes).bit_length() - 1
    lut = 2 * window * stages * MOVE / 2 + 8 * lanes * 8 / 3 + lanes * 20 + lanes * 8
    ring, _ = storage.ram(16, 8 * lanes)
    return float(lut + 2 * ring), window * (8 + 10) * 2.0 + lanes * 32, lanes, 0.0


def eie(g: Any) -> Cost:
    """Per PE a multiplier, a queue, pointers in two banks, entries and sums."""
    pes = g.eie_pes
    memories = ((g.eie_entries // 2, 16), (g.eie_pointers // 2, 32), (g.eie_outputs, 32))
    luts, brams = zip(*(storage.ram(*size) for size in memories), strict=True)
    queue = 9 + 16  # an activation and its number
    tree = g.rows * 3  # leading non-zero: a node per four lanes and level
    lut = pes * (sum(map(float, luts)) + 2 * ADDER + 60 + queue * g.eie_queue / 32) + tree
    return lut, pes * (3.0 * 32 + 16 + 2 * queue), pes, pes * float(sum(map(float, brams)))


def snap(g: Any) -> Cost:
    """Comparators and encoders per row of PEs; a PE has its multipliers and bundles."""
    rows, pes = g.snap_cores * g.snap_rows, g.snap_cores * g.snap_rows * g.snap_cols
    pairs = g.snap_bundle**2
    item = 8 + 5
    lut, bram = storage.ram(g.snap_depth, 2 * g.snap_bundle * item)
    sums, sums_bram = storage.ram(g.snap_depth, 32)
    per_pe = g.snap_macs * (ADDER + 2 * item * g.snap_bundle / 4) + float(lut + sums)
    match = pairs * COMPARE_5 + pairs * ENCODE
    brams = pes * float(bram + sums_bram)
    return rows * match + pes * per_pe, pes * (g.snap_bundle * 6 + 200.0), pes * g.snap_macs, brams


COSTS = {"nm": nm, "eie": eie, "snap": snap, "gather": gather}
