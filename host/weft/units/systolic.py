"""The weight-stationary systolic array: MatMul, golden model and clocks.

Timing (TPU-like: Jouppi et al., ISCA 2017; shadow weights): a fold is one weight tile and the M
rows that pass it. Row m enters at clock m, its sums leave R + C − 2 clocks later. With overlap the
next tile shifts in meanwhile, so a fold takes max(M, R) clocks. Without overlap F folds take
F·(2R + C + M − 2) clocks; SCALE-Sim reports the index of the last one, which is one less.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from weft import isa
from weft.config import Overlay
from weft.state import ISSUE_CLOCKS, Clocks, FaultError, Fields, State, Sums, Unit
from weft.units import window


def array_clocks(m: int, folds: int, overlay: Overlay, overlap: bool = True) -> Clocks:
    """Clocks of `folds` tiles with `m` rows each, without the instruction's own issue."""
    load = overlay.rows * overlay.beats
    flush = overlay.rows + overlay.column_groups - 2
    if overlap:
        period = max(m, load)
        return Clocks(matrix=folds * m, weight_shift=load + (folds - 1) * (period - m), drain=flush)
    return Clocks(matrix=folds * m, weight_shift=folds * load, drain=folds * flush)


def gemm_folds(n: int, k: int, overlay: Overlay) -> int:
    """Tiles of a K × N weight matrix: ⌈K/R⌉·⌈N/C⌉."""
    return -(-k // overlay.rows) * -(-n // overlay.cols)


def clocks(f: Fields, overlay: Overlay, batch: int, before: Fields) -> Clocks:
    """Clocks of one MatMul."""
    folds = f["tiles"] * f["blocks"] * window.taps(f)
    array = array_clocks(window.positions(f, batch), folds, overlay, bool(f["overlap"]))
    return Clocks(ISSUE_CLOCKS, array.matrix, array.weight_shift, array.drain)


def golden(state: State, f: Fields, batch: int) -> None:
    """MatMul: takes its tiles from the weight stream, leaves sums for Activate or the next one."""
    _check(state, f, batch)
    m, lanes = window.positions(f, batch), state.overlay.lanes
    state.need(f["tiles"] * f["blocks"] * window.taps(f) * lanes)
    x = _gather(state, f, batch)
    k = x.shape[1]
    tiles = state.take(f["tiles"] * k).reshape(f["tiles"], k, lanes)
    w = tiles.transpose(1, 0, 2).reshape(k, -1)
    # Products of int8 are exact in floating point, and BLAS is 40 times faster than integer matmul.
    exact = np.float32 if k * 128 * 128 < 1 << 24 else np.float64
    product = (x.astype(exact) @ w.astype(exact)).astype(np.int64)
    total = product.reshape(m, f["tiles"], lanes).transpose(1, 0, 2)
    if not f["first"]:
        total = total + state.partial[:m]
    sums = total.astype(np.uint32).astype(np.int32)  # wraps as the hardware does
    state.sums = None
    if f["last"]:
        sources = (window.source_range(f, batch),)
        state.sums = Sums(sums, f["out_h"], f["out_w"], sources, repeat=f["tiles"] == 1)
    else:
        state.partial[:m] = sums[0]
    state.pending = bool(f["last"])
    state.open_rows = 0 if f["last"] else m


def _gather(state: State, f: Fields, batch: int) -> NDArray[np.int8]:
    """Input words [M, blocks·taps·lanes] in the order of the folds."""
    address, inside = window.walk(f, batch)
    blocks = np.arange(f["blocks"]) * f["source_block"]
    address = blocks[:, None, None] + np.where(inside, address, 0)
    words = state.buffer[address]
    words[:, ~inside] = f["pad"]
    m = words.shape[2]
    return words.transpose(2, 0, 1, 3).reshape(m, -1)


def _check(state: State, f: Fields, batch: int) -> None:
    window.check(state, f, batch)
    if f["tiles"] == 0 or (not f["last"] and f["tiles"] != 1):
        raise FaultError(2, f"tiles = {f['tiles']}, last = {f['last']}")
    m = window.positions(f, batch)
    if m > state.overlay.accumulator_rows:
        raise FaultError(4, f"{m} of {state.overlay.accumulator_rows}")
    if not f["first"] and state.open_rows != m:
        raise FaultError(6, f"{m} rows go on from {state.open_rows} unfinished ones")


UNIT = Unit(
    "systolic", (isa.MAT_MUL,), golden, clocks, "weight-stationary array, int8 × int8 into int32"
)
