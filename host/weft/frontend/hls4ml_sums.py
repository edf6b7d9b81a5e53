"""Sums of products of an hls4ml layer: when the accelerator has them bit for bit, and how.

The accelerator computes floor((sum + bias) · 2**-s + 1/2), saturated, on int32 sums. Rounding
down or half up are that with another bias; half to even is the mode float_even. Everything else
(sums that may overflow, products cut off one by one, results that may wrap around) is the host's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from weft.fixed import Codes, FixedType
from weft.frontend.hls4ml_values import Value, is_narrow

_FLOAT_EXACT = 1 << 24  # integers up to it are exact in float32
_INT32 = 1 << 31


class NotExactError(Exception):
    """The accelerator has no exact form; the text says why."""


@dataclass(frozen=True)
class Window:
    """Geometry of a convolution: kernel, strides and pads as ONNX has them, one or two axes."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[int, ...]


@dataclass(frozen=True)
class Sum:
    """x · w + bias of a layer, before it is rounded.

    `w` is [K, N], [*kernel, C, N] or (`depthwise`) [*kernel, C] with fractional bits `w_frac`;
    `bias` [N] has codes of `accum`. `name` is the layer's, `window` None for a matrix.
    """

    name: str
    x: Value
    w: Codes
    w_frac: int
    bias: Codes
    accum: FixedType
    window: Window | None = None
    depthwise: bool = False

    @property
    def frac(self) -> int:
        """Fractional bits of a product."""
        return self.x.type.frac + self.w_frac

    def bounds(self) -> tuple[int, int]:
        """Smallest and largest sum, and all partial sums, as codes of `accum`.

        Raises NotExactError where products lose bits on their way to the accumulator.
        """
        shift = self.accum.frac - self.frac
        if shift < 0:
            raise NotExactError(
                f"products have {self.frac} fractional bits, the accumulator {self.accum.frac}"
            )
        w = self.w.reshape(-1, self.w.shape[-1]).astype(object)
        ends = np.stack([w * self.x.low, w * self.x.high, w * 0])
        low = (ends.min(axis=0).sum(axis=0) << shift) + self.bias
        high = (ends.max(axis=0).sum(axis=0) << shift) + self.bias
        return int(low.min()), int(high.max())


@dataclass(frozen=True)
class Plan:
    """A sum on the accelerator: integer weights and bias, the rounding, and the clamp in codes."""

    w: Codes
    w_frac: int
    bias: Codes
    requant: str
    low: int
    high: int


def plan(sum_: Sum, through: FixedType | None, result: FixedType, relu: bool) -> Plan:
    """How the accelerator computes `sum_`, converted to `result` after an optional ReLU.

    `through` is a type between both, which must not change anything. Raises NotExactError.
    """
    if not is_narrow(result):
        raise NotExactError(f"the result {result} has more than 8 bits")
    if not is_narrow(sum_.x.type):
        raise NotExactError(f"the input {sum_.x.type} has more than 8 bits")
    low, high = sum_.bounds()
    if low < sum_.accum.low or high > sum_.accum.high:
        raise NotExactError(f"the accumulator {sum_.accum} may overflow")
    if through is not None:
        _check_between(sum_, through, low, high)
    w, w_frac = _int8(sum_.w, sum_.w_frac)
    rest = sum_.accum.frac - (sum_.x.type.frac + w_frac)
    shift = sum_.x.type.frac + w_frac - result.frac
    signless = relu or low >= 0
    bias, mode = rounding(sum_.bias, rest, shift, result.rounding, signless, (low, high))
    if (np.abs(bias).max(initial=0) + max(-low, high) >> rest) >= _INT32 - 2:
        raise NotExactError("sums may exceed int32")
    _check_overflow(result, low, high, sum_.accum.frac, relu)
    least, most = clamp(result, relu)
    return Plan(w, w_frac, bias, mode, least, most)


def _check_between(sum_: Sum, through: FixedType, low: int, high: int) -> None:
    cut = sum_.accum.frac - through.frac
    if cut > 0 and (sum_.frac > through.frac or np.any(sum_.bias & ((1 << cut) - 1))):
        raise NotExactError(f"the result {through} before the activation rounds")
    low, high = (v >> cut if cut > 0 else v << -cut for v in (low, high))
    if low < through.low or high > through.high:
        raise NotExactError(f"the result {through} before the activation may overflow")


def _int8(w: Codes, frac: int) -> tuple[Codes, int]:
    """Weights as int8, without zeros that all of them end in."""
    while (w.max(initial=0) > 127 or w.min(initial=0) < -128) and not np.any(w & 1):
        w, frac = w >> 1, frac - 1
    if w.max(initial=0) > 127 or w.min(initial=0) < -128:
        raise NotExactError("weights of more than 8 bits")
    return w, frac


def rounding(
    bias: Codes, rest: int, shift: int, mode: str, signless: bool, bounds: tuple[int, int]
) -> tuple[Codes, str]:
    """(bias in units of a product, requant mode) that round sums by 2**-shift as `mode` does.

    `bias` has `rest` more fractional bits than a product. `signless`: sums are not negative, or
    what is negative becomes 0. Raises NotExactError.
    """
    fraction = bool(np.any(bias & ((1 << rest) - 1)))
    if shift <= 0:
        if fraction:
            raise NotExactError("the bias is finer than the result")
        return bias >> rest, "single_round"
    if signless:
        mode = {"TRN_ZERO": "TRN", "RND_ZERO": "RND_MIN_INF", "RND_INF": "RND"}.get(mode, mode)
    half = 1 << (shift + rest - 1)
    if mode == "RND_CONV":
        if fraction or max(-bounds[0], bounds[1]) >> rest >= _FLOAT_EXACT:
            raise NotExactError("half to even of sums above 2**24, or with a finer bias")
        return bias >> rest, "float_even"
    if mode not in ("TRN", "RND", "RND_MIN_INF"):
        raise NotExactError(f"the rounding {mode} of numbers of both signs")
    up = {"TRN": 0, "RND": half, "RND_MIN_INF": half - 1}[mode]
    return ((bias + up) >> rest) - (1 << (shift - 1)), "single_round"


def _check_overflow(result: FixedType, low: int, high: int, frac: int, relu: bool) -> None:
    """Raises NotExactError if an overflow can happen that does not saturate."""
    if result.overflow in ("SAT", "SAT_SYM"):
        return
    low, high = (max(v, 0) if relu else v for v in (low, high))
    cut = frac - result.frac
    half = 1 << (cut - 1) if cut > 0 and result.rounding.startswith("RND") else 0
    top = (high + half) >> cut if cut > 0 else high << -cut
    bottom = low >> cut if cut > 0 else low << -cut
    if bottom < result.low or top > result.high:
        raise NotExactError(f"the result {result} may overflow, and {result.overflow} it would")


def clamp(result: FixedType, relu: bool) -> tuple[int, int]:
    """Smallest and largest code of a result that saturates."""
    low = -result.high if result.overflow == "SAT_SYM" and result.signed else result.low
    return (max(low, 0) if relu else low), result.high
