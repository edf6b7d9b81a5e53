"""ANT's cell (Guo et al., MICRO 2022): four 4-bit multipliers with shifters, for typed codes.

Codes of 4 bits are int, uint, flint, uflint, PoT, E2M1 or OliVe pairs; int8 is two terms. 4 × 4
bits make four products per clock, 8 × 4 two, 8 × 8 one.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from weft import isa
from weft.config import Overlay
from weft.engine import Bytes, Engine, Values
from weft.state import Fields

WIDTHS = (4, 8)
_INT = isa.TERMS.index("int")


def kinds(activation: str, weight: str) -> int:
    """MatMul.codes of the kinds of terms on both sides (isa.TERMS)."""
    return isa.TERMS.index(activation) | isa.TERMS.index(weight) << 4


def legal(f: Fields, overlay: Overlay) -> bool:
    """4 or 8 bits on either side, of kinds that exist; 8 bits are integers."""
    a, w = f["activation_bits"], f["weight_bits"]
    of_a, of_w = f["codes"] & 15, f["codes"] >> 4
    known = max(of_a, of_w) < len(isa.TERMS)
    plain = (a == 4 or of_a == _INT) and (w == 4 or of_w == _INT)
    return a in WIDTHS and w in WIDTHS and f["words"] * w == 8 and known and plain


@cache
def values(kind: str) -> NDArray[np.int64]:
    """Values of all bytes: [256, 2], the low code's and the high one's."""
    byte = np.arange(256)
    both = np.stack([byte & 15, byte >> 4], axis=1)
    if kind == "olive":
        return _pairs(both)
    table = _single(kind)
    return np.asarray(table[both])


def _single(kind: str) -> NDArray[np.int64]:
    """Values of the 16 codes of a kind whose codes stand alone."""
    code = np.arange(16)
    sign, low = np.where(code & 8, -1, 1), code & 7
    if kind == "int":
        return np.asarray((code ^ 8) - 8)
    if kind == "uint":
        return code
    if kind == "flint":
        return np.asarray(sign * _flint(3)[low])
    if kind == "uflint":
        return _flint(4)
    if kind == "pot":
        return sign * np.where(low == 0, 0, 1 << np.maximum(low - 1, 0))
    assert kind == "e2m1", kind
    return sign * np.where(low < 2, low, (2 + (low & 1)) << np.maximum((low >> 1) - 1, 0))


def _flint(bits: int) -> NDArray[np.int64]:
    """Unsigned flint of `bits` bits (ANT, section 4; the exponent is twice the leading zeros)."""
    top = 1 << (bits - 1)
    found = []
    for code in range(2 * top):
        low = code & (top - 1)
        zeros = bits - 1 - low.bit_length()
        small = low if code < top else (2 * low) << (2 * zeros) if low else 1 << 2 * (bits - 1)
        found.append(small)
    return np.array(found, np.int64)


def _pairs(both: NDArray[np.int64]) -> NDArray[np.int64]:
    """OliVe: 1000 marks a victim, whose partner is an outlier in abfloat E2M1 with bias 2."""
    plain = (both ^ 8) - 8
    low = both & 7
    outlier = np.where(both & 8, -1, 1) * ((2 + (low & 1)) << ((low >> 1) + 2))
    victim, partner = both == 8, both[:, ::-1] == 8
    return np.where(victim, 0, np.where(partner, outlier, plain))


def activations(words: Bytes, f: Fields) -> Values:
    """Numbers [M, folds, lanes, products]."""
    by_lane = np.moveaxis(words, -2, -1)
    return _numbers(by_lane, f["activation_bits"], f["codes"] & 15)


def weights(rows: NDArray[np.int16], f: Fields) -> Values:
    """Numbers [tiles, folds, lanes, products, columns]."""
    by_column = np.moveaxis(rows.astype(np.uint8), -2, -1)
    return np.moveaxis(_numbers(by_column, f["weight_bits"], f["codes"] >> 4), -1, -2)


def _numbers(packed: Bytes, bits: int, kind: int) -> Values:
    if bits == 8:
        return packed.view(np.int8).astype(np.int64)
    found = values(isa.TERMS[kind])[packed]
    return np.asarray(found.reshape(*packed.shape[:-1], -1))


ENGINE = Engine("shift", legal, activations, weights, "4-bit multipliers and shifters (ANT, OliVe)")
