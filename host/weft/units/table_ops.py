"""Softmax and LayerNorm made of integer tables, as HG-PIPE does them (Guo et al., ICCAD 2024).

Golden model of hls/weft/units/table_ops.hpp. Requantization and GELU by table are `table.Lut`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from weft.units.fixed import Codes, codes, rounded
from weft.units.softmax import MASKED
from weft.units.table import Lut, TableIndex


def table(value: ArrayLike, bias: int, shift: int, bound: int) -> Lut:
    """y = value[clamp((x + bias) >> shift, 0, bound)]: requantization, GELU."""
    return Lut(TableIndex(int(bias), int(bound), int(shift)), codes(value)[: int(bound) + 1])


@dataclass(frozen=True)
class TableSoftmax:
    """Rows [..., n] of int16 scores → unsigned codes of `bits`.

    `exp` maps max - x; `small` and `large` map the sum to a reciprocal; `large` serves where the
    sum lies beyond the bound of `small`. (nudge, shift) of each: y = (e * r + nudge) >> shift.
    """

    exp: Lut
    small: Lut
    large: Lut
    small_out: tuple[int, int]
    large_out: tuple[int, int]
    bits: int
    hpp = "units/table_ops.hpp"

    @property
    def cpp(self) -> str:
        """The C++ type."""
        sizes = (len(t.value) for t in (self.exp, self.small, self.large))
        return f"TableSoftmax<{', '.join(map(str, sizes))}, {self.bits}>"

    def words(self) -> list[int]:
        """Parameters in the order of the hardware."""
        tables = [*self.exp.words(), *self.small.words(), *self.large.words()]
        return [*tables, self.small.index.bound, *self.small_out, *self.large_out]

    def __call__(self, x: Codes) -> Codes:
        """Probabilities; masked positions and rows give 0 where the nudges do."""
        e = np.where(x == MASKED, 0, self.exp(x.max(-1, keepdims=True) - x))
        total = e.sum(-1, keepdims=True)
        index = self.small.index
        above = ((total + index.bias) >> index.shift) > index.bound
        factor = np.where(above, self.large(total), self.small(total))
        nudge, shift = (
            np.where(above, b, s) for s, b in zip(self.small_out, self.large_out, strict=True)
        )
        return np.asarray(np.clip((e * factor + nudge) >> shift, 0, (1 << self.bits) - 1))


@dataclass(frozen=True)
class TableNorm:
    """LayerNorm of rows [..., n]: mean by a constant, 1/deviation by a table, codes of `bits`."""

    rsqrt: Lut
    multiplier: int
    mean_shift: int
    out_shift: int
    bits: int
    hpp = "units/table_ops.hpp"

    @property
    def cpp(self) -> str:
        """The C++ type."""
        return f"TableNorm<{len(self.rsqrt.value)}, {self.bits}>"

    def words(self) -> list[int]:
        """Parameters in the order of the hardware."""
        return [*self.rsqrt.words(), self.multiplier, self.mean_shift, self.out_shift]

    def __call__(self, x: Codes, weight: ArrayLike, bias: ArrayLike) -> Codes:
        """`weight` int32 and `bias` int64, [n]; the affine part needs 39 bits."""
        mean = rounded(x.sum(-1, keepdims=True) * self.multiplier, self.mean_shift)
        d = x - mean
        factor = self.rsqrt((d * d).sum(-1, keepdims=True))
        y = (d * factor * codes(weight) + codes(bias)) >> self.out_shift
        return np.asarray(np.clip(y, -(1 << (self.bits - 1)), (1 << (self.bits - 1)) - 1))


def residual(x: Codes, y: Codes, multiplier: int, shift: int) -> Codes:
    """x rescaled into y's scale and added: ((x * multiplier + half) >> shift) + y, 34 bits."""
    return np.asarray(rounded(codes(x) * multiplier, shift) + y)
