"""Unidirectional LSTM over a sequence, in float and in 8-bit integers, on batches in numpy.

    i, f, o = σ(W·x + R·h + b)    g = tanh(W·x + R·h + b)    c' = f·c + i·g    h' = o·tanh(c')

(Hochreiter, Schmidhuber 1997, with forget gates of Gers et al. 2000.) Gates are stacked in the
order input, forget, cell, output; a coupled one (CIFG) has no input gate: i = 1 − f. The integer
form is that of TFLite: int8 inputs, weights and hidden state, gates int16 with 12 fraction bits
before and 15 after the nonlinearity, an int16 cell with a power of two as its scale.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weft import fixed_point, reference
from weft.errors import ShapeError
from weft.graph import Array, Node, Shape
from weft.shapes import Inputs, first, nth
from weft.units.requant import requantize

GATE_BITS = 15
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "None": lambda x: x,
    "Relu": lambda x: np.maximum(x, 0),
    "Relu6": lambda x: np.clip(x, 0, 6),
    "Tanh": np.tanh,
    "Sigmoid": reference.sigmoid,
}


def shape(node: Node, inputs: Inputs) -> list[Shape]:
    """[N, T, I] with w [G·H, I], r [G·H, O] → [N, T, O]."""
    x, w, r = first(node, inputs).shape, nth(node, inputs, 1).shape, nth(node, inputs, 2).shape
    gates = 3 if node.attrs["coupled"] else 4
    fits = len(x) == 3 and len(w) == len(r) == 2 and w[0] == r[0] and w[1] == x[2]
    if not fits or w[0] % gates:
        raise ShapeError(f"{node.op} {node.name!r}: input {x} does not fit weights {w} and {r}")
    hidden, state = w[0] // gates, r[1]
    projected = node.op == "SequenceLstm" and len(inputs) > 4
    expected = nth(node, inputs, 4).shape[0] if projected else hidden
    if state != expected:
        raise ShapeError(f"{node.op} {node.name!r}: a state of {state} for {expected} cells")
    bias = nth(node, inputs, 3).shape
    if bias != (w[0],):
        raise ShapeError(f"{node.op} {node.name!r}: bias of shape {bias}, expected ({w[0]},)")
    return [(*x[:2], state)]


def sequence(node: Node, inputs: list[Array]) -> list[Array]:
    """Float LSTM: x, w, r, bias, and perhaps a projection [O, H]; attribute cell_clip 0: none."""
    x, w, r, bias, *projection = inputs
    a, (samples, steps, _) = node.attrs, x.shape
    gates = 3 if a["coupled"] else 4
    activation = ACTIVATIONS[a.get("function", "Tanh")]
    cell = np.zeros((samples, len(w) // gates), np.float32)
    state = np.zeros((samples, r.shape[1]), np.float32)
    given = x @ w.T + bias
    y = np.empty((samples, steps, r.shape[1]), np.float32)
    for t in range(steps):
        parts = np.split(given[:, t] + state @ r.T, gates, axis=1)
        forget, new, out = parts[-3:]
        keep = reference.sigmoid(forget)
        take = 1 - keep if a["coupled"] else reference.sigmoid(parts[0])
        cell = keep * cell + take * activation(new)
        if a["cell_clip"]:
            cell = np.clip(cell, -a["cell_clip"], a["cell_clip"])
        state = reference.sigmoid(out) * activation(cell)
        if projection:
            state = state @ projection[0].T
        y[:, t] = state
    return [y]


def sequence8(node: Node, inputs: list[Array]) -> list[Array]:
    """Integer LSTM on the real values of codes; constants are the codes themselves.

    Inputs x, w int8, r int8, and per gate row the int32 sums that bias and zero points add to
    W·x, and to R·h. Attributes: input and output (scale, zero point); per gate `multipliers` and
    `state_multipliers` (multiplier, shift); `hidden` (multiplier, shift, zero point); `cell_bits`,
    the fraction bits of the cell; `cell_clip` in its codes, 0: none.
    """
    x, w, r, bias, state_bias = inputs
    a = node.attrs
    gates = 3 if a["coupled"] else 4
    scale, zero = a["output"]
    codes = _codes(x, *a["input"])
    samples, steps, _ = codes.shape
    state = np.full((samples, r.shape[1]), zero, np.int64)
    cell = np.zeros((samples, len(w) // gates), np.int64)
    given = _scaled(codes, w, bias, a["multipliers"])
    y = np.empty((samples, steps, r.shape[1]), np.float32)
    for t in range(steps):
        sums = _scaled(state, r, state_bias, a["state_multipliers"])
        parts = np.split(_int16(given[:, t] + sums), gates, axis=1)
        cell, state = _step8(parts, cell, a)
        y[:, t] = (state - zero) * np.float32(scale)
    return [y]


def _codes(x: Array, scale: float, zero: int) -> NDArray[np.int64]:
    q = np.rint(np.asarray(x, np.float32) / np.float32(scale)).astype(np.int64) + zero
    return np.asarray(np.clip(q, -128, 127))


def _int16(x: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.clip(x, -(1 << 15), (1 << 15) - 1)


def _scaled(codes: NDArray[np.int64], w: Array, bias: Array, multipliers: Any) -> NDArray[np.int64]:
    """int16 gate values of codes [..., K]: products are exact in float64."""
    sums = (codes.astype(np.float64) @ w.astype(np.float64).T).astype(np.int64) + bias
    pairs = np.repeat(np.asarray(multipliers, np.int64), len(w) // len(multipliers), axis=0)
    return _int16(requantize(sums, pairs[:, 0], pairs[:, 1], "double_round"))


def _step8(
    parts: list[NDArray[np.int64]], cell: NDArray[np.int64], a: Any
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The next cell and hidden state of int16 gates before their nonlinearity."""
    sigma, offset = fixed_point.logistic16(), 1 << 15
    forget, new, out = parts[-3:]
    keep = sigma[forget + offset].astype(np.int64)
    take = 32767 - keep if a["coupled"] else sigma[parts[0] + offset].astype(np.int64)
    fresh = fixed_point.tanh16(3)[new + offset].astype(np.int64)
    cell = _int16(fixed_point.divide_by_power(keep * cell, GATE_BITS))
    shift = 2 * GATE_BITS - a["cell_bits"]
    cell = _int16(cell + _int16(fixed_point.divide_by_power(take * fresh, shift)))
    if a["cell_clip"]:
        cell = np.clip(cell, -a["cell_clip"], a["cell_clip"])
    squashed = fixed_point.tanh16(15 - a["cell_bits"])[cell + offset].astype(np.int64)
    multiplier, hidden_shift, zero = a["hidden"]
    open_ = sigma[out + offset].astype(np.int64)
    state = requantize(open_ * squashed, multiplier, hidden_shift, "double_round") + zero
    return cell, np.clip(state, -128, 127)
