"""Inputs of Norm, Rotate and Attend for their test benches, and what golden makes of them."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from weft import isa
from weft.config import Overlay
from weft.state import State
from weft.unit_words import Run, Words, clock_words, fields, need, random_codes, words
from weft.units import activate, attention, normalize, requant, rotate

UNITS = ("requant", "vector", "lookup")
NORM_PARTS = {"units": (*UNITS, "norm"), "norm": ("pwl", "ibert")}
ROTATE_PARTS = {"units": (*UNITS, "attention", "rotate", "token_ranges")}
ATTENTION_PARTS = {**ROTATE_PARTS, "softmax": ("pwl", "dlc")}
# Groups of two words of the operand buffer for engine matvec.
ATTENTION_SETTINGS = {"stream_rows": "2", "weight_ports": "2"}
ATTENTION_SETTINGS |= {"wide_words": "64", "operand_words": "64"}
_KINDS = ("plain", "shares", "ranged")  # of exponentials
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
    """Neighbours and halves of heads turned, plain requantization to either buffer, and codes of
    the ranges of tokens, which begin inside a word.
    """
    table = 2 * _BLOCKS
    count = _WORDS + _ROWS * table  # of the wide buffer, the angles included
    words_of_ranges = 2 + _ROWS // overlay.lanes
    need(
        "rotate", overlay, wide_words=count + _WORDS, buffer_words=_WORDS,
        operand_words=words_of_ranges * overlay.lanes,
    )  # fmt: skip
    turned = {"table": _WORDS, "table_col": table, "head_blocks": _BLOCKS}
    runs = []
    for case in (
        {**turned, "swap": 1},
        {**turned, "half": 1},
        {"plain": 1},
        {"plain": 1, "space": isa.WIDE, "target": count, "shift": -14},
        {**turned, "swap": 1, "ranges": 1, "range_first": overlay.lanes - 1},
        {"plain": 1, "ranges": 1, "range_first": 1},
    ):
        own = {"multiplier": 1 << 30, "shift": -22, "rows": _ROWS, "blocks": _BLOCKS, **case}
        f = fields(isa.ROTATE, **_AT, **own)
        state, x = _state(overlay, rng, count + _WORDS)
        before = _magnitudes(state, rng, words_of_ranges)
        rotate.golden(state, f, 1)
        codes = 0 if f["space"] == isa.WIDE else _WORDS
        given = words(isa.ROTATE.encode(**f), count + _WORDS, x, words_of_ranges, before, codes)
        clocks = rotate.clocks(f, overlay, 1, {}).vector
        results = _results(state, clocks, codes, count + _WORDS)
        after = words(state.token_ranges[:words_of_ranges])
        runs.append((given, np.concatenate([results, after])))
    return runs


def attend(overlay: Overlay, rng: Generator) -> list[Run]:
    """A masked head on the array and on engine matvec, by each method; as probabilities, and with
    ranges of tokens, too.
    """
    queries, tiles, width = 3, 2, 2  # of keys, of channels: in words
    keys, length = tiles * overlay.lanes, queries * width
    need(
        "attention", overlay, operand_words=2 * width * keys, wide_words=queries * tiles,
        buffer_words=2 * length, parameter_blocks=2,
    )  # fmt: skip
    runs = []
    for case in range(2 * len(_KINDS) * len(overlay.softmax)):
        state, _ = _state(overlay, rng, 1)
        ranges = _magnitudes(state, rng, 2 * tiles)
        state.buffer[:length] = random_codes(rng, length, overlay.lanes)
        state.operands[: 2 * width * keys] = random_codes(rng, 2 * width * keys, overlay.lanes)
        for block, scale in enumerate((0.1, 2.0**-16)):
            q, s = requant.encode(np.full(overlay.lanes, scale), "single_round")
            none = np.zeros(overlay.lanes, np.int32)
            state.parameters[block] = requant.pack_parameters(none, q, s, q, s, overlay.lanes)
        tables = words(2, state.parameters[:2], length, state.buffer[:length])
        given = [tables, words(2 * width * keys, state.operands[: 2 * width * keys])]
        given.append(words(2 * tiles, ranges, 2))
        counted = dict.fromkeys(("matrix", "weight_shift", "drain", "vector"), 0)
        for f, a in _head(queries, tiles, width, overlay.lanes, case):
            given.append(words(isa.ATTEND.encode(**f), isa.ACTIVATE.encode(**a)))
            attention.golden(state, f, 1)
            activate.golden(state, a, 1)
            taken = attention.clocks(f, overlay, 1, {})
            counted = {name: count + getattr(taken, name) for name, count in counted.items()}
        given.append(words(2 * length))
        results = clock_words(*counted.values()), words(state.buffer[: 2 * length])
        runs.append((np.concatenate(given), np.concatenate(results)))
    return runs


def _head(
    queries: int, tiles: int, width: int, lanes: int, case: int
) -> list[tuple[dict[str, int], dict[str, int]]]:
    """Attend and Activate of a head's scores and of its results; what `case` varies."""
    method, kind = divmod(case // 2, len(_KINDS))
    on_matvec, shares, ranged = case & 1, int(_KINDS[kind] == "shares"), _KINDS[kind] == "ranged"
    keys = tiles * lanes
    both = {"source_block": queries, "source_col": 1, "rows": queries, "operand_block": keys}
    both |= {"overlap": 1, "matvec": on_matvec}
    to = {"target_block": queries, "target_col": 1}
    scores = fields(isa.ATTEND, **both, blocks=width, tiles=tiles, transposed=1)
    more = {"space": isa.WIDE, "maximum": 1, "keys": keys - 1, "left": -keys, "right": lanes}
    values = {"scores": 1, "method": method, "most": 127, "normalized": shares}
    if ranged:  # magnitudes of keys, then of values
        more |= {"normalize": isa.BY_TOKEN}
        values |= {"ranged": 1, "ranges": tiles, "range_shift": 20}
    done = {"normalize": 1 - shares, "parameter": 1, "low": -128, "high": 127}
    return [
        (scores, fields(isa.ACTIVATE, **to, **more)),
        (
            fields(isa.ATTEND, **both, **values, blocks=tiles, tiles=width, operand=width * keys),
            fields(isa.ACTIVATE, **to, **done, target=queries * width),
        ),
    ]


def _state(overlay: Overlay, rng: Generator, count: int) -> tuple[State, NDArray[np.int16]]:
    """A device whose first words of the wide buffer are random, and those words."""
    nothing = np.zeros((0, overlay.lanes), np.int8)
    state = State(overlay, nothing, nothing)
    x = rng.integers(-(1 << 15), 1 << 15, (count, overlay.lanes)).astype(np.int16)
    x[0], x[-1] = 32767, -32768
    state.wide[:count] = x
    return state, x


def _magnitudes(state: State, rng: Generator, count: int) -> NDArray[np.int16]:
    """Random words of the ranges of tokens, from the first on; a copy of them."""
    state.token_ranges[:count] = rng.integers(-3, 1 << 13, (count, state.overlay.lanes))
    return state.token_ranges[:count].copy()


def _results(state: State, clocks: int, codes: int, count: int) -> Words:
    return np.concatenate(
        [clock_words(clocks), words(state.buffer[:codes]), words(state.wide[:count])]
    )
