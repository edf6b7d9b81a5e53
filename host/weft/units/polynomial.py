"""`dlc`: range reduction, then a polynomial with fixed coefficients.

Golden model of hls/weft/units/polynomial.hpp. The name is that of Cheng et al., DAC 2017, for a
function built as fixed digital logic; here it means generic arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from weft.units.fixed import LEAST_EXPONENT, LOG2E, ONE, Codes, joined, rounded

POWER_FRACTION = 14  # of t = x * log2(e)
COEFFICIENT_FRACTION = 16


def log2e_times(x: Codes, fraction: int) -> Codes:
    """t = x * log2(e), 14 fraction bits, for x in [-16, 0]; what lies outside is moved inside."""
    return np.asarray((np.clip(x, -(LEAST_EXPONENT << fraction), 0) * LOG2E) >> fraction)


def horner(c: tuple[int, ...], v: Codes, fraction: int) -> Codes:
    """c[0] + v * (c[1] + v * (c[2] + ...)), 16 fraction bits, each product cut to them."""
    y = np.full(np.shape(v), c[-1], np.int64)
    for coefficient in c[-2::-1]:
        y = coefficient + ((y * v) >> fraction)
    return y


@dataclass(frozen=True)
class PolynomialExp:
    """exp(x) = 2**u * 2**v for x <= 0 with `fraction` bits; 2**v by the polynomial `c`.

    Out: 15 fraction bits, 0..32768.
    """

    fraction: int
    c: tuple[int, ...]
    hpp = "units/polynomial.hpp"

    @property
    def cpp(self) -> str:
        """The C++ type."""
        return f"PolynomialExp<{self.fraction}, {len(self.c) - 1}>"

    def words(self) -> list[int]:
        """Parameters in the order of the hardware."""
        return list(self.c)

    def __call__(self, x: Codes) -> Codes:
        """Output codes."""
        t = log2e_times(x, self.fraction)
        v = t & ((1 << POWER_FRACTION) - 1)
        y = rounded(horner(self.c, v, POWER_FRACTION), 1 - (t >> POWER_FRACTION))
        return np.asarray(np.clip(y, 0, ONE))


@dataclass(frozen=True)
class NewtonReciprocal:
    """1/w for w in [1, 2): seed 24/17 - 8/17 w, two steps of Newton. In and out: 15 fraction bits.

    The seed is the classic one of division by Newton-Raphson: it is off by 1/17 at most.
    """

    cpp = "NewtonReciprocal"
    hpp = "units/polynomial.hpp"

    def words(self) -> list[int]:
        """No parameters."""
        return []

    def __call__(self, x: Codes) -> Codes:
        """Output codes."""
        half = 1 << 14
        y = 46261 - ((x * 15420) >> 15)
        for _ in range(2):
            y = (y * (2 * ONE - ((x * y + half) >> 15)) + half) >> 15
        return np.asarray(np.clip(y, ONE // 2, ONE))


@dataclass(frozen=True)
class PolynomialRsqrt:
    """1/sqrt(w) for w in [1, 4) with 14 fraction bits: `low` below 2, `high` above.

    Out: 15 fraction bits.
    """

    low: tuple[int, ...]
    high: tuple[int, ...]
    hpp = "units/polynomial.hpp"

    @property
    def cpp(self) -> str:
        """The C++ type."""
        return f"PolynomialRsqrt<{len(self.low) - 1}>"

    def words(self) -> list[int]:
        """Parameters in the order of the hardware."""
        return joined((self.low, self.high))

    def __call__(self, x: Codes) -> Codes:
        """Output codes."""
        upper = x >= ONE
        v = np.where(upper, x, x << 1) - ONE
        y = np.where(upper, horner(self.high, v, 15), horner(self.low, v, 15))
        return np.asarray(np.clip(rounded(y, 1), ONE // 2, ONE))
