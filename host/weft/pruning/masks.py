"""From scores of weights to the mask of those that stay; also which pattern a tensor has."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from weft.graph import Array
from weft.pruning.spec import VENOM_COLUMNS, Sparsity

Mask = NDArray[np.bool_]


def select(scores: Array, sparsity: Sparsity, by_row: bool = False) -> Mask:
    """True where a weight stays: those with the highest `scores` [N, T, I] (ties: the first).

    Unstructured patterns compare all weights, with `by_row` those of one output channel.
    """
    if sparsity.kind == "nm":
        return of_groups(scores, sparsity.n, sparsity.m)
    if sparsity.kind == "venom":
        return _venom(scores, sparsity)
    if sparsity.kind == "dense":
        return np.ones(scores.shape, bool)
    rows = scores.reshape(len(scores) if by_row else 1, -1)
    kept = rows.shape[1] - zeros_of(rows.shape[1], sparsity)
    return _highest(rows, kept).reshape(scores.shape)


def zeros_of(count: int, sparsity: Sparsity) -> int:
    """How many of `count` weights an unstructured pattern prunes: at least its share."""
    return math.ceil(count * sparsity.fraction - 1e-9)


def of_groups(scores: Array, n: int, m: int) -> Mask:
    """The `n` highest of each `m` along the last axis; a short last group keeps up to `n`."""
    channels = scores.shape[-1]
    short = -channels % m
    if short:
        widths = [(0, 0)] * (scores.ndim - 1) + [(0, short)]
        scores = np.pad(scores, widths, constant_values=-np.inf)
    # One contiguous array per place in a group: places are compared two by two, which is several
    # times as fast as sorting groups of so few.
    places = np.ascontiguousarray(scores.reshape(-1, m).T)
    rank = np.zeros(places.shape, np.int8)
    for i in range(m):
        for j in range(i + 1, m):
            later = places[j] > places[i]
            rank[i] += later
            rank[j] += ~later
    kept = np.ascontiguousarray((rank < n).T).reshape(scores.shape)
    return np.ascontiguousarray(kept[..., :channels])


def _highest(rows: Array, count: int) -> Mask:
    """The `count` highest of each row."""
    mask = np.zeros(rows.shape, bool)
    if count:
        chosen = np.argsort(-rows, axis=1, kind="stable")[:, :count]
        np.put_along_axis(mask, chosen, True, axis=1)
    return mask


def _venom(scores: Array, sparsity: Sparsity) -> Mask:
    """Columns by their sum over the block's outputs, then N of the columns that are left."""
    mask = np.zeros(scores.shape, bool)
    for row in range(0, len(scores), sparsity.v):
        block = scores[row : row + sparsity.v]
        columns = of_groups(block.sum(axis=0, keepdims=True), VENOM_COLUMNS, sparsity.m)
        inside = np.where(columns, block, -np.inf)
        kept = of_groups(inside, sparsity.n, sparsity.m)
        mask[row : row + sparsity.v] = kept & columns
    return mask


def follows(weights: Array, sparsity: Sparsity) -> bool:
    """Whether the non-zeros of `weights` (or a mask) [N, T, I] are of the pattern."""
    mask = np.asarray(weights) != 0
    if sparsity.kind == "dense":
        return True
    if sparsity.kind in ("nm", "venom"):
        chosen = select(np.asarray(mask, np.float32), sparsity)
        return not np.any(mask & ~chosen)
    return bool(mask.size - np.count_nonzero(mask) >= zeros_of(mask.size, sparsity))
