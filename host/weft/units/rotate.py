"""Rotate: rotary embeddings, or requantization alone, of words of the wide buffer.

Golden model and clocks of hls/weft/units/rotate.hpp. Rotary embedding: Su et al., RoFormer
(Neurocomputing 2024), equation 34: every pair of channels of a head turns by position · frequency.
The partner of a channel is in the lane that `swap` says, of the block that `half` says, so pairs
may be neighbours (RoFormer, llama2.c) or lie half a head apart (GPT-NeoX, transformers).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from weft import isa
from weft.config import Overlay
from weft.state import ISSUE_CLOCKS, Clocks, FaultError, Fields, State, Unit
from weft.units import ranges, requant, wide, window

CODE_LIMIT = 127  # of codes; words of the wide buffer go to wide.LIMIT
FRACTION = 14  # bits of cosines and sines
READS = 4  # of the wide buffer for a rotated word: itself, its partner, cosine and sine

_Range = tuple[int, int]


def clocks(f: Fields, overlay: Overlay, batch: int, before: Fields) -> Clocks:
    """A word of the wide buffer is read per clock; for ranges all of them twice."""
    words = f["rows"] * f["blocks"] * (1 if f["plain"] else READS)
    return Clocks(ISSUE_CLOCKS, vector=words * (1 + f["ranges"]))


def golden(state: State, f: Fields, batch: int) -> None:
    """Rotate: a word per row and channel block, block by block."""
    _check(state, f, batch)
    block, row = np.ogrid[: f["blocks"], : f["rows"]]
    x = _words(state, "source", f, row, block)
    y = x << FRACTION
    if not f["plain"]:
        lane = np.arange(state.overlay.lanes) ^ (1 << f["swap"] >> 1)
        partner = _words(state, "source", f, row, block ^ f["half"])[..., lane]
        at = f["table"] + row * f["table_col"] + block % f["head_blocks"]
        cosine, sine = (state.wide[at + n].astype(np.int64) for n in (0, f["head_blocks"]))
        y = (x * cosine + partner * sine).astype(np.int32).astype(np.int64)
    shift = min(max(f["shift"], requant.SHIFT_LOW), requant.SHIFT_HIGH)
    code = requant.requantize(y, np.int32(f["multiplier"]), np.int8(shift), "single_round")
    if f["ranges"]:
        code = _ranged(state, f, code)
    limit = wide.LIMIT if f["space"] == isa.WIDE else CODE_LIMIT
    target = f["target"] + row * f["target_col"] + block * f["target_block"]
    memory = state.space(f["space"])
    memory[target] = np.clip(code, -limit, limit).astype(memory.dtype)


def _ranged(state: State, f: Fields, code: NDArray[np.int64]) -> NDArray[np.int64]:
    """Results [blocks, rows, lanes] as codes of their row's range; keeps the magnitudes."""
    x = ranges.values(code).swapaxes(0, 1)  # [rows, blocks, lanes]
    magnitude = np.abs(x).max((1, 2))
    ranges.put_tokens(state, f, magnitude)
    codes = ranges.codes(x.reshape(len(x), -1), magnitude)
    return codes.reshape(x.shape).swapaxes(0, 1)


def _words(
    state: State, name: str, f: Fields, row: NDArray[np.int64], block: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Words [blocks, rows, lanes] of the wide buffer."""
    at = f[name] + row * f[f"{name}_col"] + block * f[f"{name}_block"]
    return np.asarray(state.wide[at].astype(np.int64))


def _check(state: State, f: Fields, batch: int) -> None:
    """Raises FaultError, with the status that the hardware reports."""
    o = state.overlay
    if "rotate" not in o.units:
        raise FaultError(1, f"overlay {o.name!r} has no unit rotate")
    if f["ranges"] and (not o.range_words or f["space"] == isa.WIDE):
        raise FaultError(2, f"ranges, space = {f['space']} on overlay {o.name!r}")
    if batch != 1 or not 1 <= f["rows"] * f["blocks"] <= len(state.wide):
        raise FaultError(2, f"batch {batch}, {f['rows']} × {f['blocks']} words")
    if f["space"] == isa.RANGES or not len(state.space(f["space"])):
        raise FaultError(2, f"space = {f['space']} on overlay {o.name!r}")
    if not f["plain"]:
        _check_pairs(f, o.lanes)
    source, target = _range(f, "source"), _range(f, "target")
    table = (f["table"], f["table"] + (f["rows"] - 1) * f["table_col"] + 2 * f["head_blocks"] - 1)
    read = [("source", source)] + [("table", table)] * (not f["plain"])
    for name, (_, last), size in (
        *((name, words, len(state.wide)) for name, words in read),
        ("target", target, len(state.space(f["space"]))),
    ):
        if last >= size:
            raise FaultError(3, f"{name} word {last} of {size}")
    if f["ranges"] and ranges.token_words(f, o.lanes)[1] >= o.range_words:
        raise FaultError(5, f"ranges word {ranges.token_words(f, o.lanes)[1]} of {o.range_words}")
    if f["space"] != isa.WIDE or (f["plain"] and _in_place(f)):
        return
    for name, words in read:
        if target[0] <= words[1] and words[0] <= target[1]:
            raise FaultError(7, f"target words {target[0]}..{target[1]} meet those of {name}")


def _check_pairs(f: Fields, lanes: int) -> None:
    """Raises FaultError for heads or partners that are not there."""
    head = f["head_blocks"]
    if head == 0 or head & (head - 1) or f["blocks"] % head:
        raise FaultError(2, f"head_blocks = {head} of {f['blocks']} blocks")
    if f["half"] >= head or 1 << f["swap"] >> 1 >= lanes:
        raise FaultError(2, f"half = {f['half']}, swap = {f['swap']}")


def _range(f: Fields, name: str) -> _Range:
    """First and last word."""
    rows, blocks = (f["rows"] - 1) * f[f"{name}_col"], (f["blocks"] - 1) * f[f"{name}_block"]
    return f[name], f[name] + rows + blocks


def _in_place(f: Fields) -> bool:
    """Whether every word is written where it is read, and no two words are the same one."""
    same = all(f[f"source{end}"] == f[f"target{end}"] for end in ("", "_col", "_block"))
    return same and window.distinct(
        (f["source_col"], f["source_block"]), (f["rows"] - 1, f["blocks"] - 1)
    )


UNIT = Unit("rotate", (isa.ROTATE,), golden, clocks, "rotary embedding of the wide buffer")
