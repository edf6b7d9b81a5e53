"""What moves data: ReadHost, WriteHost, SetTable."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from weft import isa
from weft.config import Overlay
from weft.state import ISSUE_CLOCKS, Clocks, FaultError, Fields, State, Unit
from weft.units import requant

PARAMETERS, TAPS, LOOKUP = range(3)


def table_rows(f: Fields) -> int:
    """Weight-stream rows that a SetTable takes."""
    return f["count"] * (isa.PARAMETER_ROWS if f["target"] == PARAMETERS else 1)


def rows_moved(f: Fields, batch: int) -> int:
    """Memory rows that ReadHost or WriteHost moves."""
    return batch * f["chunks"] * f["words"]


def clocks(f: Fields, overlay: Overlay, batch: int, before: Fields) -> Clocks:
    """A row takes `beats` clocks."""
    if "chunks" in f:
        return Clocks(ISSUE_CLOCKS, transfer=rows_moved(f, batch) * overlay.beats)
    return Clocks(ISSUE_CLOCKS, table=table_rows(f) * overlay.beats)


def golden(state: State, f: Fields, batch: int) -> None:
    """SetTable."""
    if f["target"] > LOOKUP or f["count"] == 0:
        raise FaultError(2, f"target = {f['target']}, count = {f['count']}")
    table = (state.parameters, state.taps, state.lookup)[f["target"]]
    end = f["index"] + f["count"]
    if end > len(table):
        raise FaultError(5, f"{isa.TABLES[f['target']]} entry {end - 1} of {len(table)}")
    rows = state.take(table_rows(f)).astype(np.int8).reshape((f["count"], *table.shape[1:]))
    if f["target"] == PARAMETERS:
        rows = requant.legal_shifts(rows)
    table[f["index"] : end] = rows


def golden_read(state: State, f: Fields, batch: int) -> None:
    """ReadHost."""
    memory, buffer = _addresses(state, f, batch)
    state.buffer[buffer] = state.memory[memory]
    state.read[memory] = True


def golden_write(state: State, f: Fields, batch: int) -> None:
    """WriteHost."""
    memory, buffer = _addresses(state, f, batch)
    state.memory[memory] = state.buffer[buffer]
    state.written[memory] = True


def _addresses(state: State, f: Fields, batch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Memory rows and buffer words, in the order of the transfer."""
    if f["words"] == 0 or f["chunks"] == 0:
        raise FaultError(2, f"words = {f['words']}, chunks = {f['chunks']}")
    if rows_moved(f, 1) > len(state.buffer):
        raise FaultError(2, f"{rows_moved(f, 1)} words of a buffer of {len(state.buffer)}")
    b, c, w = np.ogrid[:batch, : f["chunks"], : f["words"]]
    buffer = f["buffer"] + b * f["buffer_sample"] + c * f["buffer_step"] + w
    memory = f["memory"] + b * f["memory_sample"] + c * f["memory_step"] + w
    if buffer[-1, -1, -1] >= len(state.buffer):
        raise FaultError(3, f"word {buffer[-1, -1, -1]} of {len(state.buffer)}")
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
READ = Unit("read", (isa.READ_HOST,), golden_read, clocks, "memory → unified buffer")
WRITE = Unit("write", (isa.WRITE_HOST,), golden_write, clocks, "unified buffer → memory")
