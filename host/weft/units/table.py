"""Functions as tables: a direct one (`lut`) and one of lines (`pwl`).

Golden model of hls/weft/units/table.hpp. The index is clamp((x + bias) >> shift, 0, bound), as in
HG-PIPE (Guo et al., ICCAD 2024). `weft.nonlinear.fit` makes the content.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from weft.errors import InputError
from weft.units.fixed import Codes, joined

GUARD = 12  # fraction bits of a line's value below its output's
VALUE_LIMIT = 1 << 17  # entries and slopes have 18 bits


@dataclass(frozen=True)
class TableIndex:
    """Which of bound + 1 equal bins of 2**shift codes, the first one starting at -bias."""

    bias: int
    bound: int
    shift: int

    def offset(self, x: Codes) -> Codes:
        """Distance from the table's first input, moved inside the table."""
        return np.clip(x + self.bias, 0, ((self.bound + 1) << self.shift) - 1)

    def __call__(self, x: Codes) -> Codes:
        """The bin of each code."""
        return self.offset(x) >> self.shift

    def words(self) -> list[int]:
        """Parameters in the order of the hardware."""
        return [self.bias, self.bound, self.shift]


@dataclass(frozen=True)
class Lut:
    """y = value[index(x)]. `value` is [bound + 1], 18 bits each."""

    index: TableIndex
    value: Codes
    hpp = "units/table.hpp"

    def __post_init__(self) -> None:
        _check("table", self.value, self.index.bound + 1)

    @property
    def cpp(self) -> str:
        """The C++ type."""
        return f"Lut<{len(self.value)}>"

    def words(self) -> list[int]:
        """Parameters in the order of the hardware."""
        return [*self.index.words(), *map(int, self.value)]

    def __call__(self, x: Codes) -> Codes:
        """Output codes."""
        return np.asarray(self.value[self.index(x)])


@dataclass(frozen=True)
class Pwl:
    """One line per bin: y = (value + slope * distance from its left end) >> 12, within the limits.

    `value` has 12 fraction bits more than the output and half an output step added; `slope` is in
    the same units per input code, 18 bits.
    """

    index: TableIndex
    limits: tuple[int, int]
    value: Codes
    slope: Codes
    hpp = "units/table.hpp"

    def __post_init__(self) -> None:
        _check("slope", self.slope, self.index.bound + 1)

    @property
    def cpp(self) -> str:
        """The C++ type."""
        return f"Pwl<{len(self.value)}>"

    def words(self) -> list[int]:
        """Parameters in the order of the hardware."""
        return [*self.index.words(), *self.limits, *joined((self.value, self.slope))]

    def __call__(self, x: Codes) -> Codes:
        """Output codes."""
        offset = self.index.offset(x)
        i = offset >> self.index.shift
        y = (self.value[i] + self.slope[i] * (offset - (i << self.index.shift))) >> GUARD
        return np.asarray(np.clip(y, *self.limits))


def _check(what: str, value: Codes, count: int) -> None:
    if len(value) != count:
        raise InputError(f"{what} has {len(value)} entries where its index has {count}")
    worst = int(np.abs(value).max())
    if worst >= VALUE_LIMIT:
        raise InputError(f"{what} entry {worst} does not fit 18 bits (below {VALUE_LIMIT})")
