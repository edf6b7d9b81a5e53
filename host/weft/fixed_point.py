"""Fixed-point exp, logistic, tanh and softmax as integer kernels compute them, in numpy.

A value with `m` integer bits in `bits` bits stands for raw · 2^(m + 1 − bits). Products are the
saturating, rounding, doubling high half; right shifts round half away from zero. The functions are
those of gemmlowp (Apache-2.0), documented in its fixedpoint.h: exp by a Taylor polynomial around
−1/8 on [−1/4, 0) and factors exp(−2^k) for the rest, reciprocals by Newton-Raphson from
48/17 − 32/17·d. TFLite's reference kernels and its integer LSTM are built from them; the constants
here are computed from what they stand for.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weft.units.requant import requantize

Int = NDArray[np.int64]
NEWTON_STEPS = 3
SUM_BITS = 12  # integer bits of softmax's sum
DIFFERENCE_BITS = 5  # integer bits of the differences that softmax takes exp of


def multiply(a: Any, b: Any, bits: int = 32) -> Int:
    """The saturating rounding doubling high half of a product; ties go up."""
    product = (np.asarray(a, np.int64) * b + (1 << (bits - 2))) >> (bits - 1)
    return np.asarray(np.minimum(product, (1 << (bits - 1)) - 1))


def divide_by_power(x: Any, exponent: Any) -> Int:
    """x / 2^exponent, ties away from zero."""
    x = np.asarray(x, np.int64)
    mask = (np.int64(1) << np.asarray(exponent, np.int64)) - 1
    return np.asarray((x >> exponent) + ((x & mask) > (mask >> 1) + (x < 0)))


def _shifted_left(x: Int, exponent: int, bits: int) -> Int:
    """x · 2^exponent, saturated."""
    limit = 1 << (bits - 1)
    return np.asarray(np.clip(x << exponent, -limit, limit - 1))


def _constant(value: float, bits: int, integer_bits: int = 0) -> int:
    """The raw 32-bit form of a constant, rounded to `bits` bits as a second step."""
    raw = math.floor(value * 2.0 ** (31 - integer_bits) + 0.5)
    return int(divide_by_power(raw, 32 - bits))


def _half_sum(a: Int, b: int) -> Int:
    """(a + b) / 2, halves away from zero."""
    total = a + b
    return np.asarray(np.sign(total) * ((np.abs(total) + 1) >> 1))


def exp_of_negative(a: Any, integer_bits: int, bits: int = 32) -> Int:
    """exp(a) for a ≤ 0 with `integer_bits`; the result has none."""
    a = np.asarray(a, np.int64)
    fraction = bits - 1 - integer_bits
    quarter = 1 << (fraction - 2)
    rest = (a & (quarter - 1)) - quarter
    y = _exp_near_zero(_shifted_left(rest, integer_bits, bits), bits)
    remainder = rest - a
    for exponent in range(-2, min(integer_bits, 5)):
        factor = _constant(math.exp(-(2.0**exponent)), bits)
        y = np.where(remainder & (1 << (fraction + exponent)), multiply(y, factor, bits), y)
    if integer_bits > 5:
        y = np.where(a < -(1 << (fraction + 5)), 0, y)
    return np.asarray(np.where(a == 0, (1 << (bits - 1)) - 1, y))


def _exp_near_zero(a: Int, bits: int) -> Int:
    """exp(a) for a in [−1/4, 0), no integer bits."""
    x = a + (1 << (bits - 4))
    square = multiply(x, x, bits)
    cube, fourth = multiply(square, x, bits), multiply(square, square, bits)
    third = _constant(1 / 3, bits)
    high = multiply(divide_by_power(fourth, 2) + cube, third, bits) + square
    centre = _constant(math.exp(-1 / 8), bits)
    limit = (1 << (bits - 1)) - 1
    y = centre + multiply(centre, x + divide_by_power(high, 1), bits)
    return np.minimum(y, limit) if bits == 16 else y


def _reciprocal(a: Int, bits: int) -> Int:
    """2 / (1 + a) for a in [0, 1] without integer bits; the result has two."""
    half = _half_sum(a, (1 << (bits - 1)) - 1)
    one = 1 << (bits - 3)
    x = _constant(48 / 17, bits, 2) + multiply(half, _constant(-32 / 17, bits, 2), bits)
    for _ in range(NEWTON_STEPS):
        error = one - multiply(half, x, bits)
        x = x + _shifted_left(multiply(x, error, bits), 2, bits)
    return np.asarray(x)


def inverse_of_one_plus(a: Any, bits: int = 32) -> Int:
    """1 / (1 + a) for a in [0, 1], without integer bits."""
    return _shifted_left(_reciprocal(np.asarray(a, np.int64), bits), 1, bits)


def logistic(a: Any, integer_bits: int, bits: int = 32) -> Int:
    """1 / (1 + exp(−a)), without integer bits."""
    a = np.asarray(a, np.int64)
    positive = inverse_of_one_plus(exp_of_negative(-np.abs(a), integer_bits, bits), bits)
    y = np.where(a > 0, positive, (1 << (bits - 1)) - 1 - positive)
    return np.asarray(np.where(a == 0, 1 << (bits - 2), y))


def tanh(a: Any, integer_bits: int, bits: int = 32) -> Int:
    """tanh(a), without integer bits."""
    a = np.asarray(a, np.int64)
    e = exp_of_negative(-np.abs(a), integer_bits + 1, bits)
    y = _shifted_left(_reciprocal(e, bits) - (1 << (bits - 3)), 2, bits)
    return np.asarray(np.where(a == 0, 0, np.where(a < 0, -y, y)))


@cache
def logistic16() -> NDArray[np.int16]:
    """logistic of every int16 −32768..32767 with 3 integer bits."""
    return logistic(np.arange(-(1 << 15), 1 << 15), 3, 16).astype(np.int16)


@cache
def tanh16(integer_bits: int) -> NDArray[np.int16]:
    """tanh of every int16 −32768..32767 with `integer_bits`, 0 to 6."""
    return tanh(np.arange(-(1 << 15), 1 << 15), integer_bits, 16).astype(np.int16)


def softmax8(q: NDArray[np.int8], multiplier: int, shift: int) -> NDArray[np.int8]:
    """Codes of scale 1/256 and zero point −128 of softmax along the last axis.

    `multiplier` and `shift` encode beta · input scale · 2^26. What lies so far below the largest
    that its difference would overflow 5 integer bits becomes 0.
    """
    q64 = q.astype(np.int64)
    difference = q64 - q64.max(axis=-1, keepdims=True)
    top = (1 << DIFFERENCE_BITS) - 1
    least = -math.floor(top * 2.0 ** (31 - DIFFERENCE_BITS) / 2.0**shift)
    kept = difference >= least
    scaled = requantize(np.where(kept, difference, 0), multiplier, shift, "double_round")
    e = np.where(kept, exp_of_negative(scaled, DIFFERENCE_BITS), 0)
    total = divide_by_power(e, SUM_BITS).sum(axis=-1, keepdims=True)
    headroom = 32 - (np.frexp(total.astype(np.float64))[1])
    inverse = inverse_of_one_plus((total << headroom) - (1 << 31))
    y = divide_by_power(multiply(inverse, e), SUM_BITS - headroom + 31 - 8) - 128
    return np.where(kept, np.clip(y, -128, 127), -128).astype(np.int8)
