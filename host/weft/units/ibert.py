"""I-BERT's integer operations: Kim et al., ICML 2021, sections 3.4 to 3.6.

Golden model of hls/weft/units/ibert.hpp. The coefficients of the exponential are those of Hugging
Face's `transformers.models.ibert.quant_modules`, whose polynomial is off by 1.91e-3 (the paper's
own by 2.13e-3). A scale S turns an integer into its value: value = integer * S.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from weft.errors import InputError
from weft.units.fixed import ONE, Codes, codes, leading_one, rounded

EXP_A, EXP_B, EXP_C, EXP_X0 = 0.35815147, 0.96963238, 1.0, -0.6931
ERF_A, ERF_B, ERF_C, SQRT2 = -0.2888, -1.769, 1.0, 1.4142
POWERS = 30  # exp(x) is worked out down to 2**-30
INVERSE_BITS = 26
ISQRT_STEPS = 8


def multiplier(scale: float, bits: int = 31) -> tuple[int, int]:
    """(m, shift) with scale = m / 2**shift, the magnitude of m in [2**(bits-1), 2**bits)."""
    fraction, exponent = math.frexp(scale)
    m = math.floor(abs(fraction) * 2.0**bits + 0.5)
    if m == 1 << bits:
        m, exponent = m // 2, exponent + 1
    return int(math.copysign(m, scale)), bits - exponent


@dataclass(frozen=True)
class IExp:
    """i-exp of x * S, x <= 0: z * 2**-q * m with q = floor(x/x0), z a polynomial of the rest."""

    x0: int
    b: int
    c: int
    m: int
    shift: int
    most: int
    cpp = "IExp"
    hpp = "units/ibert.hpp"

    @staticmethod
    def of(scale: float, out_scale: float = 1 / ONE, most: int = ONE) -> IExp:
        """For inputs of scale S; the output has `out_scale` and is at most `most`.

        Raises InputError for a scale whose quotient the hardware's constant would not give exactly.
        """
        x0 = math.floor(EXP_X0 / scale)
        if not 1 / 2048 <= scale <= 1 / 4:
            raise InputError(f"i-exp: scale {scale:g} is not within 1/2048 and 1/4")
        b = math.floor(EXP_B / EXP_A / scale)
        c = math.floor(EXP_C / EXP_A / scale**2)
        unit = IExp(x0, b, c, *multiplier(EXP_A * scale**2 / out_scale), most)
        x = np.arange(POWERS * x0, 1)
        assert np.array_equal((-x * unit.inverse) >> INVERSE_BITS, x // x0)
        return unit

    @property
    def inverse(self) -> int:
        """1/-x0, rounded up, with 26 fraction bits: makes the division by x0 a product."""
        return -((1 << INVERSE_BITS) // self.x0)

    def words(self) -> list[int]:
        """Parameters in the order of the hardware."""
        return [self.x0, self.b, self.inverse, self.c, self.m, self.shift, self.most]

    def __call__(self, x: Codes) -> Codes:
        """Output codes."""
        inside = np.clip(x, POWERS * self.x0, 0)
        q = inside // self.x0
        r = inside - self.x0 * q
        z = (r + self.b) * r + self.c
        return np.asarray(np.clip(rounded(z * self.m, self.shift + q), 0, self.most))


@dataclass(frozen=True)
class IGelu:
    """i-GELU of x * S; `down` is the paper's shift of erf, which needs S <= 1e-3 if it is 14."""

    b: int
    c: int
    one: int
    down: int
    m: int
    shift: int
    scale: float  # of `raw`: negative
    cpp = "IGelu"
    hpp = "units/ibert.hpp"

    @staticmethod
    def of(scale: float, out_scale: float | None = None, down: int = 14) -> IGelu:
        """For inputs of scale S; the output has `out_scale` (S, if None), saturated to int16."""
        inner = scale / SQRT2
        erf_scale = ERF_A * inner**2 * 2.0**down
        b, c = math.floor(ERF_B / inner), math.floor(ERF_C / ERF_A / inner**2)
        raw_scale = scale * erf_scale / 2
        m, shift = multiplier(raw_scale / (out_scale or scale))
        return IGelu(b, c, math.floor(1 / erf_scale), down, m, shift, raw_scale)

    def words(self) -> list[int]:
        """Parameters in the order of the hardware."""
        return [self.b, self.c, self.one, self.down, self.m, self.shift]

    def raw(self, x: Codes) -> Codes:
        """The paper's integer, of the negative `scale`."""
        near = np.minimum(np.abs(x), -self.b) + self.b
        erf = (np.sign(x) * (near * near + self.c)) >> self.down
        return np.asarray(x * (erf + self.one))

    def __call__(self, x: Codes) -> Codes:
        """Output codes."""
        return np.asarray(np.clip(rounded(self.raw(x) * self.m, self.shift), -(1 << 15), ONE - 1))


def isqrt(n: Codes) -> Codes:
    """floor(sqrt(n)), 0 <= n < 2**62, by Newton's method from 2**ceil(bits/2) down."""
    x = np.int64(1) << ((leading_one(n) + 2) // 2)
    for _ in range(ISQRT_STEPS):
        x = np.minimum(x, (x + n // np.maximum(x, 1)) >> 1)
    return np.asarray(x)


@dataclass(frozen=True)
class IReciprocal:
    """floor(2**30 / w): 1/w for w in [1, 2). In and out: 15 fraction bits."""

    cpp = "IReciprocal"
    hpp = "units/ibert.hpp"

    def words(self) -> list[int]:
        """No parameters."""
        return []

    def __call__(self, x: Codes) -> Codes:
        """Output codes."""
        return np.asarray((1 << 30) // np.maximum(codes(x), 1))


@dataclass(frozen=True)
class IRsqrt:
    """floor(2**30 / isqrt(w * 2**16)): 1/sqrt(w) for w in [1, 4). In: 14 fraction bits. Out: 15."""

    cpp = "IRsqrt"
    hpp = "units/ibert.hpp"

    def words(self) -> list[int]:
        """No parameters."""
        return []

    def __call__(self, x: Codes) -> Codes:
        """Output codes."""
        return np.asarray((1 << 30) // np.maximum(isqrt(codes(x) << 16), 1))
