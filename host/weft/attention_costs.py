"""Resources of attention, rotation and of the wide buffer, counted from their sources.

Of the parts per lane: hls/weft/units/rows.hpp (exponential, mask, division), writer.hpp (residual,
factor), rotate.hpp (a product, the partner's lane), operand_buffer.hpp (a bank per lane, of as many
memories as engine matvec reads words, and three rotations). Nothing has been synthesized.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from weft import storage
from weft.config import TABLE_METHOD, Board

ADDER, COMPARE, SHIFTER, SATURATE = 33, 18, 200, 34  # LUTs, as in weft.resources
MULTIPLEXER, PRODUCT_32 = 32, (48, 4)  # likewise; LUTs and DSPs of 32 × 32 bits
TURN_STAGES, TURN_ADDRESSES = 6, 5  # registers that a lane passes; addresses of a walk,
TURN_PRODUCTS = 3  # of which these take a product when a block begins
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
    lanes, group = np.asarray(g.cols), getattr(g, "operand_group", 1)
    bank_lut, bank_bram = storage.ram(g.operand_words // group, 8)
    table_lut, table_bram = storage.ram(g.accumulator_rows, ROW_BITS)
    rotation = 8 * lanes * np.ceil(np.log2(lanes) / 2)  # multiplexers of four ways
    found = [exponential(name) for name in g.softmax]
    powers = sum(luts for luts, _ in found), sum(dsps for _, dsps in found)
    each = powers[0] + 2 * COMPARE + 2 * ADDER  # below the maximum, as a code, added to the sum
    each += 3 * COMPARE + ADDER  # mask and maximum
    each += SHIFTER + SATURATE  # division, rounded
    each += MULTIPLEXER  # sums that leave: finished ones, or those that stayed
    return (
        lanes * (group * bank_lut + each) + 3 * rotation + grouped(g) + table_lut,
        lanes * STAGES * 48,
        lanes * (powers[1] + 2 + 1),  # 32 × 17 bits of the division; shares of the sum
        lanes * group * bank_bram + table_bram,
    )


def grouped(g: Any) -> Any:
    """LUTs of an operand buffer that gives and takes several words in a clock: which of a bank's
    memories one word comes from, of each word of a group where its first lane is, and as much of
    those that the weight ports bring, which are written in place of others.
    """
    lanes, group = np.asarray(g.cols), getattr(g, "operand_group", 1)
    if group == 1:
        return 0 * lanes
    choice, turns = (np.ceil(np.log2(n) / 2) for n in (group, np.maximum(lanes // group, 1)))
    return 8 * lanes * (choice + group * (2 * turns + 0.5))


def wide(g: Any, board: Board) -> tuple[Any, Any, Any, Any, Any]:
    """The wide buffer, as `weft.resources.memory` has it, and what each lane does with its words.

    A word is added, scaled by 32 × 32 bits, or is a factor of 16 bits before that.
    """
    lanes = np.asarray(g.cols)
    deep = (np.asarray(g.wide_words) >= storage.URAM_FROM) & (board.uram > 0)
    lut, bram = storage.ram(g.wide_words, 16 * lanes)
    each = SHIFTER + 2 * ADDER + SATURATE + PRODUCT_32[0]
    each += SATURATE + 2 * MULTIPLEXER  # of a factor, and whether there is one
    each += 2 * COMPARE + ADDER  # zero point and clamp of a product's code
    return (
        np.where(deep, 0, lut) + lanes * each,
        lanes * STAGES * 32,
        (PRODUCT_32[1] + 1) * lanes,
        np.where(deep, 0, bram),
        np.where(deep, storage.uram(g.wide_words, 16 * lanes), 0),
    )


def rotate(g: Any) -> Amounts:
    """A multiplier of each lane, which reads from its partners; the epilogue requantizes."""
    lanes = np.asarray(g.cols)
    partners = 16 * np.ceil(np.log2(lanes) / 3)  # multiplexers of four ways, cascaded
    return (
        lanes * (partners + ADDER + 2 * MULTIPLEXER) + TURN_ADDRESSES * 2 * ADDER,
        lanes * TURN_STAGES * 32 + TURN_ADDRESSES * 32,
        lanes + TURN_PRODUCTS,
        0 * lanes,
    )
