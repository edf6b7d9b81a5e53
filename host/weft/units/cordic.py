"""CORDIC: rotations by shifts and additions (Walther, "A unified algorithm", 1971).

Golden model of hls/weft/units/cordic.hpp.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from weft.units.fixed import LEAST_EXPONENT, ONE, Codes, rounded
from weft.units.polynomial import POWER_FRACTION, log2e_times

FRACTION = 20


def shifts(steps: int, repeats: tuple[int, ...] = (4, 13)) -> list[int]:
    """1, 2, 3, 4, 4, 5, ..., 13, 13, 14, ...: hyperbolic rotations need the repeats to converge."""
    sequence = [i for i in range(1, steps + 1) for _ in range(2 if i in repeats else 1)]
    return sequence[:steps]


@dataclass(frozen=True)
class CordicExp:
    """exp(x), x <= 0: x = k ln 2 + r, a hyperbolic rotation by r from (1/K, 0), X + Y = exp(r).

    In: `fraction` bits. Out: 15 fraction bits, 0..32768.
    """

    fraction: int
    steps: int = 16
    hpp = "units/cordic.hpp"

    @property
    def cpp(self) -> str:
        """The C++ type."""
        return f"CordicExp<{self.fraction}, {self.steps}>"

    @property
    def start(self) -> int:
        """1/K, the inverse of the rotations' gain, with 20 fraction bits."""
        gain = math.prod(math.sqrt(1 - 4.0**-i) for i in shifts(self.steps))
        return round((1 << FRACTION) / gain)

    @property
    def angles(self) -> list[int]:
        """The rotations' angles, atanh(2**-i), with 20 fraction bits."""
        return [round(math.atanh(2.0**-i) * (1 << FRACTION)) for i in shifts(self.steps)]

    def words(self) -> list[int]:
        """Parameters in the order of the hardware."""
        return [self.start, round(math.log(2) * (1 << FRACTION)), *self.angles]

    def __call__(self, x: Codes) -> Codes:
        """Output codes."""
        start, ln2, *angles = self.words()
        inside = np.clip(x, -(LEAST_EXPONENT << self.fraction), 0)
        k = log2e_times(inside, self.fraction) >> POWER_FRACTION
        z = (inside << (FRACTION - self.fraction)) - k * ln2
        a, b = np.full(np.shape(x), start, np.int64), np.zeros(np.shape(x), np.int64)
        for i, angle in zip(shifts(self.steps), angles, strict=True):
            up = np.where(z >= 0, 1, -1)
            a, b, z = a + up * (b >> i), b + up * (a >> i), z - up * angle
        return np.asarray(np.clip(rounded(a + b, FRACTION - 15 - k), 0, ONE))


@dataclass(frozen=True)
class CordicReciprocal:
    """1/w, w in [1, 2): linear vectoring drives 1 - w*q to 0. In and out: 15 fraction bits."""

    cpp = "CordicReciprocal"
    hpp = "units/cordic.hpp"

    def words(self) -> list[int]:
        """No parameters."""
        return []

    def __call__(self, x: Codes) -> Codes:
        """Output codes."""
        rest, q = np.full(np.shape(x), ONE << 2, np.int64), np.zeros(np.shape(x), np.int64)
        for i in range(17):
            up = np.where(rest >= 0, 1, -1)
            rest, q = rest - up * ((x << 2) >> i), q + up * (1 << (17 - i))
        return np.asarray(np.clip(rounded(q, 2), ONE // 2, ONE))
