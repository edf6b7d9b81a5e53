"""From the real weights of a layer to operands: the scales, and which way each value is rounded."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from weft.errors import UsageError, unknown
from weft.format import Format
from weft.graph import Array, Quant
from weft.quantization import adaround, awq, codec, gptq
from weft.quantization.statistics import Statistics

METHODS = {
    "nearest": "the largest weight is the largest code; nearest value",
    "mse": "scales with the least squared error; nearest value",
    "gptq": "least output error: later weights make up for the error of earlier ones",
    "awq": "finer steps for channels with large activations, clipped ranges; nearest value",
    "adaround": "least output error: each weight up or down, by coordinate descent",
}
NEED_DATA = ("gptq", "awq", "adaround")


def check(name: str) -> str:
    """The name itself. Raises UsageError, with the nearest names, for another."""
    if name not in METHODS:
        raise UsageError(unknown("method", name, METHODS))
    return name


def fit(weights: Array, fmt: Format, method: str, seen: Statistics | None) -> Quant:
    """Scales (and what else the format has) of canonical weights [N, T, I]."""
    if method == "nearest":
        return fmt.fit(weights, 0)
    if method == "awq":
        assert seen is not None, "awq has data"
        return awq.clip(weights, fmt.fit(weights, 0), fmt, seen)
    return fmt.fit(weights, 0, "mse")


def solve(weights: Array, quant: Quant, fmt: Format, method: str, seen: Statistics | None) -> Array:
    """Operands of canonical weights with scales that are known.

    What gptq and adaround give is never worse than the nearest values in the layer's output, on
    the data they saw: a row for which it would be keeps the nearest. A weight of 0 is pruned and
    gets the operand 0 by every method, if the format has one.
    """
    operands = fmt.quantize(weights, quant)
    if method not in ("gptq", "adaround") or seen is None:
        return operands
    groups = len(seen.gram)
    size = len(weights) // groups
    for g in range(groups):
        rows = slice(g * size, (g + 1) * size)
        part = _rows(quant, rows, len(weights))
        zeros = (weights[rows] == 0) & (operands[rows] == 0)
        columns = codec.Columns(fmt, part, weights[rows].shape, zeros.reshape(size, -1))
        gram = seen.gram[g]
        found = gptq.solve(weights[rows], columns, gram)
        best = _better(weights[rows], operands[rows], found, part, gram)
        if method == "adaround":
            best = adaround.solve(weights[rows], best, columns, gram)
        operands[rows] = best.astype(operands.dtype)
    return operands


def _rows(quant: Quant, rows: slice, n: int) -> Quant:
    return replace(
        codec.with_scale(quant, codec.scales(quant, n)[rows]),
        groups=None if quant.groups is None else quant.groups[rows],
        zeros=None if quant.zeros is None else quant.zeros[rows],
    )


def _better(weights: Array, one: Array, other: Array, quant: Quant, gram: Array) -> Array:
    """Row by row the operands with the smaller output error."""
    w = codec.matrix(weights)
    losses = []
    for operands in (one, other):
        error = w - codec.matrix(codec.real(operands, quant))
        losses.append(np.einsum("nk,nk->n", error @ gram, error))
    chosen = (losses[1] < losses[0]).reshape(-1, *[1] * (one.ndim - 1))
    return np.asarray(np.where(chosen, other, one))
