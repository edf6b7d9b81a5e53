"""The functions: what they are in real numbers, and the fixed-point formats of their units."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from weft.units.softmax import MASKED

Real = NDArray[np.float64]


@dataclass(frozen=True)
class Fixed:
    """A fixed-point format: integers of `bits` that stand for code / 2**fraction."""

    bits: int
    fraction: int
    signed: bool = True

    def __str__(self) -> str:
        whole = self.bits - self.fraction - self.signed
        return f"{'' if self.signed else 'U'}Q{whole}.{self.fraction}"

    @property
    def step(self) -> float:
        """The value of the code 1."""
        return 2.0**-self.fraction

    @property
    def low(self) -> int:
        """The smallest code."""
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def high(self) -> int:
        """The largest code."""
        return (1 << (self.bits - self.signed)) - 1

    def decode(self, codes: ArrayLike) -> Real:
        """The values of codes."""
        return np.asarray(codes, np.float64) * self.step

    def encode(self, values: ArrayLike) -> NDArray[np.int64]:
        """The nearest codes, ties to even; saturates."""
        scaled = np.rint(np.asarray(values, np.float64) / self.step)
        return np.clip(scaled, self.low, self.high).astype(np.int64)


@dataclass(frozen=True)
class Function:
    """A function with its formats; `low` and `high` are the input codes of its domain.

    A row function takes whole rows [..., n] and has the domain of their elements.
    """

    name: str
    real: Callable[[Any], Any]
    input: Fixed
    output: Fixed
    low: int
    high: int
    doc: str
    row: bool = False

    @property
    def top(self) -> int:
        """The largest output code: 1.0 where the output's format has 15 fraction bits."""
        return 1 << 15 if self.output.fraction == 15 else self.output.high

    @property
    def codes(self) -> NDArray[np.int64]:
        """All input codes of the domain, in order."""
        return np.arange(self.low, self.high + 1, dtype=np.int64)


_erf = np.vectorize(math.erf, otypes=[np.float64])


def sigmoid(x: Real) -> Real:
    """1 / (1 + exp(-x))."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * x)))


def gelu(x: Real) -> Real:
    """x times the normal distribution's integral up to x (Hendrycks, Gimpel 2016)."""
    return np.asarray(0.5 * x * (1 + _erf(x / math.sqrt(2))))


def gelu_tanh(x: Real) -> Real:
    """GELU's tanh form: up to 4.7e-4 from the other."""
    return np.asarray(0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))


def silu(x: Real) -> Real:
    """x times its sigmoid."""
    return np.asarray(x * sigmoid(x))


def reciprocal(x: Real) -> Real:
    """1 / x."""
    return np.asarray(1 / x)


def rsqrt(x: Real) -> Real:
    """1 / sqrt(x)."""
    return np.asarray(1 / np.sqrt(x))


def softmax(x: Real) -> Real:
    """exp(x) over its sum along the last axis; masked scores give 0, rows of nothing else too."""
    masked = x == SCORE.decode(MASKED)
    e = np.where(masked, 0, np.exp(x - x.max(-1, keepdims=True)))
    total = e.sum(-1, keepdims=True)
    return np.asarray(e / np.where(total == 0, 1, total))


def layernorm(x: Real) -> Real:
    """(x - mean) / deviation along the last axis; rows of equal elements give 0."""
    d = x - x.mean(-1, keepdims=True)
    deviation = np.sqrt((d * d).mean(-1, keepdims=True))
    return np.asarray(d / np.where(deviation == 0, 1, deviation))


def rmsnorm(x: Real) -> Real:
    """x over the root of its mean square along the last axis; rows of zeros give 0."""
    root = np.sqrt((x * x).mean(-1, keepdims=True))
    return np.asarray(x / np.where(root == 0, 1, root))


SCORE = Fixed(16, 10)
_ACTIVATION = Fixed(16, 12)
_UNIT = Fixed(16, 14)
_SHARE = Fixed(16, 15, signed=False)
_INT16 = (-(1 << 15), (1 << 15) - 1)

FUNCTIONS: dict[str, Function] = {
    f.name: f
    for f in (
        Function("softmax", softmax, SCORE, _SHARE, *_INT16, "of a row of scores", row=True),
        Function("layernorm", layernorm, Fixed(16, 0), _ACTIVATION, *_INT16, "of a row", row=True),
        Function("rmsnorm", rmsnorm, Fixed(16, 0), _ACTIVATION, *_INT16, "of a row", row=True),
        Function("gelu", gelu, _ACTIVATION, _ACTIVATION, *_INT16, "GELU, erf form"),
        Function("gelu_tanh", gelu_tanh, _ACTIVATION, _ACTIVATION, *_INT16, "GELU, tanh form"),
        Function("silu", silu, _ACTIVATION, _ACTIVATION, *_INT16, "x·sigmoid(x)"),
        Function("exp", np.exp, SCORE, _SHARE, -(16 << 10), 0, "of what is not positive"),
        Function("exp2", np.exp2, Fixed(14, 14, False), Fixed(17, 16, False), 0, (1 << 14) - 1,
                 "of a fraction in [0, 1)"),
        Function("rsqrt", rsqrt, Fixed(16, 14, False), _SHARE, 1 << 14, (1 << 16) - 1,
                 "of a mantissa in [1, 4)"),
        Function("reciprocal", reciprocal, _SHARE, _SHARE, 1 << 15, (1 << 16) - 1,
                 "of a mantissa in [1, 2)"),
        Function("tanh", np.tanh, _ACTIVATION, _UNIT, *_INT16, "tanh"),
        Function("sigmoid", sigmoid, _ACTIVATION, _UNIT, *_INT16, "1/(1 + exp(−x))"),
    )
}  # fmt: skip
