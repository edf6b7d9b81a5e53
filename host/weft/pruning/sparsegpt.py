"""SparseGPT: columns are pruned one by one, and those behind make up for the error.

Frantar & Alistarh, "SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot" (ICML
2023): with U as in GPTQ the weights with the least w^2 / U_ii^2 go, chosen group by group for N:M
and otherwise block by block of columns, from weights that earlier columns have changed already.
"""

from __future__ import annotations

import numpy as np

from weft.graph import Array
from weft.pruning import masks
from weft.pruning.spec import Sparsity
from weft.quantization import gptq
from weft.quantization.codec import Real, matrix
from weft.quantization.statistics import Statistics

BLOCK = gptq.BLOCK


def prune(weights: Array, sparsity: Sparsity, seen: Statistics | None = None) -> Array:
    """Canonical `weights` [N, T, I] with zeros, the others changed for the least output error."""
    assert seen is not None, "sparsegpt has data"
    groups = len(seen.gram)
    size = len(weights) // groups
    parts = [
        _solve(weights[g * size : (g + 1) * size], sparsity, seen.gram[g]) for g in range(groups)
    ]
    return np.concatenate(parts).astype(weights.dtype)


def chunks(shape: tuple[int, ...], sparsity: Sparsity) -> list[slice]:
    """Columns of the matrix [N, T * I] whose mask is chosen at once."""
    _, taps, channels = shape
    if not sparsity.structured:
        depth = taps * channels
        return [slice(k, min(k + BLOCK, depth)) for k in range(0, depth, BLOCK)]
    return [
        slice(t * channels + i, t * channels + min(i + sparsity.m, channels))
        for t in range(taps)
        for i in range(0, channels, sparsity.m)
    ]


def _solve(weights: Array, sparsity: Sparsity, gram: Real) -> Array:
    w = matrix(weights)
    upper = gptq.factor(gram)
    diagonal = np.square(np.diagonal(upper))
    parts = chunks(weights.shape, sparsity)
    first = 0
    while parts:
        # Whole chunks only: a group of N:M may reach a little behind the block.
        block = [part for part in parts if part.start < first + BLOCK]
        parts = parts[len(block) :]
        last = block[-1].stop
        errors = np.zeros((len(w), last - first))
        for part in block:
            score = np.square(w[:, part]) / diagonal[part]
            kept = masks.select(score[:, None, :], sparsity)[:, 0, :]
            for k in range(part.start, part.stop):
                pruned = ~kept[:, k - part.start]
                error = np.where(pruned, w[:, k], 0) / upper[k, k]
                w[:, k:last] -= np.outer(error, upper[k, k:last])
                w[pruned, k] = 0  # exactly
                errors[:, k - first] = error
        w[:, last:] -= errors @ upper[first:last, last:]
        first = last
    return w.reshape(weights.shape)
