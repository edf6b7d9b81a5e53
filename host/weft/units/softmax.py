"""Softmax of rows of scores: exponentials of what lies below the row's maximum, over their sum.

Golden model of hls/weft/units/softmax.hpp. Scores are int16 codes [..., n]; MASKED marks a position
whose probability is exactly 0, and a row of nothing else gives zeros. The result has `out` fraction
bits: 1.0 is 2**out where out is 15, else cut to 2**out - 1. A row has at most 65,535 scores.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from weft.units.fixed import LEAST_EXPONENT, ONE, Codes, Unit, normalized, rounded
from weft.units.wang import by_log2e, shift_power

MASKED = -(1 << 15)


def most_share(out: int) -> int:
    """Largest code of a probability with `out` fraction bits."""
    return 1 << out if out >= 15 else (1 << out) - 1


@dataclass(frozen=True)
class ByReciprocal:
    """e/sum as e * 1/w * 2**-k where the sum is w * 2**k, w in [1, 2).

    The largest e of a row is at least 1/2, so k is -1 or more.
    """

    reciprocal: Unit

    @property
    def cpp(self) -> str:
        """The C++ type."""
        return f"ByReciprocal<{self.reciprocal.cpp}>"

    def words(self) -> list[int]:
        """Parameters in the order of the hardware."""
        return self.reciprocal.words()

    def shares(self, e: Codes, total: Codes, out: int, below: Any = 0) -> Codes:
        """e / 2**below [..., n] over total [..., 1], with `out` fraction bits."""
        mantissa, exponent = normalized(total)
        factor = np.where(total == 0, 0, self.reciprocal(mantissa))
        exponent = np.where(total == 0, 0, exponent)
        return np.asarray(rounded(e * factor, 30 - out + exponent + below))


@dataclass(frozen=True)
class ByQuotient:
    """e/sum as I-BERT has it: e * floor(2**32 / sum) >> (32 - out), cut or rounded."""

    rounds: bool = False

    @property
    def cpp(self) -> str:
        """The C++ type."""
        return f"ByQuotient<{str(self.rounds).lower()}>"

    def words(self) -> list[int]:
        """No parameters."""
        return []

    def shares(self, e: Codes, total: Codes, out: int) -> Codes:
        """e [..., n] over total [..., 1], with `out` fraction bits."""
        factor = np.where(total < 1, 0, (1 << 32) // np.maximum(total, 1))
        product = e * factor
        return np.asarray(rounded(product, 32 - out) if self.rounds else product >> (32 - out))


@dataclass(frozen=True)
class Softmax:
    """`exp` gives exponentials with 15 fraction bits, `divide` their share of the sum."""

    exp: Unit
    divide: ByReciprocal | ByQuotient
    out: int = 15
    hpp = "units/softmax.hpp"

    @property
    def cpp(self) -> str:
        """The C++ type."""
        return f"Softmax<{self.exp.cpp}, {self.divide.cpp}, {self.out}>"

    def words(self) -> list[int]:
        """Parameters in the order of the hardware."""
        return [*self.exp.words(), *self.divide.words()]

    def __call__(self, x: Codes) -> Codes:
        """Probabilities of rows [..., n]."""
        e = np.where(x == MASKED, 0, self.exp(x - x.max(-1, keepdims=True)))
        y = self.divide.shares(e, e.sum(-1, keepdims=True), self.out)
        return np.asarray(np.clip(y, 0, most_share(self.out)))


@dataclass(frozen=True)
class ShiftSoftmax:
    """Wang et al. 2018: y = exp(x - ln(sum)), both by shifts. d1, d2, c have 15 fraction bits."""

    fraction: int  # of the scores
    d1: int
    d2: int
    c: int
    out: int = 15
    hpp = "units/softmax.hpp"

    @property
    def cpp(self) -> str:
        """The C++ type."""
        return f"ShiftSoftmax<{self.fraction}, {self.out}>"

    def words(self) -> list[int]:
        """Parameters in the order of the hardware."""
        return [self.d1, self.d2, self.c]

    def __call__(self, x: Codes) -> Codes:
        """Probabilities of rows [..., n]."""
        below = np.clip(x - x.max(-1, keepdims=True), -(LEAST_EXPONENT << self.fraction), 0)
        t = by_log2e(below)
        e = np.where(x == MASKED, 0, shift_power(t, self.fraction, self.d1))
        mantissa, exponent = normalized(e.sum(-1, keepdims=True))
        log = (exponent * ONE + mantissa - ONE + self.c) >> (15 - self.fraction)
        y = shift_power(t - log, self.fraction, self.d2) >> (15 - self.out)
        return np.where(x == MASKED, 0, np.clip(y, 0, most_share(self.out)))
