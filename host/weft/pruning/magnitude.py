"""Magnitude: the weights nearest to 0 go (Han et al., NeurIPS 2015)."""

from __future__ import annotations

import numpy as np

from weft.graph import Array
from weft.pruning import masks
from weft.pruning.spec import Sparsity
from weft.quantization.statistics import Statistics


def scores(weights: Array) -> Array:
    """|w| in a type that holds it exactly."""
    if weights.dtype.kind == "f":
        return np.asarray(np.abs(weights))
    return np.abs(weights.astype(np.float32))


def prune(weights: Array, sparsity: Sparsity, seen: Statistics | None = None) -> Array:
    """Canonical `weights` [N, T, I], the smallest of them 0; `seen` is not needed."""
    return np.where(masks.select(scores(weights), sparsity), weights, weights.dtype.type(0))
