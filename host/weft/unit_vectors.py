"""Inputs of single hardware units as 32-bit words, and what the golden models make of them.

The order of the words is what the head of each hls/templates/units/<unit>.cpp says.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from weft import isa
from weft.config import Overlay
from weft.port_vectors import MEMORY_ROWS, SHIFT_KINDS, cells, decode, memory
from weft.row_vectors import (
    ATTENTION_PARTS,
    ATTENTION_SETTINGS,
    NORM_PARTS,
    ROTATE_PARTS,
    attend,
    norm,
    turn,
)
from weft.sparse_vectors import eie
from weft.state import State, Sums
from weft.unit_words import ExportUnit, Run, Words, clock_words, fields, need, random_codes, words
from weft.units import activate, requant, systolic, transfer, vector, window

_EDGES = np.array([-(1 << 31), -(1 << 24) - 1, -1, 0, 1, 3, 1 << 24, (1 << 31) - 1], np.int32)
_SIZE = {"height": 3, "width": 4, "out_h": 3, "out_w": 4, "blocks": 2}
_MAP, _BATCH = 24, 2  # words of a sample of that size, samples


def _multiplier(overlay: Overlay, rng: Generator) -> list[Run]:
    edges = np.array([-128, -127, -1, 0, 1, 127])
    grid = np.stack(np.meshgrid(edges, edges, edges), -1).reshape(-1, 3)
    a, low, high = np.concatenate([grid, rng.integers(-128, 128, (300, 3))]).T
    operands = (a & 255) | (low & 255) << 8 | (high & 255) << 16
    results = (a * low & 0xFFFF) | (a * high & 0xFFFF) << 16
    return [(words(len(a), operands), words(results))]


def _requant(overlay: Overlay, rng: Generator) -> list[Run]:
    runs = []
    for number, mode in enumerate(isa.MODES):
        scale = 2.0 ** rng.uniform(-20, 2, 300) * rng.choice([-1, 1], 300)
        scale[::3] = 2.0 ** rng.integers(-16, 3, 100)  # make ties
        x = rng.integers(-(1 << 20), 1 << 20, 300)
        x[:64] = np.repeat(_EDGES, 8)
        q, s = requant.encode(scale, mode)
        y = requant.requantize(x, q, s, mode)
        triples = np.stack([x, q, s.astype(np.int64)], 1)
        runs.append((words(number, len(x), triples), words(y)))
    return runs


def _activate(overlay: Overlay, rng: Generator) -> list[Run]:
    count = min(24, overlay.buffer_words)
    runs = []
    for number in (*range(len(isa.MODES)), isa.RAW_BYTE + 1):
        state, f = _epilogue(overlay, rng, number, target_col=1)
        sums = rng.integers(-(1 << 20), 1 << 20, (1, count, overlay.lanes)).astype(np.int32)
        sums[0, :8] = _EDGES[:count, None]
        state.sums, state.pending = Sums(sums, 1, count, ()), True
        tables = _tables(state, f)
        activate.golden(state, f, 1)
        operands = words(isa.ACTIVATE.encode(**f), *tables, count, sums)
        runs.append((operands, words(state.buffer[:count])))
    return runs


def _epilogue(
    overlay: Overlay, rng: Generator, mode: int, **where: int
) -> tuple[State, dict[str, int]]:
    """A state with random tables, and an Activate that uses them."""
    nothing = np.zeros((0, overlay.lanes), np.int8)
    state = State(overlay, nothing, nothing)
    state.parameters[0] = _parameters(overlay, rng, mode)
    state.lookup[:] = random_codes(rng, *state.lookup.shape)
    clamp = {"zero_point": 5 * mode - 3, "low": -120 + mode, "high": 127 - mode}
    f = fields(isa.ACTIVATE, mode=mode, lookup=mode % 2, **clamp, **where)
    return state, f


def _parameters(overlay: Overlay, rng: Generator, mode: int) -> NDArray[np.int8]:
    """A random parameter block, as byte planes."""
    name, lanes = isa.MODES[min(mode, len(isa.MODES) - 1)], overlay.lanes
    scale = 2.0 ** rng.uniform(-14, -6, lanes)
    below = requant.encode(scale * rng.choice([1, 0.1, -0.25], lanes), name)
    bias = rng.integers(-(1 << 14), 1 << 14, lanes)
    rows = requant.pack_parameters(bias, *requant.encode(scale, name), *below, lanes)
    block: NDArray[np.int8] = requant.legal_shifts(rows[None])[0]
    return block


def _tables(state: State, f: Mapping[str, int]) -> list[NDArray[np.int8]]:
    """The tables that an Activate needs, in the order in which the units take them."""
    return [state.parameters[0], *([state.lookup] if f["lookup"] else [])]


def _systolic(overlay: Overlay, rng: Generator) -> list[Run]:
    runs = []
    for rows, folds in ((1, 2), (overlay.rows + 3, 3)):
        weights = random_codes(rng, folds, overlay.rows, overlay.cols)
        x = random_codes(rng, folds, rows, overlay.rows)
        if rows == 1:
            weights[0], x[0] = -128, -128
        sums = x.astype(np.int32) @ weights.astype(np.int32)
        parts = [part for fold in range(folds) for part in (weights[fold], x[fold])]
        runs.append((words(folds, rows, *parts), words(sums)))
    return runs


def _window(overlay: Overlay, rng: Generator) -> list[Run]:
    runs = []
    for number in range(4):
        sizes = dict(zip(("height", "width", "kernel_h", "kernel_w"), (5, 4, 3, 2), strict=True))
        steps = {name: int(rng.integers(1, 4)) for name in ("stride_y", "stride_x")}
        steps |= dict.fromkeys(("dilation_y", "dilation_x"), 1 + number % 2)
        pads = {"pad_y": number - 1, "pad_x": number}
        strides = {"source_sample": 40, "source_block": 20, "source_row": 4, "source_col": 1}
        more = {"out_h": 3, "out_w": 4, "blocks": 2, "source": 7 * number, "tiles": 1}
        plain = systolic.plain(overlay)
        f = fields(isa.MAT_MUL, **sizes, **steps, **pads, **strides, **more, **plain)
        address, inside = window.walk(f, _BATCH)
        every = [np.where(inside, address + 20 * block, -1) for block in range(2)]
        runs.append((words(_BATCH, isa.MAT_MUL.encode(**f)), words(np.stack(every, 1))))
    return runs


def _vector(overlay: Overlay, rng: Generator) -> list[Run]:
    length = _BATCH * _MAP
    need("vector", overlay, buffer_words=3 * length)
    at = {"sample": _MAP, "block": 12, "row": 4, "col": 1}
    runs = []
    for operation in range(len(isa.OPERATIONS)):
        two = operation in (vector.ADD, vector.MUL)
        shape = (
            {"kernel_h": 1, "kernel_w": 1} if two else {"kernel_h": 2, "kernel_w": 2, "pad_y": 1}
        )
        steps = dict.fromkeys(("stride_y", "stride_x", "dilation_y", "dilation_x"), 1)
        numbers = {"zero": 3, "second_zero": -7, "scale": 12345, "second_scale": -321}
        places = {
            f"{name}_{key}": step for name in ("source", "second") for key, step in at.items()
        }
        more = {"operation": operation, "second": length, **numbers, **places}
        f = fields(isa.VECTOR, **_SIZE, **shape, **steps, **more)
        target = {f"target_{key}": step for key, step in at.items()}
        state, a = _epilogue(overlay, rng, operation % 3, target=2 * length, **target)
        taps, content = (
            random_codes(rng, 8, overlay.lanes),
            random_codes(rng, 2 * length, overlay.lanes),
        )
        state.taps[:8], state.buffer[: 2 * length] = taps, content
        tables = _tables(state, a)
        vector.golden(state, f, _BATCH)
        activate.golden(state, a, _BATCH)
        operands = words(_BATCH, isa.VECTOR.encode(**f), isa.ACTIVATE.encode(**a), *tables)
        rest = words(8, taps, 2 * length, content, 2 * length, length)
        results = words(state.buffer[2 * length : 3 * length])
        runs.append((np.concatenate([operands, rest]), results))
    return runs


def _matmul(overlay: Overlay, rng: Generator) -> list[Run]:
    need("matmul", overlay, buffer_words=4 * _MAP, accumulator_rows=_BATCH * 12)
    ones = dict.fromkeys(("kernel_h", "kernel_w", "stride_y", "stride_x"), 1)
    ones |= dict.fromkeys(("dilation_y", "dilation_x", "first", "last", "overlap"), 1)
    same = {**ones, **_SIZE, "tiles": min(2, overlay.parameter_blocks)}
    window_of = {"kernel_h": 3, "kernel_w": 2, "pad_y": 1, "pad_x": 1, "pad": -5}
    window_of |= {"stride_x": 2, "dilation_x": 3}
    dense = {**same, "out_h": 1, "out_w": 1, "tiles": 1}  # fewer rows than a tile has
    cases: tuple[tuple[int, dict[str, int]], ...] = (
        (_BATCH, {**same, **window_of}),
        (_BATCH, {**same, **window_of, "overlap": 0}),
        (_BATCH, same),
        (1, {**dense, "last": 0}),
        (1, {**dense, "first": 0}),  # goes on from the one before
        (1, {**dense, "overlap": 0}),
    )
    runs: list[Run] = []
    before = None
    for number, (batch, values) in enumerate(cases):
        target = {"target_sample": 12, "target_block": _MAP, "target_row": 4, "target_col": 1}
        more = {"target": 2 * _MAP, "parameter_step": 1}
        state, a = _epilogue(overlay, rng, number % 3, **target, **more)
        for block in range(1, values["tiles"]):
            state.parameters[block] = _parameters(overlay, rng, number % 3)
        if before is not None:
            state.partial, state.open_rows = before.partial, before.open_rows
        steps = {"source_sample": _MAP, "source_block": 12, "source_row": 4, "source_col": 1}
        f = fields(isa.MAT_MUL, **values, **steps, **systolic.plain(overlay))
        runs.append(_multiplied(state, f, a, batch, rng))
        before = state
    return runs


def _multiplied(
    state: State, f: dict[str, int], a: dict[str, int], batch: int, rng: Generator
) -> Run:
    """One MatMul with its Activate on random codes; without overlap on the extreme ones."""
    lanes, length = state.overlay.lanes, 4 * _MAP
    rows = f["tiles"] * f["blocks"] * window.taps(f) * lanes
    content, weights = random_codes(rng, length, lanes), random_codes(rng, rows, lanes)
    if not f["overlap"]:
        content[:_MAP], weights[::2] = -128, -128
    state.buffer[:length] = content
    state.feed(weights)
    blocks = state.parameters[: f["tiles"]].copy()
    lookup = [state.lookup] if a["lookup"] else []
    systolic.golden(state, f, batch)
    if f["last"]:
        activate.golden(state, a, batch)
    head = words(batch, isa.MAT_MUL.encode(**f), isa.ACTIVATE.encode(**a))
    tables = words(len(blocks), blocks, *lookup, length, content)
    operands = np.concatenate([head, tables, words(rows, weights, 0, length)])
    clocks = systolic.clocks(f, state.overlay, batch, {})
    counted = clock_words(clocks.matrix, clocks.weight_shift, clocks.drain)
    return operands, np.concatenate([counted, words(state.buffer[:length])])


def _transfer(overlay: Overlay, rng: Generator) -> list[Run]:
    span = 64
    need("transfer", overlay, buffer_words=span)
    nothing = np.zeros((0, overlay.lanes), np.int8)
    state = State(overlay, nothing, nothing)
    chunks = {"chunks": 3, "words": 5, "memory_step": 5, "memory_sample": 15}
    places = {"buffer_step": 7, "buffer_sample": 24}
    everything = {"chunks": 1, "words": span}
    sizes = (overlay.parameter_blocks, overlay.tap_words, isa.LOOKUP_ENTRIES)
    runs = []
    for batch, written in ((_BATCH, {**chunks, **places, "buffer": 9}), (1, everything)):
        commands = [(isa.READ_HOST, {**chunks, **places, "buffer": 3 * batch})]
        for target, size in enumerate(sizes):  # the upper half, then the lower one
            index = size // 2 if batch > 1 else 0
            count = min(40, size - size // 2)
            commands.append((isa.SET_TABLE, {"target": target, "index": index, "count": count}))
        commands.append((isa.WRITE_HOST, written))
        operands, results, table, moved = [words(batch, len(commands))], [], 0, 0
        for kind, values in commands:
            f = fields(kind, **values)
            taken, given = _transferred(state, kind, f, batch, rng)
            operands.append(words(kind.encode(**f), taken))
            results.append(words(given))
            clocks = transfer.clocks(f, overlay, batch, {})
            table, moved = table + clocks.table, moved + clocks.transfer
        results += [clock_words(table, moved), _all_tables(state)]
        runs.append((np.concatenate(operands), np.concatenate(results)))
    return runs


def _transferred(
    state: State, kind: isa.Instruction, f: dict[str, int], batch: int, rng: Generator
) -> tuple[NDArray[np.int8], NDArray[np.int8]]:
    """Rows that an instruction takes from a stream, and those that it gives to one."""
    nothing = np.zeros((0, state.overlay.lanes), np.int8)
    if kind is isa.SET_TABLE:
        rows = random_codes(rng, transfer.table_rows(f, state.overlay.lanes), state.overlay.lanes)
        state.feed(rows)
        transfer.golden(state, f, batch)
        return rows, nothing
    # Chunks lie in memory without gaps, so that its rows are the stream.
    state.memory = random_codes(rng, transfer.rows_moved(f, batch), state.overlay.lanes)
    state.begin()
    if kind is isa.READ_HOST:
        transfer.golden_read(state, f, batch)
        return state.memory, nothing
    transfer.golden_write(state, f, batch)
    return nothing, state.memory


def _all_tables(state: State) -> Words:
    """Parameter blocks as five rows of numbers each, taps, lookup."""
    blocks = [row for planes in state.parameters for row in requant.unpack_parameters(planes)]
    return words(*(np.asarray(row, np.int64) for row in blocks), state.taps, state.lookup)


EXPORTS: dict[str, ExportUnit] = {
    unit.name: unit
    for unit in (
        ExportUnit("multiplier", "Products of int8, one or two from a DSP", _multiplier),
        ExportUnit("requant", "Requantization in its three modes", _requant),
        ExportUnit("activate", "The epilogue of MatMul and Vector", _activate),
        ExportUnit("systolic", "The weight-stationary systolic array", _systolic),
        ExportUnit("window", "Addresses of a convolution's window", _window),
        ExportUnit("vector", "The vector unit with its epilogue", _vector),
        ExportUnit("matmul", "A whole MatMul: schedule, array, accumulators, drain", _matmul),
        ExportUnit("transfer", "Transfers and tables: streams to memories and back", _transfer),
        ExportUnit(
            "memory",
            "Memory ports: rows to a stream and back",
            memory,
            MEMORY_ROWS,
            {"rows": "8"},  # two beats
        ),
        ExportUnit(
            "decode",
            "The decoder of weights in every format",
            decode,
            settings={"rows": "8", "weight_bits": "16"},
            formats=True,
        ),
        ExportUnit("fusion", "BitFusion's cells: 16 bricks of two bits", cells("fusion", range(4))),
        ExportUnit("shift", "ANT's cells: multipliers and shifters", cells("shift", SHIFT_KINDS)),
        ExportUnit("binary", "Cells for binary and ternary weights", cells("binary", (0, 1))),
        ExportUnit(
            "eie",
            "The EIE engine: sparse weights times sparse activations",
            eie,
            settings={"eie_pes": "8", "eie_entries": "256", "eie_pointers": "66"},
            engines=("systolic", "eie"),
        ),
        ExportUnit(
            "attention",
            "Attention of a head: scores, exponentials, results",
            attend,
            settings=ATTENTION_SETTINGS,
            engines=("systolic", "matvec"),
            parts=ATTENTION_PARTS,
        ),
        ExportUnit(
            "norm",
            "LayerNorm and RMSNorm of int16 rows",
            norm,
            settings={"wide_words": "64"},
            parts=NORM_PARTS,
        ),
        ExportUnit(
            "rotate",
            "Rotary embedding of int16 rows",
            turn,
            settings={"wide_words": "64", "operand_words": "64"},
            parts=ROTATE_PARTS,
        ),
    )
}
