"""Activations of Vision Transformers: PTQ4ViT's twin ranges, FQ-ViT's factors and log softmax."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from weft.errors import InputError
from weft.graph import Array

GELU_LOWEST = 0.16997  # -min of GELU
FACTORS = (0, 1, 2, 3)
LOG_CODES = 16  # 4 bits


@dataclass(frozen=True)
class TwinSoftmax:
    """Two ranges for numbers in 0..1 (Yuan et al., PTQ4ViT, ECCV 2022, section 3.2).

    A code of `bits` is a range bit r and q of the others; the ranges end at 2**-shift and 1.
    """

    bits: int = 8
    shift: int = 4

    @property
    def levels(self) -> int:
        """Largest q."""
        return int((1 << (self.bits - 1)) - 1)

    def quantize(self, x: Array) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Range bits and q of `x`, nearest, ties to even."""
        real = np.asarray(x, np.float64)
        r = real > 2.0**-self.shift
        q = np.rint(real * self.levels * np.where(r, 1.0, 2.0**self.shift))
        return r.astype(np.uint8), np.clip(q, 0, self.levels).astype(np.int64)

    def dequantize(self, r: Array, q: Array) -> NDArray[np.float64]:
        """Real values: the upper range is the lower one moved left by `shift` bits."""
        moved = np.asarray(q, np.int64) << (self.shift * np.asarray(r, np.int64))
        return np.asarray(moved * 2.0**-self.shift / self.levels)


@dataclass(frozen=True)
class TwinGelu:
    """One step below zero, where GELU reaches -0.17 only, and another above (PTQ4ViT)."""

    positive: float
    bits: int = 8

    @property
    def levels(self) -> int:
        """Largest magnitude of q."""
        return int((1 << (self.bits - 1)) - 1)

    def quantize(self, x: Array) -> NDArray[np.int64]:
        """Codes; their sign names the range."""
        real, n = np.asarray(x, np.float64), self.levels
        q = np.rint(real / np.where(real < 0, GELU_LOWEST / n, self.positive))
        return np.clip(q, -n, n).astype(np.int64)

    def dequantize(self, q: Array) -> NDArray[np.float64]:
        """Real values of the codes."""
        codes = np.asarray(q, np.float64)
        return np.asarray(codes * np.where(codes < 0, GELU_LOWEST / self.levels, self.positive))


def twin_gelu(x: Array, bits: int = 8) -> TwinGelu:
    """The TwinGelu whose positive step, of 100 up to max(x) / qmax, has the least squared error."""
    real = np.asarray(x, np.float64)
    top = float(real.max(initial=0.0)) or 1.0
    steps = top * np.arange(1, 101) / 100 / ((1 << (bits - 1)) - 1)
    tried = [TwinGelu(float(step), bits) for step in steps]
    errors = [float(((t.dequantize(t.quantize(real)) - real) ** 2).sum()) for t in tried]
    return tried[int(np.argmin(errors))]


@dataclass(frozen=True)
class Factors:
    """x = (q - zero) 2**factor[c] scale: powers of two per channel, the last axis."""

    scale: float
    zero: int
    factor: NDArray[np.int64]

    def quantize(self, x: Array) -> NDArray[np.uint8]:
        """Codes 0..255, nearest, ties to even."""
        q = np.rint(np.asarray(x, np.float64) / (self.scale * 2.0**self.factor)) + self.zero
        return np.asarray(np.clip(q, 0, 255), np.uint8)

    def dequantize(self, q: Array) -> NDArray[np.float64]:
        """Real values of the codes."""
        whole = np.asarray(q, np.int64) - self.zero
        return np.asarray((whole << self.factor) * self.scale)


def power_of_two_factors(x: Array) -> Factors:
    """Factors of `x` [..., C] with the least squared error (Lin et al., FQ-ViT, IJCAI 2022, 3.2).

    Scale and zero point come from the range of all channels, in 8 bits; the scale is an eighth of
    that one and each channel gets a factor of 1, 2, 4 or 8. Raises InputError if `x` is not finite.
    """
    rows = np.asarray(x, np.float64).reshape(-1, np.shape(x)[-1])
    if not np.isfinite(rows).all():
        raise InputError("NaN or infinite values have no power-of-two factors")
    low, high = min(rows.min(initial=0), 0.0), max(rows.max(initial=0), 0.0)
    whole = (high - low) / 255 or 1.0
    zero = min(max(math.floor(-low / whole + 0.5), 0), 255)
    tried = [Factors(whole / 8, zero, np.full(rows.shape[1], f)) for f in FACTORS]
    errors = [((t.dequantize(t.quantize(rows)) - rows) ** 2).sum(0) for t in tried]
    return Factors(whole / 8, zero, np.argmin(errors, axis=0))


def log_codes(ratio: Array) -> NDArray[np.uint8]:
    """FQ-ViT's 4-bit codes of softmax from the whole numbers r = round(sum / e) ≥ 1; 16: zero.

    The code is log2 r, rounded up from 1.5 times a power of two on (Lin et al., 2022, 3.3).
    """
    r = np.asarray(ratio, np.int64)
    # frexp gives r = f 2**e with f in [0.5, 1): k = e - 1, and 1.5 2**k is f = 0.75.
    fraction, exponent = np.frexp(r.astype(np.float64))
    codes = exponent - 1 + (fraction >= 0.75)
    return np.asarray(np.minimum(codes, LOG_CODES), np.uint8)


def log_values(codes: Array) -> NDArray[np.float64]:
    """2**-code; 0 for code 16. A product with it is a shift to the right."""
    shifts = np.asarray(codes, np.float64)
    return np.asarray(np.where(shifts < LOG_CODES, np.exp2(-shifts), 0.0))


def log_softmax_values(x: Array) -> NDArray[np.float64]:
    """softmax of `x` along the last axis, each probability a power of two or zero."""
    real = np.asarray(x, np.float64)
    e = np.exp(real - real.max(-1, keepdims=True))
    with np.errstate(over="ignore", divide="ignore"):
        ratio = np.minimum(np.rint(e.sum(-1, keepdims=True) / e), 2.0**40)
    return log_values(log_codes(ratio))
