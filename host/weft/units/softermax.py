"""Softermax: base 2, and a running maximum rounded up to an integer (Stevens et al., DAC 2021).

Golden model of hls/weft/units/softermax.hpp: one pass of statistics, as the sum so far is rescaled
by a shift when the maximum grows. Widths are wider than the paper's, and rounded: with those a row
of 384 scores would lose a third of its sum.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from weft.units.fixed import LEAST_EXPONENT, LOG2E, ONE, Codes, Unit, rounded
from weft.units.polynomial import POWER_FRACTION
from weft.units.softmax import MASKED, ByReciprocal, most_share

NONE = -64  # a maximum below every score's


def to_base_two(x: Codes) -> Codes:
    """x * log2(e), rounded, with the fraction bits of x."""
    return np.asarray(rounded(x * LOG2E, POWER_FRACTION))


@dataclass(frozen=True)
class LinePower:
    """2**t for t <= 0 with `fraction` bits, out 15; `line` maps v in [0, 1), 14 fraction bits, to
    2**v with 16.
    """

    fraction: int
    line: Unit

    @property
    def cpp(self) -> str:
        """The C++ type."""
        return f"LinePower<{self.fraction}, {self.line.cpp}>"

    def words(self) -> list[int]:
        """Parameters in the order of the hardware."""
        return self.line.words()

    def __call__(self, t: Codes) -> Codes:
        """Output codes."""
        v = (t & ((1 << self.fraction) - 1)) << (POWER_FRACTION - self.fraction)
        return np.asarray(np.clip(rounded(self.line(v), 1 - (t >> self.fraction)), 0, ONE))


@dataclass(frozen=True)
class LineExp:
    """exp(x) = 2**(x log2 e), x <= 0. In: the power's fraction bits. Out: 15, 0..32768."""

    power: LinePower
    hpp = "units/softermax.hpp"

    @property
    def cpp(self) -> str:
        """The C++ type."""
        return f"LineExp<{self.power.fraction}, {self.power.line.cpp}>"

    def words(self) -> list[int]:
        """Parameters in the order of the hardware."""
        return self.power.words()

    def __call__(self, x: Codes) -> Codes:
        """Output codes."""
        return self.power(to_base_two(np.clip(x, -(LEAST_EXPONENT << self.power.fraction), 0)))


@dataclass(frozen=True)
class Softermax:
    """Probabilities of rows [..., n]; `reciprocal` takes mantissas in [1, 2).

    `natural`: scores are exponents of e, else of 2. The sum is rounded wherever the maximum grows,
    word by word of `lanes` scores.
    """

    power: LinePower
    reciprocal: Unit
    lanes: int = 32
    natural: bool = True
    out: int = 15
    hpp = "units/softermax.hpp"

    @property
    def cpp(self) -> str:
        """The C++ type."""
        parts = (self.power.cpp, self.reciprocal.cpp, str(self.natural).lower())
        return f"Softermax<{self.power.fraction}, {self.out}, {', '.join(parts)}>"

    def words(self) -> list[int]:
        """Parameters in the order of the hardware."""
        return [*self.power.words(), *self.reciprocal.words()]

    def __call__(self, x: Codes) -> Codes:
        """Probabilities with `out` fraction bits; masked positions and rows give 0."""
        fraction = self.power.fraction
        t = to_base_two(x) if self.natural else x
        maximum = np.full((*x.shape[:-1], 1), NONE, np.int64)
        total, kept, then = np.zeros_like(maximum), np.zeros_like(x), np.zeros_like(x)
        for first in range(0, x.shape[-1], self.lanes):
            here = np.s_[..., first : first + self.lanes]
            ceiling = (t[here].max(-1, keepdims=True) + (1 << fraction) - 1) >> fraction
            grows = (x[here].max(-1, keepdims=True) != MASKED) & (ceiling > maximum)
            now = np.where(grows, ceiling, maximum)
            total = np.where(grows, rounded(total, np.maximum(now - maximum, 1)), total)
            kept[here] = self._exponentials(x[here], t[here], now)
            total = total + kept[here].sum(-1, keepdims=True)
            then[here] = maximum = now
        y = ByReciprocal(self.reciprocal).shares(kept, total, self.out, maximum - then)
        return np.asarray(np.clip(y, 0, most_share(self.out)))

    def _exponentials(self, x: Codes, t: Codes, maximum: Codes) -> Codes:
        return np.where(x == MASKED, 0, self.power(t - (maximum << self.power.fraction)))
