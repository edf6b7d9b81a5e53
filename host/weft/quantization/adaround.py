"""Adaptive rounding: up or down as the layer's output asks, not as each weight does.

The objective is that of Nagel et al., "Up or Down? Adaptive Rounding for Post-Training
Quantization" (ICML 2020), the squared error of the layer's outputs. It is solved as in Behdin et
al., "QuantEase" (2023), by cyclic coordinate descent: with all other weights fixed the error is a
parabola in one weight, and the grid value nearest to its minimum is the best one. No step makes
the error larger, so the result is never worse than where it started, and any format will do.
"""

from __future__ import annotations

import numpy as np

from weft.graph import Array
from weft.quantization.codec import Columns, Real, matrix, scales

SWEEPS = 8


def solve(weights: Array, start: Array, columns: Columns, gram: Real) -> Array:
    """Operands of canonical `weights` [N, T, I], improved from the operands `start`."""
    w = matrix(weights)
    wide = scales(columns.quant, len(w)).astype(np.float64)[:, None]
    operands = matrix(start).copy()
    pull = (w - operands * wide) @ gram  # half the gradient, which each step keeps up to date
    curvature = np.maximum(np.diagonal(gram), np.finfo(np.float64).tiny)
    for _ in range(SWEEPS):
        moved = 0
        for step in columns.steps:
            moved += _move(operands, pull, columns, gram, curvature, wide, step)
        if not moved:
            break
    return operands.reshape(weights.shape)


def _move(
    operands: Real,
    pull: Real,
    columns: Columns,
    gram: Real,
    curvature: Real,
    wide: Real,
    step: slice,
) -> int:
    """Moves the columns `step` where that makes the error smaller; how many rows moved."""
    now = operands[:, step]
    if not np.any(np.diagonal(gram)[step]):
        return 0
    best = columns.operands(step, now * wide + pull[:, step] / curvature[step])
    change = (best - now) * wide
    curved = np.einsum("nk,kl,nl->n", change, gram[step, step], change)
    gain = 2 * np.einsum("nk,nk->n", pull[:, step], change) - curved
    better = gain > 1e-12 * np.maximum(curved, np.finfo(np.float64).tiny)
    if not better.any():
        return 0
    operands[better, step] = best[better]
    pull[better] -= change[better] @ gram[step]
    return int(better.sum())
