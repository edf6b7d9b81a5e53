"""What fills the tables: entries, lines, power-of-two slopes, polynomials.

Every fit works on the codes themselves: all input codes of the function's domain, or a subset of
even spacing, with the output in its own codes. Float64 throughout; the results are integers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from weft.errors import InputError
from weft.nonlinear.functions import Function
from weft.units.polynomial import COEFFICIENT_FRACTION
from weft.units.segments import FLAT, Segments, ShiftSegments
from weft.units.table import GUARD, VALUE_LIMIT, Lut, Pwl, TableIndex

Real = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """A function from input codes low..high to real numbers in steps of the output."""

    low: int
    high: int
    of: Callable[[Real], Real]
    limits: tuple[int, int]

    @staticmethod
    def from_function(f: Function) -> Curve:
        """Of a function in its formats; the limits are its extremes over the domain."""

        def of(code: Real) -> Real:
            return np.asarray(f.real(code * f.input.step) / f.output.step)

        extremes = np.rint(of(f.codes.astype(np.float64)))
        low, high = int(extremes.min()), int(extremes.max())
        return Curve(f.low, f.high, of, (low, min(high, f.top)))

    def at(self, codes: NDArray[np.int64]) -> Real:
        """Values at codes."""
        return self.of(codes.astype(np.float64))


def _bins(curve: Curve, count: int) -> TableIndex:
    """At most `count` bins of a power of two of codes that cover the curve's domain.

    A domain of one code more than a power of two, as exp's up to 0, gives its lowest code away.
    """
    length = curve.high - curve.low + 1
    spare = length - 1 if length & 1 else length
    shift = max(math.ceil(math.log2(spare / count)), 0)
    return TableIndex(spare - 1 - curve.high, (spare - 1) >> shift, shift)


def lut(curve: Curve, entries: int) -> Lut:
    """A table of at most `entries`, each the value in the middle of its bin."""
    index = _bins(curve, entries)
    left = -index.bias + (np.arange(index.bound + 1) << index.shift).astype(np.float64)
    value = np.rint(curve.of(left + ((1 << index.shift) - 1) / 2))
    return Lut(index, np.clip(value, *curve.limits).astype(np.int64))


def pwl(curve: Curve, segments: int) -> Pwl:
    """At most `segments` lines over equal bins, each with the least largest error."""
    index = _bins(curve, segments)
    starts = -index.bias + (np.arange(index.bound + 1) << index.shift)
    lines = [
        _line(curve, int(start), min(int(start) + (1 << index.shift), curve.high + 1))
        for start in starts
    ]
    value, slope = (np.array(column, np.int64) for column in zip(*lines, strict=True))
    return Pwl(index, curve.limits, value, slope)


def _line(curve: Curve, start: int, end: int) -> tuple[int, int]:
    """(value, slope) in the hardware's units of the line over codes start..end-1.

    The slope is the chord's, which is the best for a bin without an inflection; the value is in
    the middle between the errors' extremes.
    """
    codes = np.arange(start, end)
    y = curve.at(codes) * (1 << GUARD)
    slope = _fit_slope((y[-1] - y[0]) / max(len(codes) - 1, 1))
    return _offset(y - slope * (codes - start)), slope


def _fit_slope(slope: float) -> int:
    if abs(round(slope)) >= VALUE_LIMIT:
        raise InputError(f"a slope of {slope:.0f} does not fit 18 bits: give the input more bits")
    return round(slope)


def _offset(rest: Real) -> int:
    """The constant in the middle of `rest`, with the half of the rounding added."""
    return math.floor(float(rest.max() + rest.min()) / 2 + 0.5) + (1 << (GUARD - 1))


def segments(curve: Curve, starts: Sequence[int], slopes: Sequence[float], count: int) -> Segments:
    """`count` segments that begin at these codes, in order, with these slopes in output steps per
    input step; their values are fitted. Unused ones begin beyond the domain.
    """
    slope = [_fit_slope(real * (1 << GUARD)) for real in slopes]
    start, value = _placed(curve, starts, slope, count)
    slope += slope[-1:] * (count - len(slope))
    return Segments(curve.limits, curve.high, start, value, np.array(slope, np.int64))


def _placed(
    curve: Curve, starts: Sequence[int], slopes: Sequence[float], count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(start, value) of `count` segments whose slopes are in the hardware's units."""
    edges, value = [*starts, curve.high + 1], []
    for begin, end, slope in zip(edges, edges[1:], slopes, strict=False):
        codes = np.arange(begin, end)
        value.append(_offset(curve.at(codes) * (1 << GUARD) - slope * (codes - begin)))
    padding = count - len(value)
    start = [*starts] + [VALUE_LIMIT - 1] * padding
    return np.array(start, np.int64), np.array(value + value[-1:] * padding, np.int64)


_SLOPES = [(FLAT, 0.0, 1)] + [
    (shift, sign * 2.0 ** (shift - GUARD), sign) for shift in range(18) for sign in (1, -1)
]


def shift_segments(curve: Curve, count: int, samples: int = 4096) -> ShiftSegments:
    """At most `count` segments with power-of-two slopes and the least largest error.

    Greedy from the left, as far as an error allows; the error is bisected. Optimal on the samples,
    since a shorter prefix never lets the rest reach further.
    """
    step = max((curve.high - curve.low + 1) // samples, 1)
    codes = np.arange(curve.low, curve.high + 1, step)
    y = curve.at(codes)
    rests = np.stack([y - slope * (codes - codes[0]) for _, slope, _ in _SLOPES])
    low, high = 0.0, float(y.max() - y.min())
    best = _greedy(rests, high, count)
    while high - low > 0.1:
        middle = (low + high) / 2
        found = _greedy(rests, middle, count)
        low, high = (low, middle) if found else (middle, high)
        best = found or best
    assert best is not None
    return _shifted(curve, [(int(codes[i]), kind) for i, kind in best], count)


def _greedy(rests: Real, error: float, count: int) -> list[tuple[int, int]] | None:
    """(first sample, slope) of each segment, or None where `count` are too few."""
    made: list[tuple[int, int]] = []
    start, length = 0, rests.shape[1]
    while start < length:
        if len(made) == count:
            return None
        rest = rests[:, start:]
        spread = np.maximum.accumulate(rest, 1) - np.minimum.accumulate(rest, 1)
        reach = np.argmax(np.pad(spread, ((0, 0), (0, 1)), constant_values=np.inf) > 2 * error, 1)
        kind = int(reach.argmax())
        made.append((start, kind))
        start += int(reach[kind])
    return made


def _shifted(curve: Curve, made: list[tuple[int, int]], count: int) -> ShiftSegments:
    kinds = [_SLOPES[kind] for _, kind in made]
    fixed = [slope * (1 << GUARD) for _, slope, _ in kinds]
    start, value = _placed(curve, [first for first, _ in made], fixed, count)
    kinds += kinds[-1:] * (count - len(kinds))
    shift, sign = (np.array([k[i] for k in kinds], np.int64) for i in (0, 2))
    return ShiftSegments(curve.limits, curve.high, start, value, shift, sign)


def polynomial(f: Callable[[Real], Real], order: int) -> tuple[int, ...]:
    """Coefficients, 16 fraction bits, of the near-minimax polynomial for f on [0, 1).

    Interpolates at the Chebyshev nodes: within a small factor of the best one's error.
    """
    nodes = (1 - np.cos((2 * np.arange(order + 1) + 1) / (2 * order + 2) * math.pi)) / 2
    power = np.polynomial.polynomial.polyfit(nodes, f(nodes), order)
    return tuple(round(float(c) * (1 << COEFFICIENT_FRACTION)) for c in power)
