"""The epilogue: bias, requantization, clamp and lookup, on the sums of MatMul or Vector."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from weft import isa, pack
from weft.config import Overlay
from weft.state import ISSUE_CLOCKS, Clocks, FaultError, Fields, State, Sums, Unit
from weft.units import bf16, ranges, requant, rows, wide, window
from weft.units.wide import biased

_ASKED = ("space", "residual", "maximum", "normalize", "running", "discard")


def clocks(f: Fields, overlay: Overlay, batch: int, before: Fields) -> Clocks:
    """Right behind MatMul or Vector an Activate runs along with it; a further one drains again, and
    so does one behind an Attend whose sums stay.
    """
    if before.get("stays"):
        return Clocks(ISSUE_CLOCKS, vector=before["rows"] * before["tiles"])
    again = "target" in before
    rows = window.positions(before, batch) if again else 0
    return Clocks(ISSUE_CLOCKS, vector=rows)


def golden(state: State, f: Fields, batch: int) -> None:
    """Activate: writes one word per output position and channel block."""
    sums = state.sums
    _check(state, f, batch)
    assert sums is not None
    state.pending = False
    blocks = sums.blocks
    if f["normalize"] == isa.BY_MAGNITUDE:
        blocks = ranges.scaled_sums(state, blocks.astype(np.int64)).astype(np.int32)
    elif f["normalize"] == isa.BY_TOKEN:
        blocks = ranges.token_sums(state, f, blocks.astype(np.int64)).astype(np.int32)
    elif f["normalize"]:
        blocks = rows.normalized_sums(state, blocks.astype(np.int64)).astype(np.int32)
    if f["space"] == isa.WIDE or f["residual"]:
        wide.golden(state, f, batch, blocks, (sums.out_h, sums.out_w))
        return
    words = window.output_words(f, batch, sums.out_h, sums.out_w)
    for block, values in enumerate(blocks):
        index = f["parameter"] + block * f["parameter_step"]
        codes = _codes(values, state.parameters[index], f)
        if f["lookup"] and (f["mode"] < isa.RAW_BYTE or f["mode"] == isa.FLOAT_CODE):
            lane = np.arange(state.overlay.lanes)
            codes = state.lookup[codes.astype(np.int64) + 128, lane]
        _write(state, words + (block >> f["pack"]) * f["target_block"], codes, block, f)


def _write(
    state: State, words: NDArray[np.int64], codes: NDArray[np.int8], block: int, f: Fields
) -> None:
    """Codes to their words; packed ones to their part, of which the first clears the rest."""
    log = f["pack"]
    if log == 0:
        state.space(f["space"])[words] = codes
        return
    packed = pack.packed_codes(codes, 8 >> log)
    part = block & ((1 << log) - 1)
    if part == 0:
        state.buffer[words] = 0
    lanes = packed.shape[-1]
    state.buffer[words, part * lanes : (part + 1) * lanes] = packed


def _float_codes(x: NDArray[np.int32], planes: NDArray[np.int8], f: Fields) -> NDArray[np.int8]:
    """Results of sums that are float32; the parameters hold the bits of bias and scale."""
    bias, multiplier, _, negative_multiplier, _ = requant.unpack_parameters(planes)
    sums = bf16.add(bf16.from_bits(x), bf16.from_bits(bias))
    below = bf16.to_bits(sums) < 0
    scale = np.where(below, bf16.from_bits(negative_multiplier), bf16.from_bits(multiplier))
    y = bf16.from_bits(bf16.to_bits(bf16.multiply(sums, scale)))
    if f["mode"] == isa.FLOAT_CODE:
        with np.errstate(invalid="ignore"):
            whole = np.rint(np.where(np.isnan(y), np.inf, y).astype(np.float64))
        limited = np.clip(whole, -(2.0**31), 2.0**31 - 1).astype(np.int64)
        return np.clip(limited + f["zero_point"], f["low"], f["high"]).astype(np.int8)
    if f["low"] == 0:
        y = np.where(bf16.to_bits(y) < 0, np.float32(0), y)
    bits = bf16.rounded(y)
    return (bits >> (8 * (f["mode"] - isa.BF16_LOW))).astype(np.uint8).view(np.int8)


def _codes(sums: NDArray[np.int32], planes: NDArray[np.int8], f: Fields) -> NDArray[np.int8]:
    """int8 codes [M, lanes] of int32 sums, with one block of parameters."""
    if f["mode"] >= isa.FLOAT_CODE:
        return _float_codes(sums, planes, f)
    if f["mode"] >= isa.RAW_BYTE:
        x = biased(sums, requant.unpack_parameters(planes)[0])
        return (x >> (8 * (f["mode"] - isa.RAW_BYTE))).astype(np.uint8).view(np.int8)
    y = wide.scaled(sums, planes, isa.MODES[f["mode"]]) + f["zero_point"]
    return np.clip(y, f["low"], f["high"]).astype(np.int8)


def _check(state: State, f: Fields, batch: int) -> None:
    sums: Sums | None = state.sums
    if sums is None or not (state.pending or sums.repeat):
        raise FaultError(6)
    is_float = f["mode"] >= isa.FLOAT_CODE
    if f["mode"] == len(isa.MODES) or f["mode"] > isa.BF16_HIGH:
        raise FaultError(2, f"mode = {f['mode']}")
    if is_float and "bf16" not in state.overlay.engines:
        raise FaultError(2, f"mode = {f['mode']} on an overlay without the bf16 engine")
    if f["pack"] and state.overlay.parts == 1:
        raise FaultError(2, f"pack = {f['pack']} on an overlay whose words have no parts")
    if any(f[name] for name in _ASKED):
        wide.check_output(state, f, batch, sums)
    last = window.output_words(f, batch, sums.out_h, sums.out_w)[-1]
    last = int(last) + ((len(sums.blocks) - 1) >> f["pack"]) * f["target_block"]
    if last >= len(state.space(f["space"])):
        raise FaultError(3, f"word {last} of {len(state.space(f['space']))}")
    wide.check_residual(state, f, batch, sums, last)
    for space, first_read, last_read in () if f["discard"] else sums.sources:
        if space == f["space"] and f["target"] <= last_read and first_read <= last:
            raise FaultError(7, f"words {f['target']}..{last} and {first_read}..{last_read}")
    index = f["parameter"] + (len(sums.blocks) - 1) * f["parameter_step"]
    if index >= state.overlay.parameter_blocks:
        raise FaultError(5, f"parameter block {index} of {state.overlay.parameter_blocks}")
    end = f["ranges"] + len(sums.blocks)
    if f["normalize"] == isa.BY_TOKEN and end > state.overlay.range_words:
        raise FaultError(5, f"ranges word {end - 1} of {state.overlay.range_words}")


UNIT = Unit(
    "activate", (isa.ACTIVATE,), golden, clocks, "bias, requantize, clamp, 256-entry lookup"
)
