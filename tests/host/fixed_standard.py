"""ap_fixed as its standard words it, in exact fractions and Python integers; no weft inside."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

ROUNDINGS = ("TRN", "TRN_ZERO", "RND", "RND_MIN_INF", "RND_INF", "RND_ZERO", "RND_CONV")
OVERFLOWS = ("WRAP", "SAT", "SAT_SYM", "SAT_ZERO")


@dataclass(frozen=True)
class Standard:
    """One ap_fixed or ap_ufixed type."""

    width: int
    integer: int
    signed: bool = True
    rounding: str = "TRN"
    overflow: str = "WRAP"

    def __str__(self) -> str:
        kind = "fixed" if self.signed else "ufixed"
        return f"{kind}<{self.width},{self.integer},{self.rounding},{self.overflow}>"

    def of(self, x: Fraction) -> Fraction:
        """The value that a variable of this type has after `x` was assigned to it."""
        unit = Fraction(2) ** (self.width - self.integer)
        return limited(rounded(x * unit, self.rounding), self) / unit

    def array(self, values: Any) -> np.ndarray:
        """`of` for every element, as an object array of fractions."""
        given = np.asarray(values, object)
        return np.array([self.of(Fraction(v)) for v in given.reshape(-1)], object).reshape(
            given.shape
        )


def rounded(x: Fraction, mode: str) -> int:
    """Nearest or truncated integer, mode by mode as the text of the standard has it."""
    below = x.numerator // x.denominator
    rest = x - below
    if mode == "TRN" or rest == 0:
        return below
    if mode == "TRN_ZERO":
        return below if x > 0 else below + 1
    if rest != Fraction(1, 2):
        return below + (rest > Fraction(1, 2))
    return {
        "RND": below + 1,
        "RND_MIN_INF": below,
        "RND_INF": below + 1 if x > 0 else below,
        "RND_ZERO": below if x > 0 else below + 1,
        "RND_CONV": below + below % 2,
    }[mode]


def limited(q: int, kind: Any) -> Any:
    """An integer as a type of that width keeps it; a Fraction, so that it can be divided."""
    low = -(2 ** (kind.width - 1)) if kind.signed else 0
    high = 2 ** (kind.width - 1) - 1 if kind.signed else 2**kind.width - 1
    symmetric = kind.overflow == "SAT_SYM" and kind.signed
    if low <= q <= high and not (symmetric and q == low):
        return Fraction(q)
    if kind.overflow == "WRAP":
        return Fraction((q - low) % 2**kind.width + low)
    if kind.overflow == "SAT_ZERO":
        return Fraction(0)
    return Fraction((-high if symmetric else low) if q < high else high)


def dense(x: np.ndarray, w: Any, b: Any, types: dict[str, Standard]) -> np.ndarray:
    """hls4ml's dense layer: products and sums in the accumulator's type, one by one."""
    accum = types["accum"]
    w, b = types["weight"].array(w), types["bias"].array(b)
    out = np.empty((len(x), w.shape[1]), object)
    for i, row in enumerate(x):
        for j in range(w.shape[1]):
            total = accum.of(b[j])
            for k in range(len(w)):
                total = accum.of(total + accum.of(row[k] * w[k, j]))
            out[i, j] = types["result"].of(total)
    return out


def conv1d(x: np.ndarray, w: Any, b: Any, types: dict[str, Standard]) -> np.ndarray:
    """A valid convolution [n, T, C] with w [taps, C, N]: a dense layer at every position."""
    taps, _, filters = np.shape(w)
    flat = np.asarray(w).reshape(-1, filters)
    columns = [
        dense(x[:, t : t + taps].reshape(len(x), -1), flat, b, types)
        for t in range(x.shape[1] - taps + 1)
    ]
    return np.stack(columns, axis=1)


def relu(x: np.ndarray, kind: Standard) -> np.ndarray:
    """max(x, 0), assigned to the result."""
    return kind.array(np.where(x > 0, x, Fraction(0)))
