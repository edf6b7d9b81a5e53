"""Ternary weights −1, 0, +1: TWN's scale (Li et al. 2016), or that of the least squared error (LAT:
Hou, Kwok, ICLR 2018); each weight becomes the nearest value.
`ternary` keeps five to a byte (1.6 bits), `ternary2` two bits each.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from weft.format import SMALLEST_SCALE, Float, Format, aligned, check_operands, finite
from weft.graph import Array, Quant

THRESHOLD = 0.7  # of the mean magnitude
LAT_STEPS = 10
HPP = "formats/ternary.hpp"


def twn(x: Float, axis: int | None) -> tuple[Float, Float]:
    """(threshold, alpha): w → alpha · sign(w) where |w| > threshold, else 0."""
    rows = np.abs(x).reshape(len(x) if axis == 0 else 1, -1)
    threshold = THRESHOLD * rows.mean(axis=1, dtype=np.float64)
    kept = rows > threshold[:, None]
    alpha = (rows * kept).sum(axis=1, dtype=np.float64) / np.maximum(kept.sum(axis=1), 1)
    alpha = np.where(kept.any(axis=1), alpha, rows.max(axis=1, initial=0))
    shape: Any = (-1,) if axis == 0 else ()
    return threshold.astype(np.float32).reshape(shape), alpha.astype(np.float32).reshape(shape)


def lat(x: Float, axis: int | None, alpha: Float) -> Float:
    """alpha after alternating with the codes that are best for it."""
    for _ in range(LAT_STEPS):
        codes = np.clip(np.rint(x / np.maximum(aligned(alpha, x.ndim), SMALLEST_SCALE)), -1, 1)
        rows = (np.abs(x) * (codes != 0)).reshape(len(x) if axis == 0 else 1, -1)
        count = (codes != 0).reshape(rows.shape).sum(axis=1)
        better = rows.sum(axis=1) / np.maximum(count, 1)
        alpha = np.where(count > 0, better, np.ravel(alpha)).astype(np.float32)
        alpha = alpha if axis == 0 else alpha.reshape(())
    return alpha


def _fit(name: str) -> Any:
    def fit(x: Array, axis: int | None = 0, method: str = "max") -> Quant:
        real = finite(x)
        _, alpha = twn(real, axis)
        if method == "mse":
            again = lat(real, axis, alpha)
            alpha = np.where(_error(real, again, axis) < _error(real, alpha, axis), again, alpha)
        scale = np.where(alpha == 0, 1, np.maximum(alpha, SMALLEST_SCALE))
        return Quant(np.asarray(scale, np.float32), axis=axis, format=name)

    return fit


def _error(x: Float, alpha: Float, axis: int | None) -> Any:
    quant = Quant(np.where(alpha == 0, 1, alpha).astype(np.float32), axis=axis)
    error = np.square(x - quantize(x, quant) * aligned(quant.scale, x.ndim), dtype=np.float64)
    return error.sum() if axis is None else error.reshape(len(x), -1).sum(axis=1)


def quantize(x: Array, quant: Quant) -> Array:
    """−1, 0, +1: 0 up to half the scale, the ties included."""
    real = finite(x)
    half = aligned(quant.scale, real.ndim) / np.float32(2)
    return ((real > half).astype(np.int8) - (real < -half).astype(np.int8)).astype(np.int8)


def _encode(name: str, offset: int) -> Any:
    def encode(operands: Array, quant: Quant) -> Array:
        whole = np.asarray(operands)
        check_operands(name, whole, np.sign(whole))
        return (whole.astype(np.int8) + offset & 3).astype(np.uint8)

    return encode


def _decode(table: list[int]) -> Any:
    values = np.array(table, np.int8)
    return lambda codes, quant: values[np.asarray(codes)]


TERNARY = Format(
    "ternary", 2, "int8", _fit("ternary"), quantize, _encode("ternary", 1), _decode([-1, 0, 1, 0]),
    HPP, "Trit", "TWN, Li et al. 2016; five to a byte", per_byte=5,
    grid=np.array([-1, 0, 1, np.nan]), activations=True,
)  # fmt: skip
TERNARY2 = Format(
    "ternary2", 2, "int8", _fit("ternary2"), quantize, _encode("ternary2", 0),
    _decode([0, 1, 0, -1]), HPP, "TernaryPair", "TWN, Li et al. 2016; two bits",
    grid=np.array([0, 1, np.nan, -1]), activations=True,
)  # fmt: skip
TERNARIES = [TERNARY, TERNARY2]
