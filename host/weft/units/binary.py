"""Cells without multipliers, for binary and ternary weights.

1 × 1 bit: XNOR and popcount, 32 products per clock; 1 × 2 bits: ternary weights as two planes of
16; 8 × 1 and 8 × 2 bits: int8 activations added or subtracted, four per clock.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from weft import engine
from weft.config import Overlay
from weft.engine import Bytes, Engine, Values
from weft.state import Fields

SIGNED_BITS = 1  # bit of MatMul.codes: activation bits are −1 and +1, else 0 and 1
_WORDS = {(1, 1): 4, (1, 2): 2, (8, 1): 4, (8, 2): 4}


def legal(f: Fields, overlay: Overlay) -> bool:
    """The four pairs of widths, and the words that feed all cells."""
    return _WORDS.get((f["activation_bits"], f["weight_bits"])) == f["words"]


def activations(words: Bytes, f: Fields) -> Values:
    """Numbers [M, folds, lanes, products]."""
    code = engine.lane_codes(words, f["activation_bits"])
    if f["activation_bits"] == 8:
        return engine.signed(code, 8)
    bit = code.astype(np.int64)
    return 2 * bit - 1 if f["codes"] & SIGNED_BITS else bit


def weights(rows: NDArray[np.int16], f: Fields) -> Values:
    """Numbers [tiles, folds, lanes, products, columns]."""
    count = engine.products(f)
    if f["weight_bits"] == 1:
        return 2 * engine.operand_codes(rows, 1)[..., :count, :].astype(np.int64) - 1
    if f["activation_bits"] == 1:  # planes: the positive bits, then the negative ones
        planes = engine.operand_codes(rows, 1).astype(np.int64)
        return np.asarray(planes[..., :count, :] - planes[..., count : 2 * count, :])
    found = engine.signed(engine.operand_codes(rows, 2)[..., :count, :], 2)
    return np.where(found == -2, 0, found)


ENGINE = Engine("binary", legal, activations, weights, "XNOR-popcount and add/subtract cells")
