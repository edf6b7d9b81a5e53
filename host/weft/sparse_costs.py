"""What the engines of sparse weights take, counted by hand from their operators (hls/weft/units/).

LUTs of a multiplexer: a 4:1 of one bit is one LUT6. Memories are counted with weft.storage. As for
the other engines, no synthesis of these is published as HLS: coarser than the int8 array's figures.
"""

from __future__ import annotations

from collections.abc import Callable
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


def eie(o: Any) -> Cost:
    """(LUT, FF, DSP, RAMB36) of the EIE engine: PEs with their memories, pointers, the detector.

    A PE adds, chooses twice between memory and bypass (33 and 2 · 32 LUTs, two comparisons of 9),
    walks rows and entries (five numbers of 16 bits) and multiplies 16 by 9 bits in a DSP. The
    detector takes four words: a comparison per code, and nodes of four inputs with an index of 8
    bits (17 LUTs each).
    """
    pe = [
        storage.ram(16, 16),
        storage.ram(o.eie_outputs, 32),
        storage.ram(o.eie_queue, 41),
        *2 * [storage.ram(o.eie_entries // 2, 8)],
    ]
    pointers = storage.ram(o.eie_pointers // 2, 16 * o.cols)
    lut, bram = (sum(float(part[i]) for part in pe) * o.eie_pes for i in (0, 1))
    groups = 2 * o.eie_pes // o.cols
    lut += groups * float(pointers[0]) + o.rows * (3 + 4 / 3 * 17 + 8)
    lut += o.eie_pes * (ADDER + 2 * 32 + 2 * 9 + 5 * 16)
    ff = o.eie_pes * (2 * 49 + 2 * 41 + 3 * 16 + 64) + 4 * 9 * o.rows
    return lut, ff, o.eie_pes, bram + groups * float(pointers[1])


def snap(g: Any) -> Cost:
    """A PE has its comparators and encoders, multipliers, and both operands' bundles."""
    pes = g.snap_cores * g.snap_rows * g.snap_cols
    pairs = g.snap_bundle**2
    item = 8 + 5
    lut, bram = storage.ram(g.snap_depth, 2 * g.snap_bundle * item)
    sums, sums_bram = storage.ram(g.snap_depth, 32)
    per_pe = g.snap_macs * (ADDER + 2 * item * g.snap_bundle / 4) + float(lut + sums)
    match = pairs * COMPARE_5 + pairs * ENCODE
    brams = pes * float(bram + sums_bram)
    return pes * (match + per_pe), pes * (g.snap_bundle * 6 + 200.0), pes * g.snap_macs, brams


COSTS: dict[str, Callable[[Any], Cost]] = {"nm": nm, "eie": eie, "snap": snap, "gather": gather}
