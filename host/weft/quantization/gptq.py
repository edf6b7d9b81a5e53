"""GPTQ: columns are rounded one by one, and those not yet rounded make up for the error.

Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers"
(ICLR 2023): with U the upper Cholesky factor of the inverse Hessian (here the inputs' Gram matrix,
1 % of the mean of its diagonal added to it), the error (w - q) / U_ii of column i is subtracted
from the others in the proportion of row i of U. Blocks of columns share one large update.
"""

from __future__ import annotations

import numpy as np

from weft.graph import Array
from weft.quantization.codec import Columns, Real, matrix

BLOCK = 128
DAMPING = 0.01
TINY = 1e-30  # where all inputs are 0


def solve(weights: Array, columns: Columns, gram: Real) -> Array:
    """Operands of canonical `weights` [N, T, I] for inputs with the Gram matrix [K, K]."""
    w = matrix(weights)
    upper = factor(gram)
    operands = np.empty(w.shape, np.float64)
    steps = columns.steps
    for first in range(0, w.shape[1], BLOCK):
        block = [s for s in steps if first <= s.start < first + BLOCK]
        last = block[-1].stop
        errors = np.zeros((len(w), last - first))
        for step in block:
            _round(w, operands, errors, columns, upper, step, first, last)
        w[:, last:] -= errors @ upper[first:last, last:]
    return operands.reshape(weights.shape)


def _round(
    w: Real,
    operands: Real,
    errors: Real,
    columns: Columns,
    upper: Real,
    step: slice,
    first: int,
    last: int,
) -> None:
    """Rounds the columns `step` of `w` and changes those behind them, up to `last`."""
    operands[:, step] = columns.operands(step, w[:, step])
    kept = columns.rounded(step, w[:, step])
    for k in range(step.start, step.stop):
        error = (w[:, k] - kept[:, k - step.start]) / upper[k, k]
        w[:, k:last] -= np.outer(error, upper[k, k:last])
        errors[:, k - first] = error


def factor(gram: Real) -> Real:
    """Upper Cholesky factor of the damped matrix's inverse: U with H^-1 = U^T U."""
    h = gram.copy()
    diagonal = np.diagonal(h).copy()
    silent = diagonal <= 0
    h[silent, silent] = 1  # an input that is always 0: its weight may be anything
    h[np.diag_indices(len(h))] += DAMPING * max(float(diagonal.mean()), TINY)
    inverse = np.linalg.inv(h)
    return np.asarray(np.linalg.cholesky((inverse + inverse.T) / 2).T)
