"""The matrix-vector engine: products of a few rows, as fast as memory brings the weights.

It takes the very tiles of the systolic array, so that one copy of the weights serves prefill there
and decoding here, and leaves the same sums. A clock multiplies `stream_rows` tile rows, in all
columns, with as many lanes of one input row; up to 8 rows pass before the next tile rows come.
An Attend takes `operand_group` words of the operand buffer in a clock instead.

Hardware: hls/weft/units/matvec.hpp.
"""

from __future__ import annotations

from math import ceil

import numpy as np

from weft.config import Overlay
from weft.engine import Bytes, Engine, Values
from weft.state import ISSUE_CLOCKS, Clocks, FaultError, Fields
from weft.units import window

ROWS = 8  # of the input: as many accumulators per column
FRACTION = 256  # MatMul.codes counts such parts of a clock, behind MatMul.pace


def is_matvec(f: Fields) -> bool:
    """Whether a MatMul runs on this engine."""
    return f["engine"] == NUMBER


def reads_wide(f: Fields) -> bool:
    """Whether a MatMul reads int16 words of the wide buffer."""
    return is_matvec(f) and f["activation_bits"] == 16


def legal(f: Fields, overlay: Overlay) -> bool:
    """int8 words of the unified buffer or int16 words of the wide one, seen through one tap."""
    bits = f["activation_bits"]
    there = bits == 8 or (bits == 16 and overlay.words_of("wide") > 0)
    return there and f["words"] == 1 and f["shift"] == 0 and window.taps(f) == 1


def latency(overlay: Overlay) -> int:
    """Clocks from a product's operands to its sum: three in a DSP, the adder tree, the sum."""
    return 3 + overlay.stream_rows.bit_length()


def attend_latency(overlay: Overlay) -> int:
    """The same of an Attend, whose sums of keys are trees as wide as a word."""
    return 3 + overlay.lanes.bit_length()


def check_attend(f: Fields, overlay: Overlay) -> None:
    """Raises FaultError for an Attend whose operand can't be read in groups of words."""
    if "matvec" not in overlay.engines:
        raise FaultError(2, f"overlay {overlay.name!r} has no engine matvec")
    for name in ("operand", "operand_block"):
        if f[name] % overlay.operand_group:
            raise FaultError(2, f"{name} {f[name]} is no multiple of {overlay.operand_group}")


def arrival(rows: int, memory_rows: int, overlay: Overlay) -> dict[str, int]:
    """`pace` and `codes` of `rows` tile rows that arrive as `memory_rows` rows of memory.

    Together they are the clocks in which memory and decoder bring `stream_rows` tile rows: at
    least one, which is what the decoder takes.
    """
    ports, groups = overlay.weight_ports, rows // overlay.stream_rows
    parts = -(-memory_rows * overlay.beats * FRACTION // (ports * groups))
    pace, codes = divmod(max(FRACTION, parts), FRACTION)
    return {"pace": pace, "codes": codes}


def clocks(f: Fields, overlay: Overlay, batch: int) -> Clocks:
    """Clocks of one MatMul.

    Each group of tile rows takes a clock per input row, or as long as it takes to arrive. int16
    words leave in clocks of their own: what they are added to is in the wide buffer, too.
    """
    m = window.positions(f, batch)
    groups = f["tiles"] * f["blocks"] * overlay.rows // overlay.stream_rows
    parts = f["pace"] * FRACTION + f["codes"]
    waits = ceil(parts / FRACTION)
    if parts > m * FRACTION:
        waits = -(-groups * parts // FRACTION) - (groups - 1) * m
    leaving = f["tiles"] * m if reads_wide(f) and f["last"] else 0
    return Clocks(
        ISSUE_CLOCKS, matrix=groups * m, weight_shift=waits, drain=latency(overlay) + leaving
    )


def activations(words: Bytes, f: Fields) -> Values:
    """Numbers [M, folds, lanes, 1] of bytes, or of int16, [M, folds, 1, lanes]."""
    numbers = words if words.dtype == np.int16 else words.view(np.int8)
    return np.asarray(np.moveaxis(numbers, -2, -1), np.int64)


ENGINE = Engine(
    "matvec",
    legal,
    activations,
    lambda rows, f: rows.astype(np.int64),
    "up to 8 rows of int8 or int16, stream_rows tile rows at once",
)
NUMBER = 9  # in isa.ENGINES
