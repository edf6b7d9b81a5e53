"""Results that meet the wide buffer: sums as int16, with a word added or as a factor; scores.

Golden model of hls/weft/units/writer.hpp.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from weft import isa
from weft.state import FaultError, Fields, State, Sums
from weft.units import requant, rows, window

LIMIT = (1 << 15) - 1  # -32768 marks a masked score
_STEPS = ("sample", "block", "row", "col")


def biased(sums: NDArray[np.int32], bias: NDArray[np.int32]) -> NDArray[np.int32]:
    """Sums and bias; wraps."""
    return (sums.astype(np.int64) + bias).astype(np.uint32).astype(np.int32)


def scaled(sums: NDArray[np.int32], planes: NDArray[np.int8], mode: str) -> NDArray[np.int64]:
    """Requantized sums [M, lanes] by one block of parameters, before any clamp."""
    bias, multiplier, shift, negative_multiplier, negative_shift = requant.unpack_parameters(planes)
    x = biased(sums, bias)
    y = requant.requantize(x, multiplier, shift, mode)
    if (multiplier != negative_multiplier).any() or (shift != negative_shift).any():
        y = np.where(x < 0, requant.requantize(x, negative_multiplier, negative_shift, mode), y)
    return y.astype(np.int64)


def golden(
    state: State, f: Fields, batch: int, blocks: NDArray[np.int32], size: tuple[int, int]
) -> None:
    """Activate with space 2: one word of int16 per output position and channel block.

    A product with words of the wide buffer may go to the unified one (space 0), too.
    """
    mode = isa.MODES[f["mode"]]
    index = f["parameter"] + np.arange(len(blocks)) * f["parameter_step"]
    y = np.stack([scaled(b, state.parameters[i], mode) for b, i in zip(blocks, index, strict=True)])
    step = np.arange(len(blocks))[:, None]
    if f["residual"]:
        y = _joined(y, state.wide[_residual_words(f, batch, size) + step * f["residual_block"]], f)
    y = np.clip(y, -LIMIT, LIMIT)
    if f["maximum"]:
        y = rows.keep_scores(state, f, y)
        state.scores = size[1]
    if f["discard"]:
        return
    words = window.output_words(f, batch, *size) + step * f["target_block"]
    if f["space"] == isa.UNIFIED:
        state.buffer[words] = np.clip(y + f["zero_point"], f["low"], f["high"]).astype(np.int8)
    else:
        state.wide[words] = y.astype(np.int16)


def _joined(y: NDArray[np.int64], other: NDArray[np.int16], f: Fields) -> NDArray[np.int64]:
    """Requantized sums y [blocks, M, lanes] and words of the wide buffer: their sum or product."""
    q, s = np.int32(f["residual_multiplier"]), f["residual_shift"]
    shift = np.int8(min(max(s, requant.SHIFT_LOW), requant.SHIFT_HIGH))
    if f["residual"] == isa.FACTOR:
        product = np.clip(y, -LIMIT, LIMIT) * other
        return requant.requantize(product.astype(np.int32), q, shift, "single_round")
    return y + requant.requantize(other.astype(np.int32), q, shift, "single_round")


def _residual_words(f: Fields, batch: int, size: tuple[int, int]) -> NDArray[np.int64]:
    """Words [M] that are added to channel block 0."""
    same = {f"target_{step}": f[f"residual_{step}"] for step in _STEPS}
    return window.output_words({**same, "target": f["residual_base"]}, batch, *size)


def check_output(state: State, f: Fields, batch: int, sums: Sums) -> None:
    """Raises FaultError where an output can't go to its space, or what is asked of it there."""
    is_wide = f["space"] == isa.WIDE
    if f["space"] and (f["space"] == isa.RANGES or not len(state.space(f["space"]))):
        raise FaultError(2, f"space = {f['space']} on overlay {state.overlay.name!r}")
    if f["space"] and (f["pack"] or (is_wide and f["lookup"])):
        raise FaultError(2, f"pack = {f['pack']}, lookup = {f['lookup']}, space = {f['space']}")
    if (is_wide or f["residual"]) and f["mode"] >= len(isa.MODES):
        raise FaultError(2, f"mode = {f['mode']} with words of int16")
    if f["residual"]:
        _check_joined(state, f, sums)
    if f["maximum"] and (not is_wide or not sums.attends or sums.scored):
        raise FaultError(2, "maximum, but these are no scores")
    if (f["running"] or f["discard"]) and not f["maximum"]:
        raise FaultError(2, f"running = {f['running']}, discard = {f['discard']} without maximum")
    if f["normalize"] == isa.BY_MAGNITUDE:
        _check_magnitudes(state, f, batch, sums)
    elif f["normalize"] == isa.BY_TOKEN:
        _check_tokens(state, f, sums)
    elif f["normalize"] and not (f["normalize"] == isa.BY_SUM and sums.divides):
        raise FaultError(2, f"normalize = {f['normalize']}, but no sums of exponentials")
    if f["running"] and state.scores != sums.out_w:
        raise FaultError(6, f"{sums.out_w} rows go on with the maxima of {state.scores}")


def _check_tokens(state: State, f: Fields, sums: Sums) -> None:
    """Raises FaultError where sums are no products with keys whose magnitudes are there."""
    if "token_ranges" not in state.overlay.units or not sums.attends or sums.scored:
        raise FaultError(2, f"normalize = {f['normalize']}, but no products with keys")
    if f["mode"] >= isa.FLOAT_CODE:
        raise FaultError(2, f"normalize = {f['normalize']}, mode = {f['mode']}")


def _check_magnitudes(state: State, f: Fields, batch: int, sums: Sums) -> None:
    """Raises FaultError where sums are not those of the rows whose magnitudes are known."""
    if "ranges" not in state.overlay.units or sums.attends or f["mode"] >= isa.FLOAT_CODE:
        raise FaultError(2, f"normalize = {f['normalize']}, but no products of ranges per row")
    line = batch == 1 and 1 in (sums.out_h, sums.out_w)
    if not line or sums.out_h * sums.out_w != state.ranged:
        raise FaultError(
            6,
            f"{batch} x {sums.out_h} x {sums.out_w} rows of sums, but magnitudes of {state.ranged}",
        )


def _check_joined(state: State, f: Fields, sums: Sums) -> None:
    """Raises FaultError where nothing can be added to an output, or be its factor."""
    plain = f["space"] == isa.UNIFIED and not f["pack"] and not f["lookup"]
    legal = f["space"] == isa.WIDE or (plain and f["residual"] == isa.FACTOR)
    if f["residual"] > isa.FACTOR or not legal or not len(state.wide):
        raise FaultError(2, f"residual = {f['residual']}, but no words of int16")
    if sums.scored:
        raise FaultError(2, "residual, but scores are read meanwhile")


def check_residual(state: State, f: Fields, batch: int, sums: Sums, last: int) -> None:
    """Raises FaultError for a residual outside the wide buffer or under other outputs, and in place
    where a word that is written twice would be read again behind its first result.
    """
    if not f["residual"]:
        return
    words = _residual_words(f, batch, (sums.out_h, sums.out_w))
    end = int(words[-1]) + (len(sums.blocks) - 1) * f["residual_block"]
    if end >= len(state.wide):
        raise FaultError(3, f"word {end} of {len(state.wide)} of the wide buffer")
    in_place = f["residual_base"] == f["target"] and all(
        f[f"residual_{step}"] == f[f"target_{step}"] for step in _STEPS
    )
    if f["discard"]:
        return
    meets = f["space"] == isa.WIDE and not in_place
    if meets and f["target"] <= end and f["residual_base"] <= last:
        raise FaultError(7, f"words {f['target']}..{last} and {f['residual_base']}..{end}")
    steps = (batch - 1, len(sums.blocks) - 1, sums.out_h - 1, sums.out_w - 1)
    alone = window.distinct([f[f"target_{step}"] for step in _STEPS], steps)
    if in_place and f["space"] == isa.WIDE and not alone:
        raise FaultError(7, "a residual in place, but some outputs share a word")
