"""BitFusion's cell (Sharma et al., ISCA 2018): 16 two-bit bricks, 1 to 16 products per clock.

8 × 8 bits make one product, 8 × 4 two, 4 × 4 four, 2 × 2 sixteen; either operand signed or not.
Numbers of 16 bits are two passes over the array, their bytes apart (MatMul.shift).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from weft import engine
from weft.config import Overlay
from weft.engine import Bytes, Engine, Values
from weft.state import Fields

SIGNED_ACTIVATION, SIGNED_WEIGHT = 1, 2  # bits of MatMul.codes
WIDTHS = (2, 4, 8)


def legal(f: Fields, overlay: Overlay) -> bool:
    """2, 4 or 8 bits on either side, and the words that feed all bricks."""
    a, w = f["activation_bits"], f["weight_bits"]
    return a in WIDTHS and w in WIDTHS and f["words"] * w == 8


def activations(words: Bytes, f: Fields) -> Values:
    """Numbers [M, folds, lanes, products]."""
    code = engine.lane_codes(words, f["activation_bits"])
    return _numbers(code, f["activation_bits"], bool(f["codes"] & SIGNED_ACTIVATION))


def weights(rows: NDArray[np.int16], f: Fields) -> Values:
    """Numbers [tiles, folds, lanes, products, columns]."""
    code = engine.operand_codes(rows, f["weight_bits"])[..., : engine.products(f), :]
    return _numbers(code, f["weight_bits"], bool(f["codes"] & SIGNED_WEIGHT))


def _numbers(code: Bytes, bits: int, is_signed: bool) -> Values:
    return engine.signed(code, bits) if is_signed else code.astype(np.int64)


ENGINE = Engine("fusion", legal, activations, weights, "16 two-bit bricks per cell (BitFusion)")
