"""Rows of scores: masks and maxima, exponentials and their sums, and the division at the end.

Golden model of hls/weft/units/rows.hpp: out = sum(e v) / sum(e), so that no probability is rounded
to a fixed step (Dao et al., FlashAttention, NeurIPS 2022, divides once as well).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from weft.state import Fields, State
from weft.units.exponential import Exponential, divider
from weft.units.fixed import Codes, normalized, rounded

MASKED = -(1 << 15)
ROW_FRACTION = 16  # fraction bits of sums that were divided
MOST_KEYS = 1 << 15


def keep_scores(state: State, f: Fields, scores: NDArray[np.int64]) -> NDArray[np.int64]:
    """Scores [tiles, rows, lanes] with those outside the mask marked; keeps the rows' maxima, or
    goes on with them.
    """
    tiles, rows, lanes = scores.shape
    key = np.arange(tiles)[:, None, None] * lanes + np.arange(lanes)
    row = np.arange(rows)[:, None]
    seen = (key < f["keys"]) & (key >= row + f["left"]) & (key <= row + f["right"])
    kept = np.where(seen, scores, MASKED)
    before = state.row_maximum[:rows] if f["running"] else MASKED
    state.row_maximum[:rows] = np.maximum(before, kept.max((0, 2)))
    return kept


def exponentials(x: Codes, maximum: Codes, unit: Exponential) -> Codes:
    """e^(x - maximum) of rows [rows, n], 15 fraction bits; 0 where masked."""
    below = x - maximum[:, None]
    return np.where(x == MASKED, 0, unit.exponential(below))


def exponential_codes(e: Codes, most: int) -> Codes:
    """Exponentials as activations: 1.0 becomes `most`."""
    return np.asarray(np.minimum((e * most + (1 << 14)) >> 15, most))


def normalized_sums(state: State, sums: Codes) -> Codes:
    """sums [tiles, rows, lanes] over the sums of their rows, with ROW_FRACTION fraction bits."""
    unit = divider(state.overlay)
    total = state.row_sum[: sums.shape[1]]
    none = total == 0
    mantissa, exponent = normalized(np.where(none, 1, total))
    factor = np.zeros_like(total) if unit is None else np.where(none, 0, unit.reciprocal(mantissa))
    shift = np.where(none, 1, 30 - ROW_FRACTION + 2 + exponent)
    y = rounded(sums * factor[:, None] * 4, shift[:, None])
    return np.asarray(np.clip(y, -(1 << 31), (1 << 31) - 1))
