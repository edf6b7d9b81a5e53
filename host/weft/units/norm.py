"""LayerNorm and RMSNorm of rows: exact integer statistics in one pass, then a root.

Golden model of hls/weft/units/norm.hpp. Inputs are int16 codes [..., n] of any one scale, n at most
4096. z = (n x - sum) / sqrt(n sum(x^2) - sum^2) has 10 fraction bits and never rounds the mean;
y = (z * gamma + beta) / 2**shift, rounded and saturated to int16. RMSNorm takes 0 for the sum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from weft.errors import InputError
from weft.units.fixed import Codes, Unit, codes, normalized_even, rounded
from weft.units.ibert import isqrt

NORM_FRACTION = 10
GAMMA_ONE = 1 << 12  # gamma's codes have 12 fraction bits where shift is 10 and y has 12
DEFAULT_SHIFT = 10
MOST_ELEMENTS = 4096


def affine(z: Codes, gamma: ArrayLike, beta: ArrayLike, shift: ArrayLike) -> Codes:
    """(z * gamma + beta) / 2**shift, ties up, as int16; gamma int16, beta int32, () or [n]."""
    y = rounded(z * codes(gamma) + codes(beta), shift)
    return np.asarray(np.clip(y, -(1 << 15), (1 << 15) - 1))


@dataclass(frozen=True)
class Norm:
    """`rsqrt` takes mantissas in [1, 4) with 14 fraction bits, gives 15. centered: LayerNorm."""

    rsqrt: Unit
    centered: bool = True
    hpp = "units/norm.hpp"

    @property
    def cpp(self) -> str:
        """The C++ type."""
        return f"RootNorm<{self.rsqrt.cpp}, {str(self.centered).lower()}>"

    def words(self) -> list[int]:
        """Parameters in the order of the hardware."""
        return self.rsqrt.words()

    def normal(self, x: Codes, epsilon: int = 0) -> Codes:
        """z [..., n] with 10 fraction bits, 18 bits; `epsilon` is round(eps * n^2 / S^2)."""
        n, total, squares = _sums(x)
        offset = total if self.centered else np.zeros_like(total)
        variance = n * squares - offset * offset + epsilon
        mantissa, exponent = normalized_even(variance)
        factor = np.where(variance == 0, 0, self.rsqrt(mantissa))
        z = rounded((n * x - offset) * factor, 15 - NORM_FRACTION + (exponent + 14) // 2)
        return np.asarray(np.clip(z, -(1 << 17), (1 << 17) - 1))

    def __call__(
        self,
        x: Codes,
        gamma: ArrayLike = GAMMA_ONE,
        beta: ArrayLike = 0,
        shift: int = DEFAULT_SHIFT,
        epsilon: int = 0,
    ) -> Codes:
        """y [..., n]; 12 fraction bits with the defaults."""
        return affine(self.normal(x, epsilon), gamma, beta, shift)


@dataclass(frozen=True)
class INorm:
    """I-BERT's LayerNorm (section 3.6): rounded mean, integer root.

    The error is that of the mean's rounding: keep the deviation above 100 steps of the input.
    """

    cpp = "INorm"
    hpp = "units/norm.hpp"

    def words(self) -> list[int]:
        """No parameters."""
        return []

    def raw(self, x: Codes) -> Codes:
        """The paper's integer, (x - mean) * floor(2**31 / std) >> 1, of scale sqrt(n) / 2**30."""
        n, total, squares = _sums(x)
        mean = (2 * total + n) // (2 * n)
        tie = (mean * 2 * n == 2 * total + n) & (mean & 1 == 1)
        mean = np.where(tie, mean - 1, mean)
        deviation = isqrt(squares - 2 * mean * total + n * mean * mean)
        factor = (1 << 31) // np.maximum(deviation, 1)
        return np.asarray(((x - mean) * factor) >> 1)

    def normal(self, x: Codes) -> Codes:
        """z [..., n] with 10 fraction bits."""
        root = isqrt(codes(x.shape[-1] << 16))  # sqrt(n) with 8 fraction bits
        z = rounded((self.raw(x) >> 12) * root, 16)
        return np.asarray(np.clip(z, -(1 << 17), (1 << 17) - 1))

    def __call__(
        self,
        x: Codes,
        gamma: ArrayLike = GAMMA_ONE,
        beta: ArrayLike = 0,
        shift: int = DEFAULT_SHIFT,
        epsilon: int = 0,
    ) -> Codes:
        """y [..., n]; 12 fraction bits with the defaults. I-BERT has no epsilon: it is ignored."""
        return affine(self.normal(x), gamma, beta, shift)


def _sums(x: Codes) -> tuple[int, Any, Any]:
    n = x.shape[-1]
    if not 1 <= n <= MOST_ELEMENTS:
        raise InputError(f"a row of {n} elements: norms take 1 to {MOST_ELEMENTS}")
    return n, x.sum(-1, keepdims=True), (x * x).sum(-1, keepdims=True)
