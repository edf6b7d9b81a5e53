"""Ternary weights: TWN, LAT, and the rule of BitNet b1.58.

Each returns (codes, scale): int8 codes in -1, 0, 1 and the float32 scale that they are multiplied
with, () for one scale of all of `w`, (N,) for one per index of the first axis.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from weft.graph import Array

Ternary = tuple[NDArray[np.int8], NDArray[np.float32]]
THRESHOLD = 0.7  # of the mean magnitude (Li et al., Ternary Weight Networks, 2016)
BITNET_FLOOR = 1e-5


def twn(w: Array, per_channel: bool = False) -> Ternary:
    """sign(w) where |w| > 0.7 mean |w|, scaled by the mean of those (Li et al., 2016).

    TernaryBERT (Zhang et al., EMNLP 2020) takes one scale per matrix, per row for embeddings.
    """
    rows = _rows(w, per_channel)
    size = np.abs(rows)
    kept = size > THRESHOLD * size.mean(1, keepdims=True)
    scale = _mean(size, kept)
    return _shaped(np.sign(rows) * kept, scale, w, per_channel)


def lat(
    w: Array, curvature: Array | None = None, per_channel: bool = False, steps: int = 10
) -> Ternary:
    """Codes and scale that minimise sum d (w - scale code)² in turns (Hou, Kwok, ICLR 2018).

    `curvature` is d, the diagonal of the loss's Hessian, shaped as `w`; 1 everywhere if None, as
    in TernaryBERT. The turns start from the codes of `twn`.
    """
    rows = _rows(w, per_channel)
    d = np.ones_like(rows) if curvature is None else np.abs(_rows(curvature, per_channel))
    codes = _rows(twn(w, per_channel)[0], per_channel)
    for _ in range(steps):
        scale = _ratio(np.abs(codes * d * rows).sum(1), np.abs(codes * d).sum(1))
        # A row of zeros has scale 0 and codes 0: it is divided by 1.
        codes = np.rint(np.clip(rows / np.where(scale > 0, scale, 1)[:, None], -1, 1))
    scale = _ratio(np.abs(codes * d * rows).sum(1), np.abs(codes * d).sum(1))
    return _shaped(codes, scale, w, per_channel)


def bitnet(w: Array, per_channel: bool = False) -> Ternary:
    """clip(round(w / g), -1, 1), g = mean |w|, at least 1e-5 (Ma et al., BitNet b1.58, 2024)."""
    rows = _rows(w, per_channel)
    scale = np.maximum(np.abs(rows).mean(1), BITNET_FLOOR)
    return _shaped(np.clip(np.rint(rows / scale[:, None]), -1, 1), scale, w, per_channel)


def _rows(w: Array, per_channel: bool) -> NDArray[np.float64]:
    x = np.asarray(w, np.float64)
    return x.reshape(len(x) if per_channel else 1, -1)


def _mean(size: Array, kept: Array) -> Array:
    return _ratio((size * kept).sum(1), kept.sum(1))


def _ratio(over: Array, under: Array) -> Array:
    return np.asarray(over / np.where(under > 0, under, 1))


def _shaped(codes: Array, scale: Array, w: Array, per_channel: bool) -> Ternary:
    whole = np.asarray(codes, np.int8).reshape(np.shape(w))
    return whole, np.asarray(scale if per_channel else scale[0], np.float32)
