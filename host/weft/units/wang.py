"""Exponentials and logarithms by shifts: Wang et al., APCCAS 2018. No divider, no multiplier.

Golden model of hls/weft/units/wang.hpp. 2**(u + v) ~ (v + d) << u, and log2(w * 2**k) ~
k + w - 1 + c. The offsets: (d1, d2, c) = (1, 1, 0) makes a one-hot row exactly 1, (1, .957, .043)
halves the error.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from weft.units.fixed import LEAST_EXPONENT, ONE, Codes


def offset(value: float) -> int:
    """An offset d or c with 15 fraction bits."""
    return round(value * ONE)


def by_log2e(x: Codes) -> Codes:
    """x * log2(e), with 1.0111b = 1.4375 for log2(e)."""
    return np.asarray(x + (x >> 1) - (x >> 4))


def shift_power(t: Codes, fraction: int, d: int) -> Codes:
    """2**t for t <= 0 with `fraction` bits; d and the result with 15."""
    u, v = t >> fraction, t & ((1 << fraction) - 1)
    y = ((v << (15 - fraction)) + d) >> np.minimum(-u, 31)
    return np.asarray(np.clip(y, 0, ONE))


@dataclass(frozen=True)
class ShiftExp:
    """exp(x), x <= 0. In: `fraction` bits. Out: 15, 0..32768."""

    fraction: int
    d: int
    hpp = "units/wang.hpp"

    @property
    def cpp(self) -> str:
        """The C++ type."""
        return f"ShiftExp<{self.fraction}>"

    def words(self) -> list[int]:
        """Parameters in the order of the hardware."""
        return [self.d]

    def __call__(self, x: Codes) -> Codes:
        """Output codes."""
        inside = np.clip(x, -(LEAST_EXPONENT << self.fraction), 0)
        return shift_power(by_log2e(inside), self.fraction, self.d)


@dataclass(frozen=True)
class ShiftReciprocal:
    """1/w = 2**-log2(w), w in [1, 2). In and out: 15 fraction bits."""

    d: int
    c: int
    cpp = "ShiftReciprocal"
    hpp = "units/wang.hpp"

    def words(self) -> list[int]:
        """Parameters in the order of the hardware."""
        return [self.d, self.c]

    def __call__(self, x: Codes) -> Codes:
        """Output codes."""
        return shift_power(ONE - x - self.c, 15, self.d)


@dataclass(frozen=True)
class ShiftRsqrt:
    """1/sqrt(w) = 2**(-log2(w)/2), w in [1, 4). In: 14 fraction bits. Out: 15."""

    d: int
    c: int
    cpp = "ShiftRsqrt"
    hpp = "units/wang.hpp"

    def words(self) -> list[int]:
        """Parameters in the order of the hardware."""
        return [self.d, self.c]

    def __call__(self, x: Codes) -> Codes:
        """Output codes."""
        log = np.where(x >= ONE, x, (x << 1) - ONE)
        return shift_power((-log - self.c) >> 1, 15, self.d)
