"""Ranges per row: codes that fill int8 in each row, and sums times the row's magnitude.

Golden model of hls/weft/units/ranges.hpp: per-token quantization (Yao et al., ZeroQuant, NeurIPS
2022), of what Norm makes codes of. With M the largest magnitude of a row of int16 x,

    code = round(x * F / 2^s), F / 2^s = 127 / M        sums behind = sat32(round(sum * M / 2^12))
"""

from __future__ import annotations

import numpy as np

from weft.state import Fields, State
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
    return _scaled(sums, state.magnitudes[: sums.shape[1], None])


def token_sums(state: State, f: Fields, sums: Codes) -> Codes:
    """sums [tiles, rows, lanes] times the magnitudes of their lanes' tokens, in steps of 2^12."""
    words = state.token_ranges[f["ranges"] : f["ranges"] + len(sums)]
    return _scaled(sums, words[:, None].astype(np.int64))


def _scaled(sums: Codes, magnitude: Codes) -> Codes:
    y = rounded(sums * magnitude, SHIFT)
    return np.asarray(np.clip(y, -(1 << 31), (1 << 31) - 1))


def token_codes(state: State, f: Fields, e: Codes) -> Codes:
    """Exponentials e [rows, n] of 15 fraction bits times the magnitudes of their tokens."""
    words = state.token_ranges[f["ranges"] : f["ranges"] + e.shape[1] // state.overlay.lanes]
    product = e * np.maximum(words.reshape(-1).astype(np.int64), 0)
    shift = f["range_shift"]
    return np.asarray(np.minimum((product + ((1 << shift) >> 1)) >> shift, f["most"]))


def put_tokens(state: State, f: Fields, magnitude: Codes) -> None:
    """The magnitudes of a Rotate's rows [rows] to their lanes; those behind them become 0."""
    lanes = state.overlay.lanes
    lane = f["range_first"] % lanes
    first, last = token_words(f, lanes)
    words = state.token_ranges[first : last + 1].reshape(-1)
    words[lane : lane + len(magnitude)] = magnitude
    words[lane + len(magnitude) :] = 0


def token_words(f: Fields, lanes: int) -> tuple[int, int]:
    """The first and the last word of ranges that a Rotate writes."""
    token = f["range_first"]
    word = f["range_word"]
    return word + token // lanes, word + (token + f["rows"] - 1) // lanes
