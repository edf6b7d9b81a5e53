"""What moves data: ReadHost, WriteHost, SetTable."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from weft import isa
from weft.config import TABLE_METHOD, Overlay
from weft.state import ISSUE_CLOCKS, Clocks, FaultError, Fields, State, Unit
from weft.units import packed_cache, requant, root
from weft.units.exponential import TABLE_WORDS, TableExponential

PARAMETERS, TAPS, LOOKUP, SOFTMAX, NORM, WIDE, OPERANDS = range(len(isa.TABLES))
_ROW_UNITS = {
    SOFTMAX: ("attention", "softmax", TABLE_WORDS),
    NORM: ("norm", "norm", root.TABLE_WORDS),
}
_ROWS = {PARAMETERS: isa.PARAMETER_ROWS, WIDE: 2}


def table_rows(f: Fields, lanes: int) -> int:
    """Weight-stream rows that a SetTable takes."""
    if f["target"] in (SOFTMAX, NORM):
        return -(-f["count"] * 4 // lanes)
    if f["target"] == OPERANDS:
        return f["count"] * f["runs"]
    return f["count"] * _ROWS.get(f["target"], 1)


def stream_rows(f: Fields, overlay: Overlay) -> int:
    """The same, also of packed groups."""
    if f["target"] == OPERANDS and f["bits"]:
        return packed_cache.stream_rows(f, overlay)
    return table_rows(f, overlay.lanes)


def rows_moved(f: Fields, batch: int) -> int:
    """Memory rows that ReadHost or WriteHost moves."""
    return batch * f["chunks"] * f["words"] * rows_per_word(f)


def rows_per_word(f: Fields) -> int:
    """Memory rows of a word: two of int16, low bytes first."""
    return 2 if f["space"] in (isa.WIDE, isa.RANGES) else 1


def clocks(f: Fields, overlay: Overlay, batch: int, before: Fields) -> Clocks:
    """A row takes `beats` clocks; of keys and values as many come at once as there are ports."""
    if "chunks" in f:
        return Clocks(ISSUE_CLOCKS, transfer=rows_moved(f, batch) * overlay.beats)
    if f["target"] == OPERANDS and f.get("bits"):
        return Clocks(ISSUE_CLOCKS, table=packed_cache.load_clocks(f, overlay))
    if f["target"] == OPERANDS:
        elements = table_rows(f, overlay.lanes) // overlay.stream_rows
        return Clocks(ISSUE_CLOCKS, table=elements * element_clocks(overlay))
    return Clocks(ISSUE_CLOCKS, table=table_rows(f, overlay.lanes) * overlay.beats)


def element_clocks(overlay: Overlay) -> int:
    """Clocks of an element of the stream on its way to the operand buffer: as long as the ports
    take to bring it, or its words to be written.
    """
    arriving = overlay.stream_rows * overlay.beats // overlay.weight_ports
    return max(arriving, overlay.stream_rows // overlay.operand_group)


def golden(state: State, f: Fields, batch: int) -> None:
    """SetTable."""
    if f["target"] == OPERANDS:
        _set_operands(state, f)
        return
    if f["target"] in (SOFTMAX, NORM):
        _set_methods(state, f)
        return
    known = f["target"] in (PARAMETERS, TAPS, LOOKUP) or (f["target"] == WIDE and len(state.wide))
    if not known or f["count"] == 0:
        raise FaultError(2, f"target = {f['target']}, count = {f['count']}")
    tables = {PARAMETERS: state.parameters, TAPS: state.taps, LOOKUP: state.lookup}
    table = tables.get(f["target"], state.wide)
    end = f["index"] + f["count"]
    if end > len(table):
        raise FaultError(5, f"{isa.TABLES[f['target']]} entry {end - 1} of {len(table)}")
    rows = state.take(table_rows(f, state.overlay.lanes)).astype(np.int8)
    if f["target"] == WIDE:
        table[f["index"] : end] = joined(rows)
        return
    rows = rows.reshape((f["count"], *table.shape[1:]))
    if f["target"] == PARAMETERS:
        rows = requant.legal_shifts(rows)
    table[f["index"] : end] = rows


def _set_operands(state: State, f: Fields) -> None:
    """Keys or values: runs of words of the operand buffer."""
    o, (count, runs) = state.overlay, (f["count"], f["runs"])
    whole = not count % o.stream_rows and not (f["index"] | f["step"]) % o.operand_group
    if f["bits"]:
        packed_cache.check_bits(o, f["bits"])
        whole = whole and not count % packed_cache.GROUP
    if not o.cached or not 0 < count * runs <= len(state.operands) or not whole:
        raise FaultError(2, f"target = {OPERANDS}, " + ", ".join(
            f"{name} = {f[name]}" for name in ("index", "count", "runs", "step")
        ))  # fmt: skip
    end = f["index"] + (runs - 1) * f["step"] + count
    if end > len(state.operands):
        raise FaultError(5, f"operands entry {end - 1} of {len(state.operands)}")
    if f["bits"]:
        packed_cache.load(state, f)
        return
    rows = state.take(count * runs, True).astype(np.int8)
    for run, words in enumerate(rows.reshape(runs, count, -1)):
        first = f["index"] + run * f["step"]
        state.operands[first : first + count] = words


def _set_methods(state: State, f: Fields) -> None:
    """Tables of a row unit, all of them at once."""
    o = state.overlay
    unit, methods, size = _ROW_UNITS[f["target"]]
    there = unit in o.units and TABLE_METHOD in getattr(o, methods)
    if not there or f["count"] != size or f["index"]:
        raise FaultError(2, f"target = {f['target']}, count = {f['count']}, index = {f['index']}")
    rows = np.ascontiguousarray(state.take(table_rows(f, o.lanes)).astype(np.int8))
    words = rows.reshape(-1).view("<i4")[: f["count"]].tolist()
    if f["target"] == NORM:
        state.norm_table = root.TableRoot.of_words(words)
    else:
        state.softmax_table = TableExponential.of_words(words)


def joined(rows: NDArray[np.int8]) -> NDArray[np.int16]:
    """Words of int16 [n, lanes] of memory rows [2n, lanes]: low bytes, then high ones."""
    low, high = rows[::2].view(np.uint8), rows[1::2]
    return np.asarray(high.astype(np.int16) * 256 + low, np.int16)


def halves(words: NDArray[np.int16]) -> NDArray[np.int8]:
    """Memory rows [2n, lanes] of words of int16 [n, lanes]."""
    rows = np.empty((2 * len(words), words.shape[1]), np.int8)
    rows[::2] = (words & 0xFF).astype(np.uint8).view(np.int8)
    rows[1::2] = (words >> 8).astype(np.int8)
    return rows


def golden_read(state: State, f: Fields, batch: int) -> None:
    """ReadHost."""
    memory, buffer = _addresses(state, f, batch)
    found = state.memory[memory]
    state.space(f["space"])[buffer] = joined(found) if rows_per_word(f) == 2 else found
    state.late[memory] |= state.written[memory]


def golden_write(state: State, f: Fields, batch: int) -> None:
    """WriteHost."""
    if f["space"] == isa.OPERAND:
        raise FaultError(2, "the operand buffer is not written to memory")
    memory, buffer = _addresses(state, f, batch)
    found = state.space(f["space"])[buffer]
    state.memory[memory] = halves(found) if rows_per_word(f) == 2 else found
    state.written[memory] = True


def _addresses(state: State, f: Fields, batch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Memory rows and buffer words, in the order of the transfer."""
    target = state.space(f["space"])
    if f["words"] == 0 or f["chunks"] == 0:
        raise FaultError(2, f"words = {f['words']}, chunks = {f['chunks']}")
    if f["words"] * f["chunks"] > len(target):
        raise FaultError(2, f"{f['words'] * f['chunks']} words of a buffer of {len(target)}")
    each = rows_per_word(f)
    b, c, w = np.ogrid[:batch, : f["chunks"], : f["words"]]
    row = np.ogrid[:batch, : f["chunks"], : f["words"] * each][2]
    buffer = f["buffer"] + b * f["buffer_sample"] + c * f["buffer_step"] + w
    memory = f["memory"] + b * f["memory_sample"] + c * f["memory_step"] + row
    if buffer[-1, -1, -1] >= len(target):
        raise FaultError(3, f"word {buffer[-1, -1, -1]} of {len(target)}")
    if memory[-1, -1, -1] >= len(state.memory):
        raise FaultError(8, f"row {memory[-1, -1, -1]} of {len(state.memory)}")
    return np.asarray(memory, np.int64).reshape(-1), np.asarray(buffer, np.int64).reshape(-1)


UNIT = Unit(
    "transfer",
    (isa.SET_TABLE,),
    golden,
    clocks,
    "weight stream → tables",
)
READ = Unit("read", (isa.READ_HOST,), golden_read, clocks, "memory → on-chip buffer")
WRITE = Unit("write", (isa.WRITE_HOST,), golden_write, clocks, "on-chip buffer → memory")
