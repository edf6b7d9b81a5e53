"""Resources of norms, counted from hls/weft/units/normalize.hpp, root.hpp and norm.hpp.

Of a lane: statistics (a square and two adders of a tree), z, its affine part and its code. Once:
the root of a row, which is made in every clock. Nothing has been synthesized.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from weft import storage
from weft.config import INTEGER_METHOD, TABLE_METHOD

ADDER, SHIFTER, SATURATE = 33, 200, 34  # LUTs, as in weft.resources; a shifter of 64 bits
ROW_BITS = 32 + 32 + 16  # offset, factor, exponent
LANE_LUTS = 3 * ADDER + 64  # trees of sums and squares, padding
CODE_LUTS = SHIFTER + SATURATE + 2 * ADDER  # shift, clamp, zero point
LANE_DSPS = 1 + 2  # the square; the code's 16 × 32 bits
Z_LUTS = 2 * (SHIFTER + SATURATE) + 2 * ADDER  # z and its affine part
Z_DSPS = 1 + 2 + 1  # n·x; 29 × 17 bits; gamma
STAGES = 12  # registers of about 64 bits that a lane passes
POWER_DSPS, POWER_LUTS = 4 + 4, 2 * 65 + 64 + 2 * SHIFTER  # n·squares − sum², normalized
DIVIDER = 64 * 65  # LUTs of a pipelined 64-bit divider: a subtraction per bit
ROOT_STEPS = 8  # of Newton, a divider each
TABLE_DSPS, TABLE_LUTS = 4 + 4 + 8, 3 * 65 + SHIFTER + 128  # mean, power about it; 128 entries
RANGE_BITS, RANGE_DIVIDER = 16, 31 * 17  # of a magnitude; LUTs of 127 over it, 31 by 16 bits
RANGE_LUTS = 17 + 2 * 18 + SHIFTER + SATURATE  # size, the larger one, limits; shift of a code
PART_SHIFTER, LANE_BITS = 80, 16  # a shifter of 32 bits; a magnitude of a lane
SUM_LUTS, SUM_DSPS = SHIFTER + SATURATE, 2  # a sum of 32 bits times a magnitude
Amounts = tuple[Any, Any, Any, Any]  # LUT, FF, DSP, BRAM36


def root(name: str) -> tuple[int, int, int, int]:
    """(LUTs, DSPs) of a row's root by one method, then what each lane has for it."""
    from weft.nonlinear import method

    if name == TABLE_METHOD:  # d·r·weight: 17 × 16, then 33 × 18 bits
        return TABLE_LUTS, TABLE_DSPS, SHIFTER + SATURATE + 65, 1 + 2
    if name == INTEGER_METHOD:  # roots of power, of n and of RMSNorm; mean and two quotients
        dividers = 3 * ROOT_STEPS + 3
        return dividers * DIVIDER + 2 * POWER_LUTS, 2 * POWER_DSPS, SHIFTER + 65, 2 + 1
    found = method("rsqrt", name)
    return found.luts + POWER_LUTS, found.dsps + POWER_DSPS, 0, 0


def norm(g: Any) -> Amounts:
    """A row table, each lane, and the methods of an overlay."""
    lanes = np.asarray(g.cols)
    table_lut, table_bram = storage.ram(g.accumulator_rows, ROW_BITS)
    found = [root(name) for name in g.norm]
    once_lut, once_dsp, lane_lut, lane_dsp = (sum(column) for column in zip(*found, strict=True))
    if any(name != TABLE_METHOD for name in g.norm):
        lane_lut, lane_dsp = lane_lut + Z_LUTS, lane_dsp + Z_DSPS
    return (
        lanes * (LANE_LUTS + CODE_LUTS + lane_lut) + once_lut + table_lut,
        lanes * STAGES * 64,
        lanes * (LANE_DSPS + lane_dsp) + once_dsp,
        table_bram,
    )


def ranges(g: Any) -> Amounts:
    """Ranges per row: magnitudes, the quotient, a product per lane for the codes; behind the array
    the multiplier of attention's sums serves, where there is one (hls/weft/units/ranges.hpp).
    """
    lanes = np.asarray(g.cols)
    table_lut, table_bram = storage.ram(g.accumulator_rows, RANGE_BITS)
    own = "attention" not in g.units
    lane_lut, lane_dsp = RANGE_LUTS + own * SUM_LUTS, 1 + own * SUM_DSPS
    once = RANGE_DIVIDER + 64
    return lanes * lane_lut + once + table_lut, lanes * 3 * 32, lanes * lane_dsp, table_bram


def token_ranges(g: Any) -> Amounts:
    """Ranges of tokens: their memory, quotient and codes as of rows; a lane's magnitude in place of
    a row's factor, and of the largest code of an exponential, which takes a multiplier of 17 × 16
    bits then (units/rotate.hpp, rows.hpp). The epilogue and the input read the memory in one loop:
    with two ports for reading a block RAM is half as wide.
    """
    lanes = np.asarray(g.cols)
    table_lut, table_bram = storage.ram(g.range_words, LANE_BITS * lanes)
    each = RANGE_LUTS + PART_SHIFTER + 3 * LANE_BITS
    once = RANGE_DIVIDER + 64 + 2 * table_lut
    return lanes * each + once, lanes * 5 * 32, 2 * lanes, 2 * table_bram
