"""Codebooks: indices into 16 or 256 shared values (Han et al., Deep Compression, ICLR 2016).

The values are found by k-means in one dimension, from equally spaced ones on, over a histogram;
they are int16, in units of the largest. Ties go to the larger value.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from weft.format import (
    Encoder,
    Float,
    Format,
    aligned,
    finite,
    largest,
    rounded_to,
    scales,
    steps,
)
from weft.format import larger as up
from weft.graph import Array, Quant

TOP = 32767
BINS, ROUNDS = 4096, 25


def clusters(x: Float, count: int) -> Float:
    """`count` values for `x` by Lloyd's algorithm on a histogram of its values."""
    low, high = float(x.min()), float(x.max())
    if low == high:
        return np.full(count, low, np.float32)
    weight, edges = np.histogram(x, BINS, (low, high))
    middle = (edges[:-1] + edges[1:]) / 2
    sums, counts = np.cumsum(weight * middle), np.cumsum(weight)
    centre = np.linspace(low, high, count)
    for _ in range(ROUNDS):
        cut = np.searchsorted(middle, (centre[:-1] + centre[1:]) / 2)
        ends = np.concatenate([cut, [BINS]]) - 1
        total = np.where(ends >= 0, sums[ends], 0), np.where(ends >= 0, counts[ends], 0)
        mass, number = (np.diff(t, prepend=0) for t in total)
        moved = np.where(number > 0, mass / np.maximum(number, 1), centre)
        if np.array_equal(moved, centre):
            break
        centre = np.sort(moved)
    return centre.astype(np.float32)


def _fit(bits: int, x: Array, axis: int | None = 0, method: str = "max") -> Quant:
    real = finite(x)
    scale = scales(largest(real, axis), TOP)
    units = real / aligned(scale, real.ndim)
    book = np.clip(np.rint(clusters(units, 1 << bits)), -TOP, TOP).astype(np.int16)
    return Quant(scale, axis=axis, format=f"codebook{1 << bits}", codebook=np.sort(book))


def _quantize(x: Array, quant: Quant) -> Array:
    book = np.asarray(quant.codebook, np.float64)
    return rounded_to(steps(book, up), x, quant, np.int16)


def _encode(bits: int, operands: Array, quant: Quant) -> Array:
    assert quant.codebook is not None, "a codebook format has its values in the quant"
    book = np.asarray(quant.codebook, np.float64)
    return Encoder(f"codebook{1 << bits}", book).codes(operands)


def _decode(codes: Array, quant: Quant) -> Array:
    assert quant.codebook is not None, "a codebook format has its values in the quant"
    return np.asarray(quant.codebook, np.int16).take(np.asarray(codes))


def _codebook(bits: int) -> Format:
    return Format(
        f"codebook{1 << bits}", bits, "int16", partial(_fit, bits), _quantize,
        partial(_encode, bits), _decode, "formats/codebook.hpp", "Codebook",
        "k-means, Deep Compression, ICLR 2016", codebook=True,
    )  # fmt: skip


CODEBOOKS = [_codebook(4), _codebook(8)]
