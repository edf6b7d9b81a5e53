"""int16: symmetric integers, −32767..32767, a scale per channel. Ties go to the even integer."""

from __future__ import annotations

import numpy as np

from weft.format import Format, divided, finite, largest, scales, searched
from weft.graph import Array, Quant

HIGH = 32767


def _fit(x: Array, axis: int | None = 0, method: str = "max") -> Quant:
    real = finite(x)
    best = Quant(scales(largest(real, axis), HIGH), axis=axis, format="int16")
    return best if method == "max" else searched(real, axis, best, _quantize)


def _quantize(x: Array, quant: Quant) -> Array:
    return np.clip(np.rint(divided(x, quant)), -HIGH, HIGH).astype(np.int16)


INT16 = Format(
    "int16", 16, "int16", _fit, _quantize,
    lambda operands, quant: np.asarray(operands).astype(np.int16).view(np.uint16),
    lambda codes, quant: np.asarray(codes).astype(np.uint16).view(np.int16),
    "formats/int16.hpp", "Int16", "uniform",
)  # fmt: skip
