"""Binary weights: {−1, +1} with the mean magnitude as scale (XNOR-Net, Rastegari et al., ECCV
2016), or {0, 1}. sign(0) is +1. There is no code for 0 in the first, so what fills up a tile is −1
there, and the compiler takes another format where that could be seen.
"""

from __future__ import annotations

import numpy as np

from weft.format import SMALLEST_SCALE, Format, aligned, check_operands, finite
from weft.graph import Array, Quant

HPP = "formats/binary.hpp"


def _fit(x: Array, axis: int | None = 0, method: str = "max") -> Quant:
    rows = np.abs(finite(x)).reshape(len(x) if axis == 0 else 1, -1)
    alpha = np.maximum(rows.mean(axis=1, dtype=np.float64), SMALLEST_SCALE).astype(np.float32)
    return Quant(alpha if axis == 0 else alpha.reshape(()), axis=axis, format="binary")


def _fit01(x: Array, axis: int | None = 0, method: str = "max") -> Quant:
    rows = np.maximum(finite(x), 0).reshape(len(x) if axis == 0 else 1, -1)
    high = rows.max(axis=1, initial=0)
    if method == "mse":  # the mean of what rounds to 1
        kept = rows > high[:, None] / 2
        high = (rows * kept).sum(axis=1) / np.maximum(kept.sum(axis=1), 1)
    scale = np.where(high == 0, 1, np.maximum(high, SMALLEST_SCALE)).astype(np.float32)
    return Quant(scale if axis == 0 else scale.reshape(()), axis=axis, format="binary01")


def _quantize(x: Array, quant: Quant) -> Array:
    return np.asarray(2 * (finite(x) >= 0).view(np.int8) - 1, np.int8)


def _quantize01(x: Array, quant: Quant) -> Array:
    real = finite(x)
    return np.asarray(real > aligned(quant.scale, real.ndim) / 2, np.int8)


def _encode(operands: Array, quant: Quant) -> Array:
    whole = np.asarray(operands)
    check_operands("binary", whole, np.where(whole > 0, 1, -1))
    return np.asarray(whole > 0, np.uint8)


def _encode01(operands: Array, quant: Quant) -> Array:
    whole = np.asarray(operands)
    check_operands("binary01", whole, (whole != 0).astype(int))
    return np.asarray(whole != 0, np.uint8)


BINARY = Format(
    "binary", 1, "int8", _fit, _quantize, _encode,
    lambda codes, quant: (2 * np.asarray(codes).astype(np.int8) - 1).astype(np.int8),
    HPP, "SignBit", "XNOR-Net, ECCV 2016", grid=np.array([-1.0, 1.0]), activations=True,
)  # fmt: skip
BINARY01 = Format(
    "binary01", 1, "int8", _fit01, _quantize01, _encode01,
    lambda codes, quant: np.asarray(codes).astype(np.int8),
    HPP, "Bit", "{0, 1}, BiT, NeurIPS 2022", grid=np.array([0.0, 1.0]), activations=True,
)  # fmt: skip
BINARIES = [BINARY, BINARY01]
