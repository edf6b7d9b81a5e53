"""Exponentials of attention, and the factor that makes them shares of their row.

Golden model of hls/weft/units/exponential.hpp. An overlay lists its methods by name (`softmax`):
those of `weft.nonlinear`, and `table`, whose tables a program loads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import numpy as np

from weft.config import TABLE_METHOD, Overlay
from weft.units.fixed import ONE, Codes, Unit, codes, normalized
from weft.units.table import VALUE_LIMIT, Lut, TableIndex
from weft.units.table_ops import TableSoftmax

SHARE_BITS = 7  # of a probability that is an activation
TABLE_ENTRIES, TABLE_RECIPROCALS = 32, 64
TABLE_WORDS = 3 + TABLE_ENTRIES + 2 * (3 + TABLE_RECIPROCALS) + 5


class Exponential(Protocol):
    """How exponentials of a row are made, and its shares."""

    def exponential(self, below: Codes) -> Codes:
        """e^below with 15 fraction bits; below <= 0 with 10."""
        ...

    def shares(self, e: Codes, total: Codes) -> Codes:
        """e [..., n] over total [..., 1], before they are clamped."""
        ...


@dataclass(frozen=True)
class MethodExponential:
    """By units of `weft.nonlinear`."""

    exp: Unit
    inverse: Unit

    def exponential(self, below: Codes) -> Codes:
        """e^below."""
        return self.exp(below)

    def reciprocal(self, mantissa: Codes) -> Codes:
        """1/w of mantissas w in [1, 2)."""
        return self.inverse(mantissa)

    def shares(self, e: Codes, total: Codes) -> Codes:
        """With SHARE_BITS fraction bits, rounded; a row of sum 0 gives 0."""
        mantissa, exponent = normalized(total)
        none = total == 0
        factor = np.where(none, 0, self.inverse(np.where(none, 1 << 15, mantissa)))
        shift = np.where(none, 1, 30 - SHARE_BITS + exponent)
        return np.asarray((e * factor + np.where(none, 0, 1 << (shift - 1))) >> shift)


@dataclass(frozen=True)
class TableExponential:
    """By the tables that a program has loaded (units/table_ops.py)."""

    softmax: TableSoftmax
    bound: int  # of the sums that the first table of reciprocals serves, in its steps

    @staticmethod
    def of_words(words: Sequence[int]) -> TableExponential:
        """The inverse of TableSoftmax.words, for tables of the sizes that the hardware has.

        Whatever the words say, no index leaves its table.
        """
        w = list(map(int, words))
        exp = lut_within(w[: 3 + TABLE_ENTRIES], 0, ONE)
        rest = w[3 + TABLE_ENTRIES :]
        size = 3 + TABLE_RECIPROCALS
        small, large = (
            lut_within(part, 1 - VALUE_LIMIT, VALUE_LIMIT - 1)
            for part in (rest[:size], rest[size : 2 * size])
        )
        bound, *outs = rest[2 * size :]
        shifts = [min(max(s, 0), 62) for s in outs[1::2]]
        nudges = outs[::2]
        first, second = zip(nudges, shifts, strict=True)
        return TableExponential(TableSoftmax(exp, small, large, first, second, SHARE_BITS), bound)

    def exponential(self, below: Codes) -> Codes:
        """Of maximum - x."""
        return self.softmax.exp(-below)

    def shares(self, e: Codes, total: Codes) -> Codes:
        """As HG-PIPE has them."""
        s = self.softmax
        above = ((total + s.small.index.bias) >> s.small.index.shift) > self.bound
        factor = np.where(above, s.large(total), s.small(total))
        nudge, shift = (
            np.where(above, b, a) for a, b in zip(s.small_out, s.large_out, strict=True)
        )
        return np.asarray((e * factor + nudge) >> shift)


def lut_within(words: Sequence[int], least: int, most: int) -> Lut:
    """A table of bias, bound, shift, entries, as a program loads it, moved inside its limits."""
    bias, bound, shift, *entries = words
    index = TableIndex(
        min(max(bias, -(1 << 29)), 1 << 29),
        min(max(bound, 0), len(entries) - 1),
        min(max(shift, 0), 23),
    )
    return Lut(index, np.clip(codes(entries), least, most)[: index.bound + 1])


@cache
def methods(overlay: Overlay) -> tuple[MethodExponential | None, ...]:
    """The overlay's methods by number; None for the one whose tables a program loads."""
    if "attention" not in overlay.units:
        return ()
    from weft.nonlinear import method

    return tuple(
        None
        if name == TABLE_METHOD
        else MethodExponential(method("exp", name).unit, method("reciprocal", name).unit)
        for name in overlay.softmax
    )


def divider(overlay: Overlay) -> MethodExponential | None:
    """What divides sums at the end: the first method that is no table."""
    return next((m for m in methods(overlay) if m is not None), None)
