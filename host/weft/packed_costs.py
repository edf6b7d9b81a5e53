"""Resources of the unit packed_cache, counted from hls/weft/units/packed_cache.hpp.

Unpacking: of each byte that is written its code, out of an element of the stream, a product in a
DSP, and which range is its own. Packing: of each lane the least and the largest value of its tokens
and of its word, and a division of 4 steps. Nothing has been synthesized.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from weft.isa import PACKED_GROUP
from weft.stream_costs import stream_rows

RANGE_BITS = 8 + 8  # a least value and a width
FACTOR_BITS, FACTOR_LUTS = 21, 13 + 21  # of a width: two additions
LEAST = 5 + 8  # LUTs of a comparison of 8 bits and the choice
DIVISION = 9 + 13 + 14 + 4 * (7 + 14)  # above the least, times 30, rounded, and its steps
STAGES = 4  # registers that a byte passes
Amounts = tuple[Any, Any, Any, Any]  # LUT, FF, DSP, BRAM36


def choice(ways: Any) -> Any:
    """LUTs of a bit that comes from one of several."""
    return (ways - 1) / 3  # four ways in a LUT6, cascaded


def packed_cache(g: Any) -> Amounts:
    """Loads, `operand_group` words a clock, and PackCache, a word a clock."""
    lanes, group = np.asarray(g.cols), g.operand_group
    slots = np.maximum(PACKED_GROUP, lanes)
    token = RANGE_BITS * choice(PACKED_GROUP / group)  # the range of a token
    byte = 4 * choice(4 * stream_rows(g) / group) + 4  # a code, of 2 bits times 5
    byte = byte + (8 + FACTOR_BITS) / 2 + 8 / 2  # the token's range or the lane's; or plain int8
    loads = lanes * group * byte + (lanes + group) * FACTOR_LUTS + group * token
    loads = loads + slots * RANGE_BITS  # which row of an element a range is in
    each = 4 * LEAST + DIVISION + 8 + RANGE_BITS / 2 + 8 * choice(8) + 8 / 2
    packs = lanes * each + RANGE_BITS * choice(PACKED_GROUP)
    registers = 2 * slots * RANGE_BITS + lanes * (group + 1) * STAGES * 16
    return loads + packs, registers, lanes * group, 0 * lanes
