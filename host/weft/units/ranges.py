"""Ranges per row: codes that fill int8 in each row, and sums times the row's magnitude.

Golden model of hls/weft/units/ranges.hpp: per-token quantization (Yao et al., ZeroQuant, NeurIPS
2022), of what Norm makes codes of. With M the largest magnitude of a row of int16 x,

    code = round(x * F / 2^s), F / 2^s = 127 / M        sums behind = sat32(round(sum * M / 2^12))
"""

from __future__ import annotations

import numpy as np

from weft.state import State
from weft.units.fixed import Codes, normalized, rounded

CODE = 127  # of a row's largest element
FRACTION = 24  # bits of 127 over a magnitude's mantissa
SHIFT = 12  # of sums times a magnitude
MOST = (1 << 15) - 1  # of a magnitude


def values(scaled: Codes) -> Codes:
    """Results of any shape as int16, before their row's magnitude is known."""
    return np.asarray(np.clip(scaled, -MOST, MOST))


def codes(x: Codes, magnitude: Codes) -> Codes:
    """Rows x [rows, n] as codes of the ranges of `magnitude` [rows], not yet clamped."""
    none = magnitude == 0
    mantissa, exponent = normalized(np.where(none, 1, magnitude))
    factor = np.where(none, 0, (CODE << FRACTION) // mantissa)
    return np.asarray(rounded(x * factor[:, None], (FRACTION + exponent)[:, None]))


def scaled_sums(state: State, sums: Codes) -> Codes:
    """sums [tiles, rows, lanes] times the magnitudes of their rows, in steps of 2^12."""
    y = rounded(sums * state.magnitudes[: sums.shape[1], None], SHIFT)
    return np.asarray(np.clip(y, -(1 << 31), (1 << 31) - 1))
