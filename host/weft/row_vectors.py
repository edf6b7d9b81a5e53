"""Inputs of Norm and Rotate for their test benches, and what the golden models make of them."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from weft import isa
from weft.config import Overlay
from weft.state import State
from weft.unit_words import Run, Words, clock_words, fields, need, words
from weft.units import normalize, requant, rotate

UNITS = ("requant", "vector", "lookup")
NORM_PARTS = {"units": (*UNITS, "norm"), "norm": ("pwl", "ibert")}
ROTATE_PARTS = {"units": (*UNITS, "rotate")}
_ROWS, _BLOCKS = 5, 2
_WORDS = _ROWS * _BLOCKS
_AT = {"source_col": 1, "source_block": _ROWS, "target_col": 1, "target_block": _ROWS}


def norm(overlay: Overlay, rng: Generator) -> list[Run]:
    """LayerNorm and RMSNorm by each method, with and without the result kept."""
    need("norm", overlay, wide_words=_WORDS, buffer_words=_WORDS, parameter_blocks=_BLOCKS)
    elements = _BLOCKS * overlay.lanes - 1
    runs = []
    for number in range(4 * len(overlay.norm)):
        method, kind = divmod(number, 4)
        sizes = {"rows": _ROWS, "blocks": _BLOCKS, "elements": elements, "method": method}
        ends = {"zero_point": 3, "low": -100, "high": 120, "epsilon_low": 1000}
        f = fields(isa.NORM, **_AT, **sizes, **ends, rms=kind & 1, keep=kind >> 1)
        state, x = _state(overlay, rng, _WORDS)
        q, s = requant.encode(2.0 ** rng.uniform(-8, -4, elements), "single_round")
        gamma, beta = rng.integers(-9000, 9000, elements), rng.integers(-90000, 90000, elements)
        shift = rng.integers(4, 12, elements)
        blocks = requant.pack_parameters(beta, gamma, shift, q, s, overlay.lanes)
        blocks = blocks.reshape(_BLOCKS, -1, overlay.lanes)
        state.parameters[:_BLOCKS] = blocks
        normalize.golden(state, f, 1)
        given = words(isa.NORM.encode(**f), _BLOCKS, blocks, _WORDS, x, _WORDS)
        clocks = normalize.clocks(f, overlay, 1, {}).vector
        runs.append((given, _results(state, clocks, _WORDS, _WORDS)))
    return runs


def turn(overlay: Overlay, rng: Generator) -> list[Run]:
    """Neighbours and halves of heads turned, and plain requantization to either buffer."""
    table = 2 * _BLOCKS
    count = _WORDS + _ROWS * table  # of the wide buffer, the angles included
    need("rotate", overlay, wide_words=count + _WORDS, buffer_words=_WORDS)
    turned = {"table": _WORDS, "table_col": table, "head_blocks": _BLOCKS}
    runs = []
    for case in (
        {**turned, "swap": 1},
        {**turned, "half": 1},
        {"plain": 1},
        {"plain": 1, "space": isa.WIDE, "target": count, "shift": -14},
    ):
        own = {"multiplier": 1 << 30, "shift": -22, "rows": _ROWS, "blocks": _BLOCKS, **case}
        f = fields(isa.ROTATE, **_AT, **own)
        state, x = _state(overlay, rng, count + _WORDS)
        rotate.golden(state, f, 1)
        codes = 0 if f["space"] == isa.WIDE else _WORDS
        given = words(isa.ROTATE.encode(**f), count + _WORDS, x, codes)
        clocks = rotate.clocks(f, overlay, 1, {}).vector
        runs.append((given, _results(state, clocks, codes, count + _WORDS)))
    return runs


def _state(overlay: Overlay, rng: Generator, count: int) -> tuple[State, NDArray[np.int16]]:
    """A device whose first words of the wide buffer are random, and those words."""
    nothing = np.zeros((0, overlay.lanes), np.int8)
    state = State(overlay, nothing, nothing)
    x = rng.integers(-(1 << 15), 1 << 15, (count, overlay.lanes)).astype(np.int16)
    x[0], x[-1] = 32767, -32768
    state.wide[:count] = x
    return state, x


def _results(state: State, clocks: int, codes: int, count: int) -> Words:
    return np.concatenate(
        [clock_words(clocks), words(state.buffer[:codes]), words(state.wide[:count])]
    )
