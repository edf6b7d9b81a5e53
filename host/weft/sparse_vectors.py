"""Inputs and results of the engines that take compressed weights."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from weft import isa
from weft.config import Overlay
from weft.lower.eie import EieWeights
from weft.state import State
from weft.unit_words import Run, clock_words, fields, need, random_codes, words
from weft.units import eie as engine

_BATCH, _BLOCKS, _TILES, _PAD = 2, 3, 3, -4


def eie(overlay: Overlay, rng: Generator) -> list[Run]:
    """Runs of the EIE engine: codes, int8 weights, nothing but zeros, and a bad codebook."""
    need("eie", overlay, buffer_words=_BATCH * _BLOCKS, eie_pointers=_BLOCKS * overlay.lanes + 2)
    kinds = ((True, 0.5, 0), (False, 0.5, 0), (True, 0, 0), (True, 0.5, 1))
    return [_run(overlay, rng, *kind) for kind in kinds]


def _run(overlay: Overlay, rng: Generator, coded: bool, active: float, zero: int) -> Run:
    """One MatMul; `zero` is what entry 0 of the codebook says, which must be 0."""
    made, lanes = _weights(overlay, rng, coded), overlay.lanes
    rows, ones = made.packed(0, _TILES), ("kernel_h", "kernel_w", "stride_y", "stride_x")
    rows[0, 0] += zero
    values = dict.fromkeys((*ones, "height", "width", "out_h", "out_w", "first", "last"), 1)
    values |= {"blocks": _BLOCKS, "tiles": _TILES, "source_block": 1, "source_sample": _BLOCKS}
    values |= {"engine": isa.ENGINES.index("eie"), "codes": made.codes, "pad": _PAD, "pace": 1}
    f = fields(isa.MAT_MUL, **values, rows=len(rows))
    content = random_codes(rng, _BATCH * _BLOCKS, lanes)
    content[rng.random(content.shape) >= active] = _PAD
    operands = words(_BATCH, isa.MAT_MUL.encode(**f), len(content), content, rows)
    if zero:
        return operands, words(10, 0)
    nothing = np.zeros((0, lanes), np.int8)
    state = State(overlay, nothing, nothing)
    state.buffer[: len(content)] = content
    state.feed(rows)
    sums, clocks = engine.run(state, f, _BATCH)
    counts = clock_words(clocks.matrix, clocks.weight_shift, clocks.drain)
    return operands, np.concatenate([words(0, 0), counts, words(sums)])


def _weights(overlay: Overlay, rng: Generator, coded: bool) -> EieWeights:
    """A fifth of them is not 0."""
    shape, lanes = (_TILES * overlay.lanes - 1, _BLOCKS * overlay.lanes), overlay.lanes
    keep = rng.random(shape) < 0.2
    if not coded:
        values = np.where(keep, random_codes(rng, *shape), np.int8(0))
        return EieWeights(values.astype(np.int8), lanes, overlay.eie_pes)
    book = rng.integers(-(1 << 15), 1 << 15, 16).astype(np.int16)
    book[0] = 0
    codes = np.where(keep, rng.integers(0, 16, shape), 0).astype(np.uint8)
    return EieWeights(codes, lanes, overlay.eie_pes, book)
