"""Attend: a product whose both operands are on chip; golden model and clocks.

Hardware: hls/weft/units/attention.hpp. The clocks are those of a MatMul of as many rows and folds,
or on engine matvec one for every group of the operand's words and row; softmax takes none of its
own, but for the pass that probabilities rounded to codes need.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from weft import isa
from weft.config import Overlay
from weft.state import ISSUE_CLOCKS, Clocks, FaultError, Fields, State, StayingSums, Sums, Unit
from weft.units import exponential, matvec, ranges, rows, systolic
from weft.units.exponential import Exponential, TableExponential


def clocks(f: Fields, overlay: Overlay, batch: int, before: Fields) -> Clocks:
    """Clocks of one Attend."""
    folds = f["tiles"] * f["blocks"]
    first = f["rows"] * f["blocks"] if f["normalized"] else 0
    if f["matvec"]:
        busy = folds * overlay.lanes // overlay.operand_group * f["rows"]
        drain = matvec.attend_latency(overlay)
        return Clocks(ISSUE_CLOCKS, busy, drain=drain, vector=first)
    array = systolic.array_clocks(f["rows"], folds, overlay, bool(f["overlap"]), pace=1)
    return Clocks(ISSUE_CLOCKS, array.matrix, array.weight_shift, array.drain, vector=first)


def golden(state: State, f: Fields, batch: int) -> None:
    """Attend: leaves sums [tiles, rows, lanes] for its Activate."""
    sources = _check(state, f, batch)
    x = _scores(state, f) if f["scores"] else _words(state.buffer, f)
    w = _operand(state, f)  # [tiles, blocks · lanes, lanes]
    k = w.shape[1]
    product = x.reshape(len(x), k).astype(np.float64) @ w.transpose(1, 0, 2).reshape(k, -1)
    sums = product.reshape(len(x), f["tiles"], -1).transpose(1, 0, 2).astype(np.int64)
    wrapped = _accumulated(state, f, sums)
    scored, stays = bool(f["scores"]), bool(f["stays"])
    divides = scored and not f["normalized"]
    state.sums = Sums(
        wrapped, 1, f["rows"], sources, stays, attends=True, scored=scored, divides=divides
    )
    state.pending, state.open_rows = not stays, 0


def _accumulated(state: State, f: Fields, sums: NDArray[np.int64]) -> NDArray[np.int32]:
    """Sums [tiles, rows, lanes] and those that they go on with, as 32 bits hold them; they may stay
    in the accumulators.
    """
    first, last = _accumulator(f)
    before = state.staying
    place = state.partial[first:last] if f["goes_on"] or f["stays"] else state.partial[:0]
    if f["goes_on"]:
        sums = sums + place.reshape(sums.shape)
    wrapped = sums.astype(np.uint32).astype(np.int32)
    if f["stays"]:
        place[:] = wrapped.reshape(place.shape)
        keys = _keys(state, f)
        state.staying = StayingSums(first, f["rows"], f["tiles"], bool(f["scores"]), keys)
    elif before and first < before.first + before.rows * before.tiles and before.first < last:
        state.staying = None
    return wrapped


def _accumulator(f: Fields) -> tuple[int, int]:
    """The accumulator rows [first, last) that an Attend takes beside the finished bank."""
    tiles = f["tiles"] if f["goes_on"] or f["stays"] else 1
    return f["accumulator"], f["accumulator"] + f["rows"] * tiles


def _keys(state: State, f: Fields) -> int:
    """Keys of a row of scores, with those that the sums which stayed are of."""
    before = state.staying.keys if f["goes_on"] and state.staying else 0
    return before + f["blocks"] * state.overlay.lanes * f["scores"]


def _words(memory: NDArray[np.int8] | NDArray[np.int16], f: Fields) -> NDArray[np.int64]:
    """The input [rows, blocks, lanes]."""
    row, block = np.ogrid[: f["rows"], : f["blocks"]]
    address = f["source"] + row * f["source_col"] + block * f["source_block"]
    return np.asarray(memory[address], np.int64)


def _scores(state: State, f: Fields) -> NDArray[np.int64]:
    """Activations [rows, blocks · lanes] made of scores; keeps the sums of their rows."""
    n = f["rows"]
    unit = _method(state, f)
    e = rows.exponentials(_words(state.wide, f).reshape(n, -1), state.row_maximum[:n], unit)
    if f["normalized"]:
        state.row_sum[:n] = e.sum(1)
        return np.clip(unit.shares(e, state.row_sum[:n, None]), 0, f["most"])
    codes = ranges.token_codes(state, f, e) if f["ranged"] else rows.exponential_codes(e, f["most"])
    before = state.row_sum[:n] if f["goes_on"] else 0
    state.row_sum[:n] = before + (e if f["ranged"] else codes).sum(1)
    return codes


def _method(state: State, f: Fields) -> Exponential:
    method = exponential.methods(state.overlay)[f["method"]]
    if method is not None:
        return method
    table: TableExponential | None = state.softmax_table
    return table or TableExponential.of_words([0] * exponential.TABLE_WORDS)


def _operand(state: State, f: Fields) -> NDArray[np.int64]:
    """Weights [tiles, blocks · lanes, lanes] from the operand buffer."""
    lanes = state.overlay.lanes
    tokens = (f["tiles"] if f["transposed"] else f["blocks"]) * lanes
    others = f["blocks"] if f["transposed"] else f["tiles"]
    block, token = np.ogrid[:others, :tokens]
    found = state.operands[f["operand"] + block * f["operand_block"] + token].astype(np.int64)
    if not f["transposed"]:
        return np.asarray(found)
    turned = found.transpose(1, 0, 2).reshape(f["tiles"], lanes, -1)  # [tiles, keys, channels]
    return np.asarray(turned.transpose(0, 2, 1))


def _check(state: State, f: Fields, batch: int) -> tuple[tuple[int, int, int], ...]:
    """What is read, as (space, first, last). Raises FaultError."""
    o = state.overlay
    if "attention" not in o.units:
        raise FaultError(1, f"overlay {o.name!r} has no unit attention")
    if batch != 1 or min(f["rows"], f["blocks"], f["tiles"]) == 0:
        raise FaultError(2, f"batch {batch}, {f['rows']} rows, {f['blocks']} × {f['tiles']} folds")
    if f["scores"]:
        if f["method"] >= len(o.softmax) or _keys(state, f) > rows.MOST_KEYS:
            raise FaultError(2, f"method {f['method']}, {_keys(state, f)} keys")
    elif f["normalized"]:
        raise FaultError(2, "normalized, but the input is no scores")
    if f["normalized"] and (f["goes_on"] or f["stays"]):
        raise FaultError(2, "normalized by the sums of some tiles of keys")
    if f["ranged"] and (not f["scores"] or f["normalized"] or not o.range_words):
        raise FaultError(2, "ranged, but these are no scores, or ranges of tokens are not there")
    if f["matvec"]:
        matvec.check_attend(f, o)
    last = f["source"] + (f["blocks"] - 1) * f["source_block"] + (f["rows"] - 1) * f["source_col"]
    space = isa.WIDE if f["scores"] else isa.UNIFIED
    if last >= len(state.space(space)):
        raise FaultError(3, f"word {last} of {len(state.space(space))}")
    tokens = (f["tiles"] if f["transposed"] else f["blocks"]) * o.lanes
    others = f["blocks"] if f["transposed"] else f["tiles"]
    end = f["operand"] + tokens - 1 + (others - 1) * f["operand_block"]
    if end >= len(state.operands):
        raise FaultError(3, f"word {end} of {len(state.operands)} of the operand buffer")
    if _accumulator(f)[1] > o.accumulator_rows:
        raise FaultError(4, f"{_accumulator(f)[1]} of {o.accumulator_rows}")
    if f["matvec"] and f["rows"] > matvec.ROWS:
        raise FaultError(4, f"{f['rows']} of {matvec.ROWS}")
    if f["ranged"] and f["ranges"] + f["blocks"] > o.range_words:
        raise FaultError(5, f"ranges word {f['ranges'] + f['blocks'] - 1} of {o.range_words}")
    if f["scores"] and f["rows"] != state.scores:
        raise FaultError(6, f"{f['rows']} rows of scores, but maxima of {state.scores}")
    if f["goes_on"] and not _fits(state.staying, f):
        raise FaultError(6, f"goes on, but what stayed is {state.staying}")
    return (space, f["source"], last), (isa.OPERAND, f["operand"], end)


def _fits(staying: StayingSums | None, f: Fields) -> bool:
    """Whether an Attend may go on with these sums."""
    mine = (f["accumulator"], f["rows"], f["tiles"], bool(f["scores"]))
    return staying is not None and mine == (
        staying.first, staying.rows, staying.tiles, staying.scored
    )  # fmt: skip


UNIT = Unit("attention", (isa.ATTEND,), golden, clocks, "products of two operands on chip")
