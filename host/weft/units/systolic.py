"""The weight-stationary systolic array: MatMul, golden model and clocks.

Timing (TPU-like: Jouppi et al., ISCA 2017; shadow weights): a fold is one weight tile and the M
rows that pass it. Row m enters at clock m, its sums leave R + C − 2 clocks later. With overlap the
next tile shifts in meanwhile, so a fold takes max(M, R) clocks. Without overlap F folds take
F·(2R + C + M − 2) clocks; SCALE-Sim reports the index of the last one, which is one less.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from weft import isa
from weft.config import Overlay
from weft.engine import Bytes, Engine, weight_rows
from weft.state import ISSUE_CLOCKS, Clocks, FaultError, Fields, State, Sums, Unit
from weft.units import bf16, binary, compressed, fusion, matvec, nm, shift, window


def _plain(f: Fields, overlay: Overlay) -> bool:
    """int8 activations; weights are operands already."""
    return f["words"] == 1 and f["activation_bits"] == 8


ENGINE = Engine(
    "systolic",
    _plain,
    lambda words, f: np.moveaxis(words, -2, -1).view(np.int8).astype(np.int64),
    lambda rows, f: rows.astype(np.int64),
    "int8 × int8 or int16 into int32",
)
ENGINES: dict[str, Engine] = {
    e.name: e
    for e in (
        *(ENGINE, fusion.ENGINE, shift.ENGINE, binary.ENGINE, bf16.ENGINE, nm.ENGINE),
        matvec.ENGINE,
    )
}
assert {*ENGINES, *isa.COMPRESSED} == set(isa.ENGINES), "each engine has a number"
assert isa.ENGINES[matvec.NUMBER] == matvec.ENGINE.name


def array_clocks(
    m: int,
    folds: int,
    overlay: Overlay,
    overlap: bool = True,
    pace: int = 0,
    engine: Engine = ENGINE,
    index: int = 0,
) -> Clocks:
    """Clocks of `folds` tiles with `m` rows each, without the instruction's own issue.

    `pace`: clocks per tile row that the weights take to arrive; 0: those of int8. `index`: rows of
    positions in front of a tile.
    """
    load = (overlay.rows + index) * (pace or overlay.pace)
    flush = engine.flush(overlay)
    if overlap:
        period = max(m, load)
        return Clocks(matrix=folds * m, weight_shift=load + (folds - 1) * (period - m), drain=flush)
    return Clocks(matrix=folds * m, weight_shift=folds * load, drain=folds * flush)


def plain(overlay: Overlay) -> dict[str, int]:
    """Fields of a MatMul on int8 codes and int8 weights."""
    return {"words": 1, "activation_bits": 8, "weight_bits": 8, "pace": overlay.pace}


def gemm_folds(n: int, k: int, overlay: Overlay) -> int:
    """Tiles of a K × N weight matrix: ⌈K/R⌉·⌈N/C⌉."""
    return -(-k // overlay.rows) * -(-n // overlay.cols)


def folds_per_tile(f: Fields) -> int:
    """Folds of a column tile: groups of channel blocks, and taps."""
    return -(-f["blocks"] // f["words"]) * window.taps(f)


def stream_rows(f: Fields, overlay: Overlay) -> int:
    """Rows of the weight stream that a tile takes, positions in front of it included."""
    engine = ENGINES[isa.ENGINES[f["engine"]]]
    return (overlay.lanes + engine.index(f, overlay.lanes)) * _weight_rows(engine, f)


def clocks(f: Fields, overlay: Overlay, batch: int, before: Fields) -> Clocks:
    """Clocks of one MatMul."""
    if compressed.is_compressed(f):
        return compressed.least_clocks(f, batch)
    if matvec.is_matvec(f):
        return matvec.clocks(f, overlay, batch)
    m, engine = window.positions(f, batch), ENGINES[isa.ENGINES[f["engine"]]]
    folds, index = f["tiles"] * folds_per_tile(f), engine.index(f, overlay.lanes)
    array = array_clocks(m, folds, overlay, bool(f["overlap"]), f["pace"], engine, index)
    return Clocks(ISSUE_CLOCKS, array.matrix, array.weight_shift, array.drain)


def golden(state: State, f: Fields, batch: int) -> None:
    """MatMul: takes its tiles from the weight stream, leaves sums for Activate or the next one."""
    if compressed.is_compressed(f):
        return compressed.golden(state, f, batch)
    engine = _check(state, f, batch)
    m, lanes = window.positions(f, batch), state.overlay.lanes
    folds, rows = folds_per_tile(f), _weight_rows(engine, f)
    per_tile = lanes + engine.index(f, lanes)
    state.need(f["tiles"] * folds * per_tile * rows, matvec.is_matvec(f))
    x = engine.activations(_gather(state, f, batch), f)  # [m, folds, lanes, products]
    taken = state.take(f["tiles"] * folds * per_tile * rows, matvec.is_matvec(f))
    w = engine.weights(taken.reshape(f["tiles"], folds, per_tile, rows, lanes), f)
    if engine.is_float:
        sums = np.stack([bf16.products(x[..., 0], tile[:, :, 0]) for tile in w])
        if not f["first"]:
            before = bf16.from_bits(state.partial[:m])
            sums = bf16.to_bits(bf16.add(before, bf16.from_bits(sums)))
    else:
        sums = _integer_sums(x.reshape(m, -1), w.reshape(f["tiles"], -1, lanes), f["shift"])
        if not f["first"]:
            total = state.partial[:m].astype(np.int64) + sums
            sums = total.astype(np.uint32).astype(np.int32)  # wraps
    _hand_over(state, f, batch, sums)


def _weight_rows(engine: Engine, f: Fields) -> int:
    """Stream rows of a tile row."""
    whole = engine.is_float or engine.name in ("systolic", "nm", "matvec")
    return 1 if whole else weight_rows(f)


def _integer_sums(x: NDArray[np.int64], w: NDArray[np.int64], shift: int) -> NDArray[np.int32]:
    """Sums [tiles, M, columns], as 32 bits hold them."""
    # They are exact in floating point, and BLAS is 40 times faster than integer matmul.
    k = x.shape[1]
    largest = int(np.abs(x).max(initial=0)) * int(np.abs(w).max(initial=0))
    exact: Any = np.float32 if k * largest < 1 << 24 else np.float64
    wide = w.transpose(1, 0, 2).reshape(k, -1).astype(exact)
    product = (x.astype(exact) @ wide).astype(np.int64) << shift
    sums = product.reshape(len(x), len(w), -1).transpose(1, 0, 2)
    return np.asarray(sums.astype(np.uint32).astype(np.int32))


def _hand_over(state: State, f: Fields, batch: int, sums: NDArray[np.int32]) -> None:
    """Leaves sums to the Activate behind, or to the next MatMul."""
    state.sums = state.staying = None
    if f["last"]:
        space = isa.WIDE if matvec.reads_wide(f) else isa.UNIFIED
        sources = ((space, *window.source_range(f, batch)),)
        state.sums = Sums(sums, f["out_h"], f["out_w"], sources, repeat=f["tiles"] == 1)
    else:
        state.partial[: sums.shape[1]] = sums[0]
    state.pending = bool(f["last"])
    state.open_rows = 0 if f["last"] else sums.shape[1]


def _gather(state: State, f: Fields, batch: int) -> Bytes:
    """Bytes [M, folds, words, lanes] that reach the array: taps outermost, then channel blocks.

    Words that the last group has no blocks for are 0. Of the wide buffer they are int16.
    """
    memory: Any = state.wide if matvec.reads_wide(f) else state.buffer.view(np.uint8)
    address, inside = window.walk(f, batch)  # [taps, M]
    groups, words = -(-f["blocks"] // f["words"]), f["words"]
    found = np.zeros((*address.shape, groups * words, state.overlay.lanes), memory.dtype)
    base = np.where(inside, address, 0)
    for block in range(f["blocks"]):
        found[:, :, block] = memory[base + block * f["source_block"]]
    found[~inside, : f["blocks"]] = f["pad"] & (0xFF if memory.dtype == np.uint8 else -1)
    taps, m = address.shape
    ordered = found.reshape(taps, m, groups, words, -1).transpose(1, 0, 2, 3, 4)
    return ordered.reshape(m, taps * groups, words, -1)


def _check(state: State, f: Fields, batch: int) -> Engine:
    window.check(state, f, batch, isa.WIDE if matvec.reads_wide(f) else isa.UNIFIED)
    if f["tiles"] == 0 or (not f["last"] and f["tiles"] != 1):
        raise FaultError(2, f"tiles = {f['tiles']}, last = {f['last']}")
    engine = _engine(state, f)
    m = window.positions(f, batch)
    limit = matvec.ROWS if matvec.is_matvec(f) else state.overlay.accumulator_rows
    if m > limit:
        raise FaultError(4, f"{m} of {limit}")
    if not f["first"] and state.open_rows != m:
        raise FaultError(6, f"{m} rows go on from {state.open_rows} unfinished ones")
    return engine


def _engine(state: State, f: Fields) -> Engine:
    """The engine; raises FaultError where it is not there, or not for these codes."""
    name = isa.ENGINES[f["engine"]] if f["engine"] < len(isa.ENGINES) else str(f["engine"])
    if name not in state.overlay.engines:
        raise FaultError(2, f"engine {name} is none of {', '.join(state.overlay.engines)}")
    engine = ENGINES[name]
    if not engine.legal(f, state.overlay) or f["rows"]:
        sizes = ("words", "activation_bits", "weight_bits", "codes", "pace", "shift")
        raise FaultError(2, f"engine {name}: " + ", ".join(f"{s} = {f[s]}" for s in sizes))
    rows = _weight_rows(engine, f)
    if f["pace"] < rows:
        raise FaultError(2, f"pace = {f['pace']} for {rows} stream rows per tile row")
    if f["words"] > 1 and f["blocks"] > 1 and f["source_block"] % 2 == 0:
        raise FaultError(2, f"source_block = {f['source_block']} is even: two words share a bank")
    return engine


UNIT = Unit("systolic", (isa.MAT_MUL,), golden, clocks, "weight-stationary array of cells")
