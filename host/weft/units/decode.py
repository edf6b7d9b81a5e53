"""The decoder between weight memory and the array: ReadWeights.

Weights lie in memory as packed codes (weft.tiles); what enters the weight stream are operands, as
the array multiplies with them: int8, int16, or the bits of bf16 numbers. Tables, and weights in
int8, pass row for row.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from weft import group as grouped
from weft import isa, tiles
from weft.config import Overlay
from weft.format import Format
from weft.formats import BY_NUMBER, bf16, minifloat
from weft.graph import Array, Quant
from weft.state import Clocks, FaultError, Fields, State, Unit

QUEUE = 8  # ReadWeights that may wait for their use; more could block the fetch process for ever
LEAST_GROUP = 16
LARGEST_BF16, SMALLEST_NORMAL = float(bf16.LARGEST), 2.0**-126
# Bytes of scales: code 127 (NaN) counts on, as the hardware does.
E4M3 = minifloat.values(4, 3, 7)


def clocks(f: Fields, overlay: Overlay, batch: int, before: Fields) -> Clocks:
    """ReadWeights runs in the background and takes none."""
    return Clocks()


def golden(state: State, f: Fields, batch: int) -> None:
    """ReadWeights: decoded rows enter the weight stream."""
    fmt = _checked(state, f)
    runs = f["runs"] - 1 if f["cached"] else 0
    end = f["memory"] + runs * f["memory_step"] + f["memory_rows"]
    name, there = ("memory", state.memory) if f["cached"] else ("weight", state.weights)
    if end > len(there):
        raise FaultError(8, f"{name} row {end - 1} of {len(there)}")
    state.queued += 1
    if state.queued > QUEUE:
        raise FaultError(9, f"more than {QUEUE} ReadWeights ahead of their use")
    if f["cached"]:
        state.feed(_cached(state, f), True)
        return
    rows = state.weights[f["memory"] : end]
    decoded = rows if fmt.name == "int8" else _decoded(rows, f, fmt, state.overlay)
    state.feed(decoded, bool(f["matvec"]))


def _cached(state: State, f: Fields) -> NDArray[np.int8]:
    """Runs of rows of activation memory, each filled up with rows of zeros."""
    run = np.arange(f["runs"])[:, None] * f["memory_step"]
    at = f["memory"] + run + np.arange(f["memory_rows"])
    state.cached[at] = True
    empty = f["rows"] // f["runs"] - f["memory_rows"]
    filled = np.pad(state.memory[at], ((0, 0), (0, empty), (0, 0)))
    return filled.reshape(f["rows"], -1)


def _checked(state: State, f: Fields) -> Format:
    """The format; raises FaultError where the sizes are not those that it makes."""
    fmt = BY_NUMBER.get(f["format"])
    if fmt is None or (f["format"] and fmt.name not in state.overlay.formats):
        raise FaultError(2, f"format = {f['format']}: overlay {state.overlay.name!r} has none such")
    if f["rows"] == 0 or f["memory_rows"] != (memory_rows(f, fmt, state.overlay) or None):
        raise FaultError(2, f"rows = {f['rows']}, memory_rows = {f['memory_rows']}")
    if f["matvec"]:
        o = state.overlay
        if "matvec" not in o.engines or f["rows"] % o.stream_rows or f["index"]:
            raise FaultError(2, f"matvec = 1, rows = {f['rows']}, index = {f['index']}")
    return fmt


def memory_rows(f: Fields, fmt: Format, overlay: Overlay) -> int:
    """Rows of memory that the decoder reads; 0 if the fields contradict one another."""
    if f["cached"]:
        legal = overlay.cached and f["matvec"] and not f["format"]
        filled = -(-f["memory_rows"] // overlay.run_rows) * overlay.run_rows
        return f["memory_rows"] if legal and f["runs"] * filled == f["rows"] else 0
    if f["format"] == 0:
        return f["rows"] if not f["index"] else 0
    group = 1 << f["group"] if f["group"] else 0
    grouped = fmt.record != "none" and overlay.weight_bits == 16
    if f["runs"] * f["blocks"] * (overlay.lanes + f["index"]) != f["rows"]:
        return 0
    if group and not (grouped and group >= LEAST_GROUP):
        return 0
    if f["zeros"] and not group:
        return 0
    if f["index"] and (fmt.per_byte or group):
        return 0
    shape = (overlay.lanes, f["runs"], f["blocks"] * overlay.lanes)
    index = f["runs"] * f["blocks"] * f["index"]
    return index + tiles.stored_rows(shape, fmt, overlay.lanes, group, bool(f["zeros"]))


def _decoded(rows: NDArray[np.int8], f: Fields, fmt: Format, overlay: Overlay) -> NDArray[np.int16]:
    """Operands [rows, lanes] of packed rows, as the hardware leaves them in the stream."""
    lanes = overlay.lanes
    shape = (lanes, f["runs"], f["blocks"] * lanes)
    group = 1 << f["group"] if f["group"] else 0
    rows, index = tiles.split_index(rows, f["runs"] * f["blocks"], f["index"], fmt, lanes)
    codes, quant = tiles.unpack(rows, shape, fmt, lanes, group, bool(f["zeros"]))
    if fmt.bits == 16:
        operands = codes  # as they are
    else:
        elements = fmt.decode(codes, replace(quant, groups=None, zeros=None))
        operands = _scaled(elements, quant, fmt, group)
    words = operands.transpose(1, 2, 0).reshape(-1, lanes).astype(np.int64)
    kept = words.astype(np.int16 if overlay.weight_bits == 16 else np.int8).astype(np.int16)
    if not f["index"]:
        return kept
    both = np.concatenate([index, kept.reshape(-1, lanes, lanes)], axis=1)
    return np.asarray(both.reshape(-1, lanes))


def _scaled(elements: Array, quant: Quant, fmt: Format, group: int) -> Array:
    """Elements [N, taps, I] with the bytes of their groups; of floats the bits of bf16 numbers."""
    if fmt.operand != "bf16":
        whole = elements.astype(np.int64)
        if not group:
            return whole
        channels = whole.shape[2]
        if quant.zeros is not None:
            whole = whole - grouped.spread(quant.zeros, group, channels).astype(np.int64)
        assert quant.groups is not None, "a group has a record"
        return whole * grouped.spread(quant.groups, group, channels).astype(np.int64)
    numbers = elements.astype(np.float64)
    if group:
        assert quant.groups is not None, "a group has a record"
        scale = _power(quant.groups) if fmt.record == "e8m0" else E4M3[quant.groups & 127]
        numbers = numbers * grouped.spread(scale, group, numbers.shape[2])
    return bf16_bits(numbers)


def _power(byte: Array) -> NDArray[np.float64]:
    return np.ldexp(1.0, byte.astype(np.int64) - 127)


def bf16_bits(x: NDArray[np.float64]) -> NDArray[np.int16]:
    """Bits of numbers that bf16 holds exactly; below the normal ones 0, above the largest that."""
    bounded = np.clip(x, -LARGEST_BF16, LARGEST_BF16).astype(np.float32)
    bounded = np.where(np.abs(x) < SMALLEST_NORMAL, np.float32(0), bounded)
    return np.asarray((bounded.view(np.uint32) >> 16).astype(np.uint16).view(np.int16))


UNIT = Unit("decode", (isa.READ_WEIGHTS,), golden, clocks, "packed weights → operands of the array")
