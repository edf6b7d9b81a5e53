"""Inputs and results of the units at the edges of the array: memory ports, decoder, and cells."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.random import Generator

from weft import isa, tiles
from weft.config import Overlay
from weft.engine import Engine, weight_rows
from weft.formats import BY_NUMBER
from weft.state import State
from weft.unit_words import Run, Words, fields, need, random_codes, words
from weft.units import decode as decoder
from weft.units import systolic, transfer

MEMORY_ROWS = 64
SHIFT_KINDS = [a | w << 4 for a in range(len(isa.TERMS)) for w in range(len(isa.TERMS))]
_GROUP = 16  # rows of a tile that share a scale


def memory(overlay: Overlay, rng: Generator) -> list[Run]:
    """ReadHost and WriteHost in turns: with gaps between chunks, all of memory, single rows."""
    lanes = overlay.lanes
    runs = []
    for batch, chunks, count in ((2, 3, 4), (1, 1, MEMORY_ROWS), (3, 1, 1)):
        content = random_codes(rng, MEMORY_ROWS, lanes)
        stored = content.copy()
        steps = {"memory_step": count + 1, "memory_sample": 20}
        sizes = {"chunks": chunks, "words": count}
        # The stream's order is the buffer's, so that transfers show what passes.
        order = {"buffer_step": count, "buffer_sample": chunks * count}
        moved = batch * chunks * count
        # A buffer for all of it, as the unit itself has none.
        state = State(
            replace(overlay, buffer_words=max(64, overlay.buffer_words)), content, content
        )
        operands, results = [words(content, batch, 4)], list[Words]()
        for kind in (isa.READ_HOST, isa.WRITE_HOST) * 2:
            f = fields(kind, **sizes, **steps, **order, memory=(3 + len(results)) * (batch > 1))
            operands.append(words(kind.encode(**f)))
            if kind is isa.READ_HOST:
                state.memory = content
                state.begin()
                transfer.golden_read(state, f, batch)
                results.append(words(state.buffer[:moved]))
            else:
                state.buffer[:moved] = rows = random_codes(rng, moved, lanes)
                state.memory = stored
                state.begin()
                transfer.golden_write(state, f, batch)
                operands.append(words(rows))
        results.append(words(stored))
        runs.append((np.concatenate(operands), np.concatenate(results)))
    return runs


def decode(overlay: Overlay, rng: Generator) -> list[Run]:
    """Whatever bytes, in each format that the array's operands can hold."""
    need("decode", overlay, rows=8)
    operands, results, lanes = [], [], overlay.lanes
    for number, fmt in sorted(BY_NUMBER.items()):
        wide = overlay.weight_bits == 16
        if fmt.name not in overlay.formats or not (wide or fmt.operand == "int8"):
            continue
        group = _GROUP if wide and fmt.record != "none" else 0
        zeros = bool(group) and fmt.record == "multiplier"
        shape = (lanes, 2, max(lanes, 2 * _GROUP))  # outputs, taps, input channels
        size = tiles.stored_rows(shape, fmt, lanes, group, zeros)
        sizes = {"rows": shape[1] * shape[2], "memory_rows": size if number else 2 * shape[2]}
        runs = {"runs": shape[1], "blocks": shape[2] // lanes}
        more = {"group": group.bit_length() - 1 if group else 0, "zeros": int(zeros)}
        f = fields(isa.READ_WEIGHTS, format=number, **sizes, **runs, **more)
        stored = random_codes(rng, f["memory_rows"], lanes)
        state = State(overlay, stored[:0], stored)
        decoder.golden(state, f, 1)
        operands.append(words(isa.READ_WEIGHTS.encode(**f), stored))
        results.append(words(state.stream[0][0].astype(np.int32)))
    return [(np.concatenate([words(len(operands)), *operands]), np.concatenate(results))]


def cells(engine: str, codes: Sequence[int]) -> Callable[[Overlay, Generator], list[Run]]:
    """Runs of a row of an engine's cells: every precision that it takes, with each of `codes`."""

    def runs(overlay: Overlay, rng: Generator) -> list[Run]:
        precisions = itertools.product((1, 2, 4, 8), (1, 2, 4, 8), (1, 2, 4), codes)
        made = []
        for a, w, count, kinds in precisions:
            sizes = {"activation_bits": a, "weight_bits": w, "words": count, "codes": kinds}
            f = fields(isa.MAT_MUL, engine=isa.ENGINES.index(engine), **sizes)
            if systolic.ENGINES[engine].legal(f, overlay):
                made.append(_row_of_cells(systolic.ENGINES[engine], f, overlay, rng))
        return made

    return runs


def _row_of_cells(engine: Engine, f: dict[str, int], overlay: Overlay, rng: Generator) -> Run:
    """Some rows of random bytes, the extreme ones first; wraps as sums of 32 bits do."""
    lanes, count, rows = overlay.lanes, 12, weight_rows(f)
    x, w = random_codes(rng, count, 4, lanes), random_codes(rng, count, 4, lanes)
    for number, byte in enumerate((-128, -1, 0, 127)):
        x[number], w[number] = byte, np.resize([byte, -128], lanes)
    x[:, f["words"] :], w[:, rows:] = 0, 0
    above = rng.integers(-(1 << 31), 1 << 31, (count, lanes))
    numbers = engine.activations(
        x[:, None, : f["words"]].view(np.uint8), f
    )  # [.., lanes, products]
    factors = engine.weights(w[:, None, None, :rows].astype(np.int16), f)  # [.., products, columns]
    sums = above + np.einsum("icj,ijc->ic", numbers[:, 0], factors[:, 0, 0])
    each = [part for i in range(count) for part in (above[i], x[i], w[i])]
    return words(isa.MAT_MUL.encode(**f), count, *each), words(sums)
