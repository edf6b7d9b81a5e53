"""What norms of an overlay make of a row: z of LayerNorm and RMSNorm, by each of its methods.

Golden model of hls/weft/units/root.hpp. An overlay lists its methods by name (`norm`): those of
`weft.nonlinear` for the reciprocal of a root, `ibert`, and `table`, whose table a program loads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from weft.config import INTEGER_METHOD, TABLE_METHOD, Overlay
from weft.units.exponential import lut_within
from weft.units.fixed import Codes, rounded
from weft.units.ibert import IRsqrt
from weft.units.norm import INorm, Norm
from weft.units.table import Lut

TABLE_ENTRIES = 128
TABLE_WORDS = 3 + TABLE_ENTRIES + 3
_WEIGHT_BITS = 18
_MOST_POWER = 1 << 30


@dataclass(frozen=True)
class Method:
    """z of rows, as LayerNorm and as RMSNorm."""

    layer: Norm | INorm
    rms: Norm

    def normal(self, x: Codes, rms: bool, epsilon: int) -> Codes:
        """z [rows, n] with 10 fraction bits; I-BERT's LayerNorm knows no epsilon."""
        if rms:
            return self.rms.normal(x, epsilon)
        if isinstance(self.layer, INorm):
            return self.layer.normal(x)
        return self.layer.normal(x, epsilon)


@dataclass(frozen=True)
class TableRoot:
    """HG-PIPE's LayerNorm by the table that a program has loaded (units/table_ops.py)."""

    rsqrt: Lut
    multiplier: int
    mean_shift: int
    out_shift: int

    @staticmethod
    def of_words(words: Sequence[int]) -> TableRoot:
        """The inverse of TableNorm.words: index, entries, multiplier and shift of the mean, shift.

        All are moved inside their limits.
        """
        *table, multiplier, mean_shift, out_shift = map(int, words)
        rsqrt = lut_within(table, 0, 65535)
        shifts = min(max(mean_shift, 1), 62), min(max(out_shift, 0), 62)
        return TableRoot(rsqrt, multiplier, *shifts)

    def __call__(self, x: Codes, weight: Codes, bias: Codes) -> Codes:
        """y [rows, n] before it is saturated; the sum wraps in 64 bits."""
        total = x.sum(-1, keepdims=True)
        mean = np.clip(rounded(total * self.multiplier, self.mean_shift), -(1 << 15), (1 << 15) - 1)
        d = x - mean
        power = np.minimum((d * d).sum(-1, keepdims=True), _MOST_POWER)
        half = 1 << (_WEIGHT_BITS - 1)
        w = ((weight + half) & (2 * half - 1)) - half
        return np.asarray((d * self.rsqrt(power) * w + bias) >> self.out_shift)


@cache
def methods(overlay: Overlay) -> tuple[Method | None, ...]:
    """The overlay's methods by number; None for the one whose table a program loads."""
    if "norm" not in overlay.units:
        return ()
    return tuple(_method(name) for name in overlay.norm)


def _method(name: str) -> Method | None:
    from weft.nonlinear import method

    if name == TABLE_METHOD:
        return None
    if name == INTEGER_METHOD:
        return Method(INorm(), Norm(IRsqrt(), centered=False))
    unit = method("rsqrt", name).unit
    return Method(Norm(unit), Norm(unit, centered=False))
