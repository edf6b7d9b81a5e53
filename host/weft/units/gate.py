"""Sigmoid, tanh, SiLU and GELU from an exponential and a reciprocal.

Golden model of hls/weft/units/gate.hpp: s(x) = 1/(1 + exp(-x)), tanh(x) = 2 s(2x) - 1,
SiLU(x) = x s(x), GELU(x) = x s(a(x)) with an odd polynomial a of order 3 (the tanh form, exactly)
or 5 (the erf form, fitted).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from weft.units.fixed import ONE, Codes, Unit, rounded

GATE_FRACTION = 12  # of the argument; the exponential's input fraction
_FAR = 9 << (GATE_FRACTION - 1)
KINDS = ("Sigmoid", "Tanh", "Silu", "Gelu")


@dataclass(frozen=True)
class Gate:
    """One of KINDS. `exp` takes 12 fraction bits and gives 15, `reciprocal` has 15 in and out.

    In: 12 fraction bits. Out: 14 of Sigmoid and Tanh, 12 of Silu and Gelu. `argument`: c1, c3, c5
    of Gelu's polynomial, with 12, 18 and 18 fraction bits.
    """

    kind: str
    exp: Unit
    reciprocal: Unit
    argument: tuple[int, ...] = ()
    hpp = "units/gate.hpp"

    @property
    def cpp(self) -> str:
        """The C++ type."""
        return f"{self.kind}<{self.exp.cpp}, {self.reciprocal.cpp}>"

    def words(self) -> list[int]:
        """Parameters in the order of the hardware."""
        return [*self.exp.words(), *self.reciprocal.words(), *self.argument]

    def positive(self, a: Codes) -> Codes:
        """s(|a|), 15 fraction bits."""
        e = self.exp(-np.abs(a))
        return self.reciprocal(np.clip(e + ONE, ONE, 2 * ONE - 1))

    def of(self, a: Codes) -> Codes:
        """s(a), 15 fraction bits."""
        s = self.positive(a)
        return np.where(a < 0, ONE - s, s)

    def _bent(self, x: Codes) -> Codes:
        c1, c3, c5 = self.argument
        near = np.clip(x, -_FAR, _FAR)
        square = (near * near) >> GATE_FRACTION
        inner = c3 + ((c5 * square) >> GATE_FRACTION)
        return np.asarray(((c1 + ((inner * square) >> 18)) * near) >> GATE_FRACTION)

    def __call__(self, x: Codes) -> Codes:
        """Output codes."""
        if self.kind == "Sigmoid":
            return np.asarray(rounded(self.of(x), 1))
        if self.kind == "Tanh":
            y = self.positive(x << 1) - ONE // 2
            return np.where(x < 0, -y, y)
        a = x if self.kind == "Silu" else self._bent(x)
        return np.asarray(rounded(x * self.of(a), 15))
