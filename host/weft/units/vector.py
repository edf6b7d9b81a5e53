"""The vector unit: pooling, add, mul and depthwise convolution, one word per clock.

Depthwise convolution would leave all but one column of the systolic array idle; here every lane
multiplies its own channel.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from weft import isa
from weft.config import Overlay
from weft.state import ISSUE_CLOCKS, Clocks, FaultError, Fields, State, Sums, Unit
from weft.units import window

MAX, SUM, ADD, MUL, DEPTHWISE = range(5)
EMPTY_MAX = -256  # below every x − zero: what `max` gives for a window with no valid tap


def words_read(f: Fields) -> int:
    """Unified-buffer words read per output word: one per clock."""
    return 2 if f["operation"] in (ADD, MUL) else window.taps(f)


def clocks(f: Fields, overlay: Overlay, batch: int, before: Fields) -> Clocks:
    """Clocks of one Vector."""
    return Clocks(ISSUE_CLOCKS, vector=window.positions(f, batch) * f["blocks"] * words_read(f))


def golden(state: State, f: Fields, batch: int) -> None:
    """Vector: leaves the accumulators of every channel block for Activate."""
    _check(state, f, batch)
    blocks = np.arange(f["blocks"])
    address, inside = window.walk(f, batch)
    address = (blocks * f["source_block"])[:, None, None] + np.where(inside, address, 0)
    x = state.buffer[address].astype(np.int32) - f["zero"]  # [blocks, taps, M, lanes]
    sources = [(0, *window.source_range(f, batch))]
    if f["operation"] in (ADD, MUL):
        sources.append((0, *second_range(f, batch)))
        y = state.buffer[_second(f, batch)].astype(np.int32) - f["second_zero"]
        if f["operation"] == ADD:
            total = x[:, 0] * f["scale"] + y * f["second_scale"]
        else:
            total = x[:, 0] * y
    else:
        total = _reduce(state, f, x, inside)
    state.sums = Sums(total, f["out_h"], f["out_w"], tuple(sources))
    state.pending = True


def _reduce(
    state: State, f: Fields, x: NDArray[np.int32], inside: NDArray[np.bool_]
) -> NDArray[np.int32]:
    valid = inside[None, :, :, None]
    if f["operation"] == MAX:
        return np.asarray(np.where(valid, x, EMPTY_MAX).max(axis=1), np.int32)
    if f["operation"] == DEPTHWISE:
        count = f["blocks"] * window.taps(f)
        taps = state.taps[f["tap"] : f["tap"] + count].astype(np.int32)
        x = x * taps.reshape(f["blocks"], -1, 1, state.overlay.lanes)
    return np.asarray(np.where(valid, x, 0).sum(axis=1, dtype=np.int64), np.int32)


def _second(f: Fields, batch: int) -> NDArray[np.int64]:
    """Words [blocks, M] of the second operand."""
    k, b, y, x = np.ogrid[: f["blocks"], :batch, : f["out_h"], : f["out_w"]]
    words = (
        f["second"]
        + k * f["second_block"]
        + b * f["second_sample"]
        + y * f["second_row"]
        + x * f["second_col"]
    )
    return np.asarray(words, np.int64).reshape(f["blocks"], -1)


def second_range(f: Fields, batch: int) -> tuple[int, int]:
    """First and last word of the second operand."""
    last = (
        f["second"]
        + (batch - 1) * f["second_sample"]
        + (f["blocks"] - 1) * f["second_block"]
        + (f["out_h"] - 1) * f["second_row"]
        + (f["out_w"] - 1) * f["second_col"]
    )
    return f["second"], last


def _check(state: State, f: Fields, batch: int) -> None:
    window.check(state, f, batch)
    if f["operation"] > DEPTHWISE:
        raise FaultError(2, f"operation = {f['operation']}")
    words, limit = window.positions(f, batch) * f["blocks"], len(state.buffer)
    if max(words, window.taps(f)) > limit:
        raise FaultError(2, f"{words} output words, {window.taps(f)} taps; at most {limit}")
    if f["operation"] in (ADD, MUL):
        if window.taps(f) != 1 or f["pad_y"] or f["pad_x"]:
            raise FaultError(2, "add and mul have a 1×1 window without padding")
        if window.reach(f, "h", "y") >= f["height"] or window.reach(f, "w", "x") >= f["width"]:
            raise FaultError(2, "add and mul need every position inside the input")
        last = second_range(f, batch)[1]
        if last >= len(state.buffer):
            raise FaultError(3, f"word {last} of {len(state.buffer)}")
    entries = f["tap"] + f["blocks"] * window.taps(f)
    if f["operation"] == DEPTHWISE and entries > state.overlay.tap_words:
        raise FaultError(5, f"tap {entries - 1} of {state.overlay.tap_words}")


UNIT = Unit("vector", (isa.VECTOR,), golden, clocks, "max, sum, add, mul, depthwise convolution")
