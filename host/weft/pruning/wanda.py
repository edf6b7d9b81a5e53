"""Wanda: weights times the norm of what they multiply (Sun et al., ICLR 2024)."""

from __future__ import annotations

import numpy as np

from weft.graph import Array
from weft.pruning import magnitude, masks
from weft.pruning.spec import Sparsity
from weft.quantization.codec import Real
from weft.quantization.statistics import Statistics


def scores(weights: Array, seen: Statistics) -> Real:
    """|w_ij| ||x_j|| of canonical weights [N, T, I]; norms per input channel and tap."""
    groups = len(seen.gram)
    norms = np.sqrt(np.maximum(np.einsum("gkk->gk", seen.gram), 0))
    wide = norms.reshape(groups, 1, *weights.shape[1:])
    values = magnitude.scores(weights).reshape(groups, -1, *weights.shape[1:])
    return np.asarray(values * wide, np.float64).reshape(weights.shape)


def prune(weights: Array, sparsity: Sparsity, seen: Statistics | None = None) -> Array:
    """Canonical `weights`, those that matter least 0; unstructured: row by row, as the paper."""
    assert seen is not None, "wanda has data"
    kept = masks.select(scores(weights, seen), sparsity, by_row=True)
    return np.where(kept, weights, weights.dtype.type(0))
