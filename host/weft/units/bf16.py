"""bf16 × bf16 into float32, in a fixed order: the arithmetic of TPU v2 and v3.

A product is exact in float32 (8 × 8 significant bits). Sums are rounded to nearest even, down the
rows of a tile from the first on, then tile after tile in the accumulators. Subnormal numbers count
as 0 and −0 as +0, as in the floating-point cores of FPGAs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from weft.config import Overlay
from weft.engine import Bytes, Engine, Values
from weft.state import Fields

Float = NDArray[np.float32]
LATENCY = 4  # kFloatLatency: clocks of a multiplication and an addition
LEAST_PACE = LATENCY - 1  # else a tile's weights would overtake the sums
NOT_A_NUMBER = 0x7FC00000
SMALLEST = np.float32(2.0**-126)


def flushed(x: NDArray[np.float32]) -> Float:
    """`x` with subnormal numbers and −0 as 0."""
    return np.where(np.abs(x) < SMALLEST, np.float32(0), x).astype(np.float32, copy=False)


def from_bits(bits: NDArray[Any]) -> Float:
    """Numbers of float32 bit patterns."""
    pattern = np.asarray(bits).astype(np.uint32)  # of wider integers the low 32 bits
    return flushed(np.ascontiguousarray(pattern).view(np.float32))


def to_bits(x: Float) -> NDArray[np.int32]:
    """Bit patterns of float32 numbers; there is one NaN."""
    bits = np.ascontiguousarray(flushed(x), np.float32).view(np.int32)
    return np.where(np.isnan(x), np.int32(NOT_A_NUMBER), bits)


def add(a: Float, b: Float) -> Float:
    """One rounded addition."""
    with np.errstate(all="ignore"):
        return flushed((a + b).astype(np.float32))


def multiply(a: Float, b: Float) -> Float:
    """One rounded multiplication."""
    with np.errstate(all="ignore"):
        return flushed((a * b).astype(np.float32))


def rounded(x: Float) -> NDArray[np.uint16]:
    """Bits of the nearest bf16 numbers, ties to even; beyond the largest one, that."""
    pattern = np.ascontiguousarray(x, np.float32).view(np.uint32).astype(np.uint64)
    up = (pattern + 0x7FFF + (pattern >> 16 & 1)) >> 16 & 0xFFFF
    beyond = (up & 0x7F80) == 0x7F80
    return np.where(beyond, (up & 0x8000) | 0x7F7F, up).astype(np.uint16)


def legal(f: Fields, overlay: Overlay) -> bool:
    """int8 codes from one word or bf16 numbers from two, and a pace that sums keep up with."""
    a, words = f["activation_bits"], f["words"]
    paced = f["pace"] >= LEAST_PACE and f["shift"] == 0
    return f["weight_bits"] == 16 and a in (8, 16) and words * 8 == a and paced


def activations(words: Bytes, f: Fields) -> Values:
    """bf16 bits [M, folds, lanes, 1]."""
    if f["activation_bits"] == 8:
        integers = words[:, :, 0].view(np.int8).astype(np.float32) - np.float32(f["pad"])
        bits = to_bits(integers) >> 16
    else:
        bits = words[:, :, 0].astype(np.int32) | words[:, :, 1].astype(np.int32) << 8
    return np.asarray(bits[..., None], np.int64)


def weights(rows: NDArray[np.int16], f: Fields) -> Values:
    """bf16 bits [tiles, folds, lanes, 1, columns]."""
    return rows.astype(np.int64)


def products(x: Values, w: Values) -> NDArray[np.int32]:
    """Bits of the sums [M, N] of bf16 bits [M, folds, rows] and [folds, rows, N]."""
    a = from_bits(x.astype(np.int64) << 16)
    b = from_bits(w.astype(np.int64) << 16)
    total: Float | None = None
    for fold in range(a.shape[1]):
        column = np.zeros((len(a), b.shape[-1]), np.float32)
        for r in range(a.shape[2]):
            column = add(column, multiply(a[:, fold, r, None], b[fold, r]))
        total = column if total is None else add(total, column)
    assert total is not None, "at least one fold"
    return to_bits(total)


ENGINE = Engine(
    "bf16", legal, activations, weights, "bf16 products, float32 sums", LATENCY, is_float=True
)
