"""Lines between freely placed breakpoints: NN-LUT, and lines with power-of-two slopes.

Golden model of hls/weft/units/segments.hpp. NN-LUT: Yu et al., DAC 2022; power-of-two slopes: as
PLAN (Amin, Curtis, Hayes-Gill, IEE Proc. 1997) has them. `weft.nonlinear.fit` and `.nnlut` make
the content.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from weft.units.fixed import Codes, joined
from weft.units.table import GUARD

FLAT = 31  # the shift of a slope of 0


@dataclass(frozen=True)
class Segments:
    """y = (value + slope * (x - start)) >> 12 of the segment with start[i] <= x < start[i + 1].

    `start`, `value`, `slope` are [a power of two]; inputs are moved into start[0]..last.
    """

    limits: tuple[int, int]
    last: int
    start: Codes
    value: Codes
    slope: Codes
    hpp = "units/segments.hpp"

    @property
    def cpp(self) -> str:
        """The C++ type."""
        return f"Segments<{len(self.start)}>"

    def words(self) -> list[int]:
        """Parameters in the order of the hardware."""
        return [*self.limits, self.last, *joined((self.start, self.value, self.slope))]

    def __call__(self, x: Codes) -> Codes:
        """Output codes."""
        inside, i = find(self.start, self.last, x)
        y = (self.value[i] + self.slope[i] * (inside - self.start[i])) >> GUARD
        return np.asarray(np.clip(y, *self.limits))


@dataclass(frozen=True)
class ShiftSegments:
    """As Segments, with slope = sign * 2**(shift - 12), or 0 where shift is FLAT: no multiplier."""

    limits: tuple[int, int]
    last: int
    start: Codes
    value: Codes
    shift: Codes
    sign: Codes
    hpp = "units/segments.hpp"

    @property
    def cpp(self) -> str:
        """The C++ type."""
        return f"ShiftSegments<{len(self.start)}>"

    def words(self) -> list[int]:
        """Parameters in the order of the hardware."""
        return [*self.limits, self.last, *joined((self.start, self.value, self.shift, self.sign))]

    def __call__(self, x: Codes) -> Codes:
        """Output codes."""
        inside, i = find(self.start, self.last, x)
        flat = self.shift[i] == FLAT
        right = np.where(flat, 0, inside - self.start[i]) << np.where(flat, 0, self.shift[i])
        y = (self.value[i] + np.where(self.sign[i] < 0, -right, right)) >> GUARD
        return np.asarray(np.clip(y, *self.limits))


def find(start: Codes, last: int, x: Codes) -> tuple[Codes, Codes]:
    """(x moved into the segments' range, the segment of each)."""
    inside = np.clip(x, start[0], last)
    return inside, np.searchsorted(start, inside, side="right") - 1
