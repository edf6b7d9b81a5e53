"""What a wide weight stream takes: its ports and FIFOs, the decoder's rows, the engine matvec.

Counted by hand from the operators of hls/weft/units/packed.hpp, decode.hpp and matvec.hpp, with the
LUTs of docs/estimates.md; nothing of it has been synthesized.
"""

from __future__ import annotations

from typing import Any

from weft import storage
from weft.units.matvec import ROWS

ADDER = 33  # LUTs of 32 bits (B5)
CHOICE_8 = 64  # LUTs of an 8:1 multiplexer of 32 bits: two LUT6 and an F7 a bit
ROW_ADDER = 21  # of 20 bits
PLANES = 16  # memory rows of 8 tile rows at most
BURST_BEATS = 16  # kBurstBeats
Amounts = tuple[Any, Any, Any]  # LUT, FF, DSP


def stream_rows(g: Any) -> int:
    """Tile rows per clock; 1 of designs that have no engine for them."""
    return int(getattr(g, "stream_rows", 1))


def ports(g: Any) -> int:
    """Memory ports of weights."""
    return int(getattr(g, "weight_ports", 1))


def tile_bits(g: Any) -> Any:
    """Bits of an element of the weight stream."""
    return g.cols * getattr(g, "weight_bits", 8) * stream_rows(g)


def matvec(g: Any) -> Amounts:
    """A DSP per product, a tree and the choice among the sums of 8 rows in every column.

    An operand of the input is one of the lanes of a word, of either buffer.
    """
    rows = stream_rows(g)
    column = (rows - 1) * ADDER + ADDER + CHOICE_8
    lanes = 16 * rows * (1 + (g.rows // rows + 1) // 2) + attending(g)
    registers = (rows - 1) * 32 + 32 * ROWS + getattr(g, "weight_bits", 8) * rows
    return g.cols * column + lanes, g.cols * registers + 16 * rows, g.cols * rows


def attending(g: Any) -> Any:
    """LUTs that an Attend adds: trees along the words of keys, 20 bits wide; which lane a product
    takes and where its other factor comes from, two ways each; and what a column's sum adds.

    The exponentials are the array's: one instance for both (hls/weft/units/rows.hpp).
    """
    if "attention" not in getattr(g, "units", ()):
        return 0
    group, bits = g.operand_group, getattr(g, "weight_bits", 8)
    trees = group * (g.cols - 1) * ROW_ADDER
    return trees + g.cols * (group * (16 + bits) // 2 + 32 // 2)


def feed(g: Any) -> Amounts:
    """FIFOs of the ports, and the window and planes between them and the decoder.

    Of one port there is one FIFO, which `weft.resources.transfer` counts.
    """
    count, row = ports(g), 8 * g.rows
    if count == 1:
        return 0, 0, 0
    depth = max(4, 4 * (BURST_BEATS // (g.rows // g.bus_bytes)) // count)
    lut, ff, _ = storage.fifo(depth, count * row)
    ways = (count + 3) // 4 + 1  # LUTs of a bit that comes from one of `count` rows
    window, planes = 2 * count * row, PLANES * max(1, stream_rows(g) // 8)
    return count * lut + 2 * window * ways + planes * row * ways, count * ff + window, 0
