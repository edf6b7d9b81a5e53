"""Resources of attention and of the wide buffer, counted from their sources.

Of the parts per lane: hls/weft/units/rows.hpp (exponential, mask, division), writer.hpp (residual),
memories.hpp (OperandBuffer: a bank per lane and three rotations). Nothing has been synthesized.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from weft import storage
from weft.config import TABLE_METHOD, Board

ADDER, COMPARE, SHIFTER, SATURATE = 33, 18, 200, 34  # LUTs, as in weft.resources
ROW_BITS = 16 + 32  # maximum and sum of a row
STAGES = 10  # registers of about 48 bits that a lane passes
TABLE_LUTS = 40 + 18  # of a 32-entry table in LUT RAM, and its index
Amounts = tuple[Any, Any, Any, Any]  # LUT, FF, DSP, BRAM36


def exponential(name: str) -> tuple[int, int]:
    """(LUTs, DSPs) of a lane's exponential by one method."""
    from weft.nonlinear import method

    if name == TABLE_METHOD:
        return TABLE_LUTS, 0
    found = method("exp", name)
    return found.luts, found.dsps


def attention(g: Any) -> Amounts:
    """Operand buffer, row tables, and what each lane has for scores."""
    lanes = np.asarray(g.cols)
    bank_lut, bank_bram = storage.ram(g.operand_words, 8)
    table_lut, table_bram = storage.ram(g.accumulator_rows, ROW_BITS)
    rotation = 8 * lanes * np.ceil(np.log2(lanes) / 2)  # multiplexers of four ways
    found = [exponential(name) for name in g.softmax]
    powers = sum(luts for luts, _ in found), sum(dsps for _, dsps in found)
    each = powers[0] + 2 * COMPARE + 2 * ADDER  # below the maximum, as a code, added to the sum
    each += 3 * COMPARE + ADDER  # mask and maximum
    each += SHIFTER + SATURATE  # division, rounded
    return (
        lanes * (bank_lut + each) + 3 * rotation + table_lut,
        lanes * STAGES * 48,
        lanes * (powers[1] + 2 + 1),  # 32 × 17 bits of the division; shares of the sum
        lanes * bank_bram + table_bram,
    )


def wide(g: Any, board: Board) -> tuple[Any, Any, Any, Any, Any]:
    """The wide buffer, as `weft.resources.memory` has it, and the residual of each lane."""
    lanes = np.asarray(g.cols)
    deep = (np.asarray(g.wide_words) >= storage.URAM_FROM) & (board.uram > 0)
    lut, bram = storage.ram(g.wide_words, 16 * lanes)
    return (
        np.where(deep, 0, lut) + lanes * (SHIFTER + 2 * ADDER + SATURATE),
        lanes * STAGES * 32,
        2 * lanes,  # 32 × 16 bits
        np.where(deep, 0, bram),
        np.where(deep, storage.uram(g.wide_words, 16 * lanes), 0),
    )
