"""The epilogue: bias, requantization, clamp and lookup, on the sums of MatMul or Vector."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from weft import isa
from weft.config import Overlay
from weft.state import ISSUE_CLOCKS, Clocks, FaultError, Fields, State, Sums, Unit
from weft.units import requant, window


def clocks(f: Fields, overlay: Overlay, batch: int, before: Fields) -> Clocks:
    """Right behind MatMul or Vector an Activate runs along with it; a further one drains again."""
    again = "target" in before
    rows = window.positions(before, batch) if again else 0
    return Clocks(ISSUE_CLOCKS, vector=rows)


def golden(state: State, f: Fields, batch: int) -> None:
    """Activate: writes one word per output position and channel block."""
    sums = state.sums
    _check(state, f, batch)
    assert sums is not None
    words = window.output_words(f, batch, sums.out_h, sums.out_w)
    for block, values in enumerate(sums.blocks):
        index = f["parameter"] + block * f["parameter_step"]
        codes = _codes(values, state.parameters[index], f)
        if f["lookup"] and f["mode"] < isa.RAW_BYTE:
            lane = np.arange(state.overlay.lanes)
            codes = state.lookup[codes.astype(np.int64) + 128, lane]
        state.buffer[words + block * f["target_block"]] = codes
    state.pending = False


def _codes(sums: NDArray[np.int32], planes: NDArray[np.int8], f: Fields) -> NDArray[np.int8]:
    """int8 codes [M, lanes] of int32 sums, with one block of parameters."""
    bias, multiplier, shift, negative_multiplier, negative_shift = requant.unpack_parameters(planes)
    x = (sums.astype(np.int64) + bias).astype(np.uint32).astype(np.int32)
    if f["mode"] >= isa.RAW_BYTE:
        return (x >> (8 * (f["mode"] - isa.RAW_BYTE))).astype(np.uint8).view(np.int8)
    mode = isa.MODES[f["mode"]]
    y = requant.requantize(x, multiplier, shift, mode)
    if (multiplier != negative_multiplier).any() or (shift != negative_shift).any():
        y = np.where(x < 0, requant.requantize(x, negative_multiplier, negative_shift, mode), y)
    y = y.astype(np.int64) + f["zero_point"]
    return np.clip(y, f["low"], f["high"]).astype(np.int8)


def _check(state: State, f: Fields, batch: int) -> None:
    sums: Sums | None = state.sums
    if sums is None or not (state.pending or sums.repeat):
        raise FaultError(6)
    if f["mode"] == len(isa.MODES):
        raise FaultError(2, f"mode = {f['mode']}")
    last = int(window.output_words(f, batch, sums.out_h, sums.out_w)[-1])
    last += (len(sums.blocks) - 1) * f["target_block"]
    if last >= len(state.buffer):
        raise FaultError(3, f"word {last} of {len(state.buffer)}")
    for first_read, last_read in sums.sources:
        if f["target"] <= last_read and first_read <= last:
            raise FaultError(7, f"words {f['target']}..{last} and {first_read}..{last_read}")
    index = f["parameter"] + (len(sums.blocks) - 1) * f["parameter_step"]
    if index >= state.overlay.parameter_blocks:
        raise FaultError(5, f"parameter block {index} of {state.overlay.parameter_blocks}")


UNIT = Unit(
    "activate", (isa.ACTIVATE,), golden, clocks, "bias, requantize, clamp, 256-entry lookup"
)
