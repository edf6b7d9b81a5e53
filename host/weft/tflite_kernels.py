"""What TFLite's int8 kernels compute, code for code.

There are two sets. "reference" are the kernels of TFLite's reference resolver and of TFLite Micro,
fixed-point throughout. "xnnpack" are those that LiteRT's interpreter uses by default: XNNPACK's,
which requantize with one float32 product rounded to even, and TFLite's own for what XNNPACK
does not take. Both agree for pools, sigmoid, tanh, hard swish, rectifiers and the LSTM.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weft import fixed_point
from weft.errors import UsageError, unknown
from weft.graph import Array, Quant
from weft.units.requant import encode, requantize

KERNELS = {"xnnpack": "float_even", "reference": "double_round"}  # and their requantization
MODE = "double_round"
ADD_BITS = 20  # fraction bits of the operands of an addition
CONVERT_BITS = 8  # of XNNPACK's conversions and leaky rectifiers
CODES = np.arange(-128, 128)

Int = NDArray[np.int64]


@dataclass(frozen=True)
class Kernel:
    """One unary kernel's facts: the two quantizations, and a slope where it has one."""

    kernels: str
    x: Quant
    y: Quant
    alpha: float = 0.0

    @property
    def scales(self) -> tuple[np.float32, np.float32]:
        """Scales of input and output, in float32."""
        return np.float32(self.x.scale), np.float32(self.y.scale)


def kernels_of(requant: str) -> str:
    """The kernel set that requantizes in this mode. Raises UsageError if none does."""
    for name, mode in KERNELS.items():
        if mode == requant:
            return name
    raise UsageError(unknown("requantization mode of TFLite models:", requant, KERNELS.values()))


def rescaled(x: Array, scale: float) -> Int:
    """x · scale in fixed point, rounded twice."""
    return requantize(x, *encode(scale, MODE), MODE)


def _saturated(codes: Array) -> NDArray[np.int8]:
    return np.clip(codes, -128, 127).astype(np.int8)


def table(function: str, k: Kernel) -> NDArray[np.int8]:
    """Output code of each input code −128..127. Raises KeyError for an unknown function."""
    x = CODES - k.x.zero_point
    return _saturated(FUNCTIONS[function](x, k))


def _logistic(x: Int, k: Kernel) -> Int:
    q4, radius = _in_q4(x, k)
    y = fixed_point.divide_by_power(fixed_point.logistic(q4, 4), 23) - 128
    return np.asarray(np.where(x <= -radius, -128, np.where(x >= radius, 127, y)))


def _tanh(x: Int, k: Kernel) -> Int:
    q4, radius = _in_q4(x, k)
    y = fixed_point.divide_by_power(fixed_point.tanh(q4, 4), 24)
    return np.asarray(np.where(x <= -radius, -128, np.where(x >= radius, 127, y)))


def _in_q4(x: Int, k: Kernel) -> tuple[Int, int]:
    """`x` with 4 integer bits of 32, and the size from which on that would overflow."""
    multiplier, shift = encode(float(k.scales[0]) * 2.0**27, MODE)
    radius = int(np.floor(15 * 2.0**27 / 2.0 ** int(shift)))
    inside = np.clip(x, -radius, radius)
    return requantize(inside, multiplier, shift, MODE), radius


def _hard_swish(x: Int, k: Kernel) -> Int:
    s, y_scale = (float(v) for v in k.scales)
    fine = x << 7  # in units of scale / 128, the most that 16 bits hold
    unit = float(np.float32(s) * np.float32(1 / 128))
    factor, shift = _encoded16(unit / y_scale)
    gate_factor, gate_shift = _encoded16(unit / float(np.float32(3 / 32768)))
    out = fixed_point.multiply(fine, factor, 16)
    gate = _saturated16(fine << max(gate_shift - 1, 0))
    gate = fixed_point.multiply(gate, gate_factor, 16)
    if gate_shift > 0:
        gate = _saturated16(gate << 1)
    gate = (fixed_point.divide_by_power(gate, max(-gate_shift, 0)) + (1 << 15)) >> 1
    product = gate * out
    high = np.sign(product) * (np.abs(product) >> 15)
    return fixed_point.divide_by_power(high, max(-shift, 0)) + k.y.zero_point


def _saturated16(x: Int) -> Int:
    return np.clip(x, -(1 << 15), (1 << 15) - 1)


def _encoded16(scale: float) -> tuple[int, int]:
    """(multiplier of 16 bits, shift) of a scale."""
    q, shift = encode(scale, MODE)
    return min((int(q) + (1 << 15)) >> 16, 32767), int(shift)


def _leaky_relu(x: Int, k: Kernel) -> Int:
    s, y = k.scales
    alpha = np.float32(k.alpha)
    if k.kernels == "xnnpack":
        ratio = s / y
        factors = [_converting(ratio), _converting(ratio * alpha)]
        return _converted(x, np.where(x < 0, factors[1], factors[0]), k)
    up = rescaled(x, float(s / y))
    down = rescaled(x, float(s * alpha / y))
    return np.asarray(np.where(x >= 0, up, down)) + k.y.zero_point


def _quantize(x: Int, k: Kernel) -> Int:
    s, y = k.scales
    if k.kernels == "xnnpack":
        return _converted(x, _converting(s / y), k)
    return rescaled(x, float(s) / float(y)) + k.y.zero_point


def _converting(ratio: Any) -> int:
    return int(np.rint(np.float32(1 << CONVERT_BITS) * np.float32(ratio)))


def _converted(x: Int, factor: Any, k: Kernel) -> Int:
    half = 1 << (CONVERT_BITS - 1)
    return np.asarray((x * factor + half) >> CONVERT_BITS) + k.y.zero_point


def _clamped(low: float | None, high: float | None) -> Any:
    def function(x: Int, k: Kernel) -> Int:
        s, y = k.scales
        codes = rescaled(x, float(s / y)) + k.y.zero_point  # divided in float32
        ends = [None if v is None else k.y.zero_point + int(_away(v / y)) for v in (low, high)]
        return np.asarray(np.clip(codes, ends[0], ends[1]))

    return function


def _away(x: Any) -> Any:
    """Nearest integer, halves away from zero, as C's round."""
    return np.sign(x) * np.floor(np.abs(x) + 0.5)


FUNCTIONS: dict[str, Any] = {
    "LOGISTIC": _logistic,
    "TANH": _tanh,
    "HARD_SWISH": _hard_swish,
    "LEAKY_RELU": _leaky_relu,
    "QUANTIZE": _quantize,
    "RELU": _clamped(0, None),
    "RELU6": _clamped(0, 6),
    "RELU_N1_TO_1": _clamped(-1, 1),
    "RELU_0_TO_1": _clamped(0, 1),
}


def add(
    kernels: str, p: Array, q: Array, quants: tuple[Quant, Quant, Quant], sign: int = 1
) -> NDArray[np.int8]:
    """Codes of p + sign·q; `quants` are those of p, q and the sum."""
    a, b, y = quants
    x, z = (v.astype(np.int64) - u.zero_point for v, u in ((p, a), (q, b)))
    s, t, out = (np.float32(u.scale) for u in quants)
    if kernels == "xnnpack":
        left, right, shift = add_factors(s, t, out)
        total = (x * left + sign * z * right + (1 << (shift - 1))) >> shift
    else:
        twice = 2 * max(float(s), float(t))
        parts = rescaled(x << ADD_BITS, float(s) / twice), rescaled(z << ADD_BITS, float(t) / twice)
        total = rescaled(parts[0] + sign * parts[1], twice / ((1 << ADD_BITS) * float(out)))
    return _saturated(total + y.zero_point)


def add_factors(s: Any, t: Any, out: Any) -> tuple[int, int, int]:
    """XNNPACK's factors of the two operands, the larger of ADD_BITS + 1 bits, and their shift."""
    left, right = np.float32(s) / np.float32(out), np.float32(t) / np.float32(out)
    shift = ADD_BITS - (int(np.frexp(max(left, right))[1]) - 1)
    shift = min(max(shift, 1), 31)
    return int(np.rint(np.ldexp(left, shift))), int(np.rint(np.ldexp(right, shift))), shift


def multiply(
    kernels: str, p: Array, q: Array, quants: tuple[Quant, Quant, Quant]
) -> NDArray[np.int8]:
    """Codes of p · q."""
    a, b, y = quants
    product = (p.astype(np.int64) - a.zero_point) * (q.astype(np.int64) - b.zero_point)
    s, t, out = (np.float32(u.scale) for u in quants)
    if kernels == "xnnpack":
        total = np.rint(product.astype(np.float32) * np.float32(s * t / out)).astype(np.int64)
    else:
        total = rescaled(product, float(s) * float(t) / float(out))
    return _saturated(total + y.zero_point)


def mean_multiplier(x: Quant, y: Quant, count: int) -> tuple[int, int]:
    """(multiplier, shift) by which the reference kernel scales a sum of `count` codes."""
    scale = float(np.float32(x.scale)) / float(np.float32(y.scale))
    multiplier, shift = (int(v) for v in encode(scale, MODE))
    bits = min(count.bit_length() - 1, 31 + shift)
    return (multiplier << bits) // count, shift - bits


def mean(
    kernels: str, q: Array, axes: tuple[int, ...], quants: tuple[Quant, Quant], keepdims: bool
) -> NDArray[np.int8]:
    """Codes of the mean over `axes`; `quants` are those of input and output."""
    x, y = quants
    count = int(np.prod([q.shape[a] for a in axes]))
    sums = q.astype(np.int64).sum(axis=axes, keepdims=keepdims) - count * x.zero_point
    if kernels == "reference":
        multiplier, shift = mean_multiplier(x, y, count)
        return _saturated(requantize(sums, multiplier, shift, MODE) + y.zero_point)
    factor = np.float32(x.scale) / np.float32(y.scale) / np.float32(count)
    return _saturated(np.rint(sums.astype(np.float32) * factor + np.float32(y.zero_point)))


def softmax(kernels: str, q: NDArray[np.int8], scale: float, beta: float) -> NDArray[np.int8]:
    """Codes of scale 1/256 and zero point −128 of softmax along the last axis."""
    s, b = np.float32(scale), np.float32(beta)
    if kernels == "reference":
        factor = min(float(b) * float(s) * 2.0**26, 2.0**31 - 1)
        multiplier, shift = encode(factor, MODE)
        return fixed_point.softmax8(q, int(multiplier), int(shift))
    powers = np.exp((-s * b * np.arange(256, dtype=np.float32)).astype(np.float64))
    wide = q.astype(np.int64)
    e = powers.astype(np.float32)[wide.max(axis=-1, keepdims=True) - wide]
    total = np.add.accumulate(e, axis=-1, dtype=np.float32)[..., -1:]  # one after another
    inverse = np.float32(1) / (total * np.float32(1 / 256))
    return _saturated(np.floor(e * inverse + np.float32(0.5)) - 128)
