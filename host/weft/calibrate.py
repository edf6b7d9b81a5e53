"""Calibrators: from the values that a tensor took to the range that its codes shall cover.

Each one is fed batch by batch with `observe` and then asked for its `range`. What they keep does
not depend on how the data was split into batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from weft import activation
from weft.errors import InputError
from weft.graph import Array

HALF = 2048  # bins on either side of zero; the data fills more than half of one side's
_EMPTY = -160  # exponent of a histogram of zeros: below float32's smallest number by 2048 bins
_BLOCK = 1 << 16


class Calibrator(Protocol):
    """Collects the values of one tensor."""

    def observe(self, x: Array) -> None:
        """Adds values (any shape, float). Raises InputError for NaN and infinities."""

    def range(self) -> tuple[float, float]:
        """(low, high) to quantize; inside the values' own range."""


class MinMax:
    """Running minimum and maximum: nothing is cut off.

    `format` is what the codes will be; the calibrators that weigh errors choose for it.
    """

    def __init__(self, *, format: str = "int8") -> None:
        self.format = format
        self.low, self.high = math.inf, -math.inf

    def observe(self, x: Array) -> None:
        """Adds values."""
        low, high = float(x.min()), float(x.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            bad = int(np.count_nonzero(~np.isfinite(x)))
            raise InputError(f"{bad} of {x.size} values are NaN or infinite")
        self.low, self.high = min(self.low, low), max(self.high, high)

    def range(self) -> tuple[float, float]:
        """Smallest and largest value."""
        if self.low > self.high:
            raise InputError("no values to calibrate with")
        return self.low, self.high


class Histogram(MinMax):
    """Counts in 2 * HALF bins of width 2**exponent, with an edge at zero.

    When a value lies outside, the width doubles and neighbours merge; so the counts are those of
    all the data at once, whatever the batches. Exact zeros are counted apart: they cost nothing
    to represent, and after a ReLU they would outweigh everything else.
    """

    def __init__(self, *, format: str = "int8") -> None:
        super().__init__(format=format)
        self.exponent = _EMPTY
        self.counts: NDArray[np.int64] = np.zeros(2 * HALF, np.int64)
        self.zeros = 0

    def observe(self, x: Array) -> None:
        """Adds values."""
        super().observe(x)
        largest = max(-self.low, self.high)
        if largest > 0:
            self._widen(math.frexp(largest)[1] - HALF.bit_length() + 1)
        flat = np.asarray(x, np.float32).reshape(-1)
        for start in range(0, flat.size, _BLOCK):
            part = flat[start : start + _BLOCK].astype(np.float64)
            bins = np.floor(part * 2.0**-self.exponent).astype(np.int64)
            self.counts += np.bincount(bins + HALF, minlength=2 * HALF)
        self.zeros += int(flat.size - np.count_nonzero(flat))

    def _widen(self, exponent: int) -> None:
        merged = exponent - self.exponent
        if merged > 0:
            bins = np.arange(-HALF, HALF) >> min(merged, 62)
            counts = np.zeros_like(self.counts)
            np.add.at(counts, bins + HALF, self.counts)
            self.counts, self.exponent = counts, exponent

    @property
    def edges(self) -> NDArray[np.float64]:
        """Bin i lies between edges i and i + 1."""
        return np.asarray(np.arange(-HALF, HALF + 1) * 2.0**self.exponent, np.float64)

    @property
    def nonzero(self) -> NDArray[np.int64]:
        """Counts without the exact zeros."""
        counts = self.counts.copy()
        counts[HALF] -= self.zeros
        return counts

    def inside(self, low: float, high: float) -> tuple[float, float]:
        """The range, no wider than the data's own."""
        return max(self.low, low), min(self.high, high)


class Percentile(Histogram):
    """Cuts (100 - percentile) / 2 % of the values off either end, to the nearest bin outward."""

    def __init__(self, percentile: float = 99.999, *, format: str = "int8") -> None:
        super().__init__(format=format)
        if not 0 < percentile <= 100:
            raise InputError(f"percentile = {percentile} is outside 0..100")
        self.percentile = percentile

    def range(self) -> tuple[float, float]:
        """Range that holds `percentile` % of the values."""
        super().range()
        below = np.cumsum(self.counts)
        total = int(below[-1])
        cut = total * (100 - self.percentile) / 200
        left = int(np.searchsorted(below, cut, side="right"))
        right = int(np.searchsorted(below, total - cut, side="left"))
        return self.inside(self.edges[left], self.edges[right + 1])


class MeanError(Histogram):
    """Shrinks the range in 80 steps of 1 % and keeps the least sum of |error|**2.4.

    The grid and the exponent are those of Frantar et al., "GPTQ" (ICLR 2023); the errors are
    taken at the centres of the bins.
    """

    steps, exponent_of_error = 80, 2.4

    def range(self) -> tuple[float, float]:
        """Range with the least error."""
        low, high = super().range()
        used = np.flatnonzero(self.nonzero)
        if not used.size:
            return low, high
        counts = self.nonzero[used]
        centres = np.clip((self.edges[used] + self.edges[used + 1]) / 2, low, high)
        best, found = math.inf, (low, high)
        for step in range(self.steps):
            kept = 1 - step / 100
            quant = activation.affine(low * kept, high * kept, self.format)
            # Near the end of float32 a code's value overflows: that range loses to a smaller one.
            with np.errstate(over="ignore"):
                error = quant.dequantize(quant.quantize(centres)) - centres
            total = float(counts @ np.abs(error) ** self.exponent_of_error)
            if total < best:
                best, found = total, (low * kept, high * kept)
        return found


class Entropy(Histogram):
    """The symmetric threshold with the least Kullback-Leibler divergence.

    Migacz, "8-bit inference with TensorRT" (GTC 2017): for each threshold P is the histogram
    inside with what lies outside added to its ends, Q the inside alone, merged to as many levels as
    half of the codes (128 of int8) that are spread over the bins which are not empty.
    """

    step = 8

    @property
    def levels(self) -> int:
        """How many levels the codes have on either side of zero, or both: TensorRT's count."""
        return int(max(2, 2 ** min(activation.bits(self.format) - 1, 7)))

    def range(self) -> tuple[float, float]:
        """Range between the best threshold's negative and itself, as far as there is data."""
        super().range()
        counts = self.nonzero
        used = np.flatnonzero(counts)
        if not used.size:
            return self.low, self.high
        last = int(max(HALF - used[0], used[-1] + 1 - HALF))
        candidates = range(min(self.levels // 2, last), last + self.step, self.step)
        best = min(candidates, key=lambda half: self._divergence(counts, min(half, last)))
        limit = min(best, last) * 2.0**self.exponent
        return self.inside(-limit, limit)

    def _divergence(self, counts: NDArray[np.int64], half: int) -> float:
        """KL divergence for the threshold at `half` bins."""
        inside = counts[HALF - half : HALF + half]
        p = inside.astype(np.float64)
        p[0] += counts[: HALF - half].sum()
        p[-1] += counts[HALF + half :].sum()
        starts = np.arange(self.levels) * inside.size // self.levels
        starts = np.unique(starts)
        filled = inside > 0
        sums = np.add.reduceat(inside, starts)
        shares = np.maximum(np.add.reduceat(filled, starts, dtype=np.int64), 1)
        lengths = np.diff(np.append(starts, inside.size))
        q = np.repeat(sums / shares, lengths) * filled
        if not q.any():
            return math.inf
        present = p > 0
        p, q = p[present] / p.sum(), q[present] / q.sum()
        # A little of everything, so that an end which only holds outliers stays finite.
        q = q * (1 - 1e-4) + 1e-4 / q.size
        return float(np.sum(p * np.log(p / q)))


CALIBRATORS: dict[str, Callable[..., Calibrator]] = {
    "minmax": MinMax,
    "percentile": Percentile,
    "mse": MeanError,
    "entropy": Entropy,
}
